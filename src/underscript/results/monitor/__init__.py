"""The record of a training run: what each sample and each layer did, epoch by epoch."""
