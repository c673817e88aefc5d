"""Perturbations: changes to inputs that keep their meaning.

A memorised label depends on the exact input, knowledge does not: what a network still predicts for
a perturbed input is not memorised.
"""

from .choosing import (
    FLIP_KEEPS,
    WORDS,
    Perturbation,
    check_choice,
    choose_perturbation,
    perturbation_by_kind,
)

__all__ = [
    "FLIP_KEEPS",
    "WORDS",
    "Perturbation",
    "check_choice",
    "choose_perturbation",
    "perturbation_by_kind",
]
