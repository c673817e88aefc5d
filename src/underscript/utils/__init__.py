"""Shared helpers: labels and class names, files, devices, processes, progress."""
