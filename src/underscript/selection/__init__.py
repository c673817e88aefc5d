"""Which decoder reads a network, chosen with noisy labels only: candidates, scored out of fold."""

from .choice import Key, Score, Selection, ahead_of, clearly_best, held_out_tenth, select

__all__ = [
    "Key",
    "Score",
    "Selection",
    "ahead_of",
    "clearly_best",
    "held_out_tenth",
    "select",
]
