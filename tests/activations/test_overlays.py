"""Overlays: other images show a little through each, the same ones whatever the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbed import ByRows, batch_of, blobs, chosen, images, padded, rows, texts
from underscript.activations.perturbation import Perturbation
from underscript.activations.perturbation.overlays import Overlays
from underscript.errors import DataError


def overlays(x: torch.Tensor, seed: int = 0) -> Perturbation:
    change = Overlays({"0": x})
    return Perturbation(change.name, True, seed, (change,))


def test_three_tenths_of_each_pixel_are_those_of_one_other_image():
    others, x = images(7, seed=1), images(30)
    (moved,) = overlays(others)(batch_of(x), 0).args
    possible = torch.stack([0.7 * x + 0.3 * other for other in others])
    apart = (possible - moved).abs().amax((2, 3, 4))
    assert apart.min(0).values.max() < 1e-6
    # Which one is drawn by chance: no image is shown through all.
    assert len(set(apart.argmin(0).tolist())) > 3
    (weak,) = overlays(others)(batch_of(x), 0, strength=0.1).args
    torch.testing.assert_close(weak - x, 0.1 * (moved - x), rtol=1e-3, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 12))
@settings(max_examples=10, deadline=None)
def test_an_image_is_overlaid_alike_whatever_its_batch_and_order(seed, size):
    x, change = images(12), overlays(images(20, seed=3), seed)
    (whole,) = change(batch_of(x), 2).args
    parts = [change(batch_of(part), 2).args[0] for part in x.split(size)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(change(batch_of(x.flip(0)), 2).args[0], whole.flip(0))
    assert not torch.equal(change(batch_of(x), 1).args[0], whole)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.float64])
def test_images_keep_their_type_and_whole_numbers_are_rounded(dtype):
    x = (images(20) * 200).to(dtype)
    (moved,) = overlays(x)(batch_of(x), 0).args
    assert (moved.dtype, moved.shape) == (dtype, x.shape)
    exact = np.stack([0.7 * x[3].double() + 0.3 * other.double() for other in x])
    apart = np.abs(exact - moved[3].double().numpy()).max((1, 2, 3)).min()
    assert apart <= (0.1 if dtype.is_floating_point else 0.501)


def test_overlays_are_chosen_by_their_word_on_top_of_shifts_and_flips():
    found, messages = chosen(ByRows(3), batch_of(blobs(2)), "overlays")
    assert (found.name, found.fits, messages) == ("shifts and flips, overlays", True, [])
    assert found.shifts
    plain, _ = chosen(ByRows(3), batch_of(blobs(2)))
    (shifted,), (both,) = (each(batch_of(blobs(2)), 0).args for each in (plain, found))
    assert not torch.equal(shifted, both)
    (only,) = [change for change in found.changes if isinstance(change, Overlays)]
    assert len(only.images["0"]) == 200


@pytest.mark.parametrize("batch", [batch_of(rows()), padded(texts())], ids=["numbers", "words"])
def test_other_inputs_than_images_are_one_clear_line(batch):
    with pytest.raises(DataError, match="perturb: expected images, for overlays; found") as caught:
        chosen(ByRows(3), batch, "overlays")
    assert "\n" not in str(caught.value)


def test_images_of_another_shape_are_one_clear_line():
    change = overlays(images(9))
    with pytest.raises(DataError, match=r"of shape \(3, 16, 16\), as at first; found \(3, 8, 16\)"):
        change(batch_of(images(4, height=8)), 0)
