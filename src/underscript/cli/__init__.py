"""The command line. Nothing here imports torch before the arguments are read."""

from .command_line import main

__all__ = ["main"]
