"""Memory is measured where references look at another perturbed view than what they judge."""

import pytest
import torch
from planted import fits_of, labels_that_are_hard_to_tell
from torch import Tensor

from underscript.selection.measured_memory import measure_memory
from underscript.selection.memorisation import Reference

N, K = 6000, 10


class View:
    """Scores of a second view, by layer."""

    def __init__(self, scores: list[Tensor], layers: list[str]):
        self.rows, self.layers = scores, layers

    def scores(self, layer: str, step: int) -> Tensor:
        at = [at for at, each in enumerate(self.layers) if each == layer]
        return torch.stack([self.rows[k] for k in at]).sum(0)[::step]


def in_two_views(weak, wrong=0.7, remembers=(0.0, 0.3, 0.9), seed=0):
    """Draw scores of three layers in two perturbed views, which hide what they hide from all.

    On perturbed inputs memory adds only `weak` to the score of a given label.
    """
    draw = torch.Generator().manual_seed(seed)
    first, true, given = labels_that_are_hard_to_tell(N, K, wrong, draw)
    of_true, of_given = (torch.nn.functional.one_hot(each, K) for each in (true, given))
    hides = [0, *(2.5 * torch.randn(2, N, K, generator=draw))]
    views, layers = ([], [], []), []
    for depth, share in enumerate(remembers):
        known, memory = torch.rand(2, N, 1, generator=draw)
        known, memory = known < 0.2 * depth, memory < share
        for _ in range(3):
            for scores, adds, hidden in zip(views, (8, weak, weak), hides, strict=True):
                noisy = first + 0.3 * torch.randn(N, K, generator=draw)
                scores.append(noisy + 4 * known * of_true + adds * memory * of_given + hidden)
            layers.append(f"fc{depth}")
    return *views, true, given, layers


@pytest.mark.parametrize("weak", [1.0, 1.5, 2.5])
def test_what_a_view_hides_from_all_layers_is_seen_in_another(weak):
    plain, moved, other, true, given, layers = in_two_views(weak)
    fits = fits_of(plain, moved, given, layers)
    # What true labels tell (oracle) of the last layer.
    oracle = Reference(given, true, (true == given).double(), K)
    after, before = (oracle.excess(torch.stack(each[-3:]).argmax(2)) for each in (moved, plain))
    planted = float((after.sum(1) / before.sum(1)).max())
    added = float(oracle.raised(moved[-1]).sum() / oracle.raised(plain[-1]).sum())
    # In the view that is measured, the labels that look wrong are those that it hides.
    misled = measure_memory(fits, perturbed=True)
    assert misled.likely < 0.8 * planted
    assert misled.left < 0.7 * added
    # References are upper limits.
    memory = measure_memory(fits, perturbed=True, another=View(other, layers))
    assert planted <= memory.likely <= planted + 0.1
    assert added <= memory.left <= added + 0.1
