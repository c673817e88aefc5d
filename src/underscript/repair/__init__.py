"""Repair a network: rewrite its last layer, retrain it, or write it as one module."""
