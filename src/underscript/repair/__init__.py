"""A repaired network: its last layer rewritten, retrained, or written as one module."""

from .read_out import ReadOut, Target, find_read_out, relabelled, transfer

__all__ = ["ReadOut", "Target", "find_read_out", "relabelled", "transfer"]
