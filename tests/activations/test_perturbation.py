"""Perturbed inputs: what happens to a sample depends on the sample alone, and means the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from perturbed import Wrapped, batch_of, chosen, images, padded, rows, texts
from underscript.activations.perturbation import Perturbation
from underscript.activations.perturbation.images import Shifts, image_axes, moved_images
from underscript.activations.perturbation.numbers import Noise, gaussian, spreads
from underscript.activations.perturbation.words import WordsDropped
from underscript.data.batches import Batch
from underscript.errors import DataError
from underscript.utils.hashing import below, fractions, mixed, mixed_tensor


def shifts(flips: bool = False, seed: int = 0, **axes: tuple[int, int]) -> Perturbation:
    change = Shifts(axes or {"0": (2, 3)}, flips)
    return Perturbation(change.name, True, seed, (change,))


# Numbers by chance ----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_tensors_are_mixed_as_arrays_are(numbers):
    array = np.array(numbers, dtype=np.uint64)
    found = mixed_tensor(torch.from_numpy(array.view(np.int64).copy()))
    np.testing.assert_array_equal(found.numpy().view(np.uint64), mixed(array))


def test_mixed_numbers_are_spread_evenly():
    numbers = mixed_tensor(torch.arange(60_000))
    counts = torch.bincount(below(numbers, 6))
    assert len(counts) == 6
    assert (counts - 10_000).abs().max() < 400  # four standard errors
    found = fractions(numbers)
    assert found.min() >= 0
    assert found.max() < 1
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01)


# Images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "axes"),
    [
        ((2, 3, 32, 32), torch.float32, (2, 3)),
        ((2, 1, 8, 8), torch.float64, (2, 3)),
        ((2, 4, 8, 9), torch.float16, (2, 3)),
        ((2, 28, 28), torch.float32, (1, 2)),
        ((2, 28, 28), torch.uint8, (1, 2)),
        ((2, 3, 32, 32), torch.uint8, (2, 3)),
        ((2, 1, 8, 8), torch.int64, (2, 3)),
        ((2, 32, 32, 3), torch.float32, (1, 2)),
        ((2, 28, 28), torch.int64, None),
        ((2, 28, 28), torch.bool, None),
        ((2, 5, 8, 8), torch.float32, None),
        ((2, 3, 1, 1), torch.float32, None),
        ((2, 3, 8, 2), torch.float32, None),
        ((2, 64), torch.float32, None),
        ((2,), torch.float32, None),
    ],
)
def test_what_counts_as_an_image(shape, dtype, axes):
    assert image_axes(torch.zeros(shape).to(dtype)) == axes


@pytest.mark.parametrize("side", [4, 8, 15, 16, 28, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8])
@pytest.mark.parametrize("strength", [0.3, 1.0, 2.0])
def test_shifts_keep_shape_type_and_range(side, dtype, strength):
    x = images(30, 2, side, side + 1)
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    before = x.clone()
    batch = batch_of(x)
    made = shifts(flips=True)(batch, 0, strength)
    (found,) = made.args
    assert torch.equal(x, before)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert (made.size, made.labels is batch.labels, made.index is batch.index) == (30, True, True)
    assert found.min() >= x.min()
    assert found.max() <= x.max()
    assert float(found.double().mean()) == pytest.approx(float(x.double().mean()), rel=0.05)


def plain_shift(image: Tensor, down: float, right: float) -> Tensor:
    """Return one image (height, width) moved, pixel by pixel."""
    height, width = image.shape

    def at(row: int, column: int) -> float:
        for _ in range(4):
            row = -row if row < 0 else 2 * (height - 1) - row if row >= height else row
            column = (
                -column if column < 0 else 2 * (width - 1) - column if column >= width else column
            )
        return float(image[row, column])

    found = torch.empty_like(image)
    for row in range(height):
        for column in range(width):
            y, x = row + down, column + right
            top, left = int(np.floor(y)), int(np.floor(x))
            a, b = y - top, x - left
            found[row, column] = (
                (1 - a) * (1 - b) * at(top, left)
                + a * (1 - b) * at(top + 1, left)
                + (1 - a) * b * at(top, left + 1)
                + a * b * at(top + 1, left + 1)
            )
    return found


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 16), (24, 9)])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_view_is_a_shift_by_up_to_an_eighth_and_never_none(height, width, mirror):
    x = images(1, 1, height, width).double()
    flip = torch.full((1,), mirror)
    down = [n / 4 for n in range(-4, 5)] if height < 16 else range(-(height // 8), height // 8 + 1)
    right = [n * width / 32 for n in range(-4, 5)] if width < 16 else range(-2, 3)
    if height < 16:
        down = [n * height / 32 for n in range(-4, 5)]
    every = {}
    for dy in down:
        for dx in right:
            moved = plain_shift(x[0, 0], dy, dx)
            every[dy, dx] = moved.flip(1) if mirror else moved
    seen = set()
    for view in range(2 * len(every)):
        found = moved_images(x, mixed_tensor(torch.tensor([view])), 1.0, flip)[0, 0]
        near = [key for key, each in every.items() if torch.allclose(each, found, atol=1e-6)]
        assert len(near) == 1
        seen.add(near[0])
    assert (0, 0) not in seen
    assert len(seen) > len(every) / 2


@given(seed=st.integers(0, 2**32 - 1), side=st.sampled_from([8, 16]), size=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_what_happens_to_a_sample_depends_on_no_other(seed, side, size):
    x = images(12, 1, side, side, seed)
    change = shifts(flips=True, seed=seed)
    (whole,) = change(batch_of(x), 3).args
    parts = [change(batch_of(part), 3).args[0] for part in x.split(size)]
    assert torch.equal(torch.cat(parts), whole)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(12))
    assert torch.equal(change(batch_of(x[order]), 3).args[0], whole[order])


def test_views_seeds_and_strengths_differ():
    batch = batch_of(images(60, height=32, width=32))
    found = [
        shifts()(batch, 0).args[0],
        shifts()(batch, 1).args[0],
        shifts(seed=1)(batch, 0).args[0],
        shifts()(batch, 0, 2.0).args[0],
    ]
    for number, one in enumerate(found):
        for other in found[:number]:
            same = (one == other).flatten(1).all(1).double().mean()
            assert same < 0.15
    assert torch.equal(found[0], shifts()(batch, 0).args[0])
    for strength in (0.0, -1.0, float("nan")):
        with pytest.raises(DataError, match="strength: expected a number above 0"):
            shifts()(batch, 0, strength)


def test_half_are_flipped_and_shifts_are_even():
    ramp = torch.arange(16.0).expand(400, 1, 16, 16) + torch.rand(400, 1, 1, 1)
    (found,) = shifts(flips=True)(batch_of(ramp), 0).args
    falling = found[:, 0, 8, 8] < found[:, 0, 8, 7]
    assert 0.4 < falling.double().mean() < 0.6
    moved = shifts()(batch_of(ramp), 0).args[0][:, 0, 8, 8] - ramp[:, 0, 8, 8]
    counts = torch.bincount((moved + 2).round().long())
    assert len(counts) == 5
    assert counts.min() > 40


def test_all_images_of_a_sample_move_alike_whatever_the_order_of_the_inputs():
    x = images(20, 1)
    axes = {"left": (2, 3), "right": (1, 2)}
    change = shifts(flips=True, **axes)
    one = change(batch_of(left=x, right=x[:, 0], age=torch.ones(20)), 0).kwargs
    other = change(batch_of(age=torch.ones(20), right=x[:, 0], left=x), 0).kwargs
    assert list(other) == ["age", "right", "left"]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(one["left"][:, 0], one["right"])
    assert torch.equal(one["age"], torch.ones(20))


def test_channels_last_are_shifted_as_channels_first():
    x = images(20)
    last = shifts(**{"0": (1, 2)})(batch_of(x.permute(0, 2, 3, 1).contiguous()), 0)
    assert last.args[0].is_contiguous()
    assert last.args[0].shape == (20, 16, 16, 3)
    assert not torch.equal(last.args[0], x.permute(0, 2, 3, 1))


# Words ----------------------------------------------------------------------------------------


def words_dropped(seed: int = 0) -> Perturbation:
    return Perturbation("words dropped", True, seed, (WordsDropped(),))


def places(batch: Batch, before: Batch) -> list[list[bool]]:
    """Return for each text which of its words are kept."""
    masks = zip(batch.kwargs["attention_mask"], before.kwargs["attention_mask"], strict=True)
    return [new[old != 0].bool().tolist() for new, old in masks]


@given(seed=st.integers(0, 2**32 - 1), strength=st.sampled_from([0.5, 1.0, 2.0, 9.0]))
@settings(max_examples=30, deadline=None)
def test_about_a_fifth_of_the_words_are_dropped_but_never_the_ends(seed, strength):
    written = texts(seed=seed)
    before = padded(written)
    after = words_dropped(seed)(before, 0, strength)
    assert after.kwargs["attention_mask"].dtype == torch.int64
    assert after.kwargs["input_ids"] is before.kwargs["input_ids"]
    assert (after.kwargs["attention_mask"] <= before.kwargs["attention_mask"]).all()
    for text, kept in zip(written, places(after, before), strict=True):
        assert kept[0]
        assert kept[-1]
        dropped, n = kept.count(False), len(text)
        assert dropped == min(max(round(0.2 * strength * n), 1), n // 2, max(n - 2, 0))


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_a_text_loses_the_same_words_whatever_its_padding_batch_and_order(seed, size):
    written, change = texts(12, seed), words_dropped(seed)
    expected = places(change(padded(written), 2), padded(written))
    for side in ("right", "left"):
        for pad in (0, 7):
            found = []
            for start in range(0, 12, size):
                part = written[start : start + size]
                before = padded(part, max(map(len, part)) + 3, side, pad)
                found += places(change(before, 2), before)
            assert found == expected
    batch = padded(written)
    other = batch_of(**dict(reversed(batch.kwargs.items())))
    assert places(change(other, 2), batch) == expected


def test_every_inner_word_is_dropped_in_some_view_and_views_differ():
    batch = padded([list(range(1, 13))])
    found = [tuple(places(words_dropped()(batch, view), batch)[0]) for view in range(60)]
    assert len(set(found)) > 20
    assert [any(not kept[place] for kept in found) for place in range(12)] == [
        False,
        *[True] * 10,
        False,
    ]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_masks_keep_their_type_and_embedded_words_are_no_numbers(dtype):
    before = padded(texts())
    mask = before.kwargs["attention_mask"].to(dtype)
    batch = batch_of(inputs_embeds=torch.randn(40, 24, 3), attention_mask=mask)
    after = words_dropped()(batch, 0)
    assert after.kwargs["attention_mask"].dtype == dtype
    assert not torch.equal(after.kwargs["attention_mask"], mask)

    def forward(inputs_embeds, attention_mask):
        return inputs_embeds[:, 0]

    found, _ = chosen(Wrapped(forward, nn.Embedding(2, 2)), batch)
    assert (found.name, found.fits) == ("words dropped", True)


# Numbers --------------------------------------------------------------------------------------


def test_noise_is_half_a_standard_deviation_of_each_column():
    scale = torch.tensor([1.0, 10.0, 0.0, 0.1])
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4000, 4))).float() * scale + 5
    change = Perturbation("noise", False, 0, (Noise(spreads({"0": x})),))
    for strength in (1.0, 0.2):
        added = change(batch_of(x), 0, strength).args[0] - x
        torch.testing.assert_close(added.std(0), strength * scale, rtol=0.05, atol=1e-6)
        assert (added.mean(0).abs() <= 0.05 * strength * scale + 1e-6).all()
    first, second = (change(batch_of(x), view).args[0] - x for view in (0, 1))
    both = torch.stack([first[:, 0], second[:, 0], first[:, 1], first[:, 3]])
    assert (torch.corrcoef(both) - torch.eye(4)).abs().max() < 0.07


def test_noise_is_normal():
    drawn = gaussian(mixed_tensor(torch.arange(3000)), 7)
    assert drawn.shape == (3000, 7)
    assert drawn.dtype == torch.float32
    normal = torch.distributions.Normal(0, 1)
    for at in (-2.0, -1.0, 0.0, 1.0, 2.0):
        share = float((drawn < at).double().mean())
        assert share == pytest.approx(float(normal.cdf(torch.tensor(at))), abs=0.015)
    assert (torch.corrcoef(drawn.T) - torch.eye(7)).abs().max() < 0.08


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6,), (3, 5), ()])
def test_noise_keeps_shape_and_type_whatever_the_batch(dtype, shape):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(20, *shape))).to(dtype)
    change = Perturbation("noise", False, 0, (Noise(spreads({"0": x})),))
    whole = change(batch_of(x), 0).args[0]
    assert (whole.shape, whole.dtype) == (x.shape, dtype)
    parts = [change(batch_of(part), 0).args[0] for part in x.split(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(change(batch_of(x.flip(0)), 0).args[0], whole.flip(0))


def test_numbers_of_another_shape_are_one_clear_line():
    change = Perturbation("noise", False, 0, (Noise(spreads({"0": rows()})),))
    with pytest.raises(DataError, match=r"of shape \(6,\), as at first; found \(5,\)"):
        change(batch_of(rows()[:, :5]), 0)
