"""Reads the generalization that a trained network hides under what it memorised."""

__version__ = "0.1.0.dev0"
