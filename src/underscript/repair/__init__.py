"""A repaired network: its last layer rewritten, retrained, or written as one module."""
