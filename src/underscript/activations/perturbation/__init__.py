"""Inputs changed so that they still mean the same.

Memory is keyed to the exact input, knowledge is not: what a network still knows of a changed input
is not memorised.
"""

from .choosing import FLIP_KEEPS, Perturbation, choose_perturbation

__all__ = ["FLIP_KEEPS", "Perturbation", "choose_perturbation"]
