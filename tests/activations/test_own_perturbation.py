"""A user's own perturbation: it takes what the network takes, and must give the same."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from perturbed import Adds, batch_of, chosen, rows
from underscript.errors import DataError


def test_an_own_function_takes_what_the_network_takes():
    seen = []

    def own(given):
        seen.append(given)
        if isinstance(given, dict):
            return {name: value * 0.9 for name, value in given.items()}
        return given * 0.9 if isinstance(given, Tensor) else tuple(value * 0.9 for value in given)

    for batch in (batch_of(rows()), batch_of(rows(), rows()), batch_of(a=rows(), b=rows())):
        found, messages = chosen(Adds(), batch, own)
        assert (found.name, found.fits, messages) == ("own", True, [])
        made = found(batch, 0)
        values = [*made.args, *made.kwargs.values()]
        assert all(torch.equal(value, rows() * 0.9) for value in values)
        assert made.index is batch.index
        assert type(seen[-1]) is (Tensor if len(values) == 1 else tuple if made.args else dict)


def test_an_own_function_may_draw_and_leaves_the_random_states():
    def own(x):
        x += 0.1 * torch.randn_like(x)  # in place, too
        return x + 0.01 * random.random() + 0.01 * np.random.random()  # noqa: NPY002

    x = rows()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    found, _ = chosen(Adds(), batch_of(x), own)
    first, again, other = (found(batch_of(x), view).args[0] for view in (0, 0, 1))
    assert torch.equal(x, rows())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:50], found(batch_of(x[50:]), 0).args[0])
    assert random.getstate() == states[0]
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(states[1], after, strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])


def raises(_given):
    raise ValueError("no such picture\nat all")


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (lambda x: x[:, :3], r"expected a tensor of float32, shape \(100, 6\).*shape \(100, 3\)"),
        (
            lambda x: x[:99],
            r"shape \(100, 6\), as it was given; found .*\(99, 6\). Keep the number",
        ),
        (lambda x: x.double(), "expected a tensor of float32.*found a tensor of float64"),
        (lambda x: x / 0, "expected finite numbers; found NaN or infinite ones in the sample at"),
        (lambda x: x.index_fill(0, torch.tensor(7), np.nan), "in the sample at index 7"),
        (lambda x: x.numpy(), "expected a tensor; found ndarray"),
        (lambda x: None, "expected a tensor; found NoneType"),
        (lambda x: {"x": x}, "expected a tensor; found a dict of x"),
        (raises, "index 0 raised ValueError: no such picture$"),
    ],
)
def test_an_own_function_that_gives_something_else_is_one_clear_line(own, says):
    states = random.getstate(), torch.get_rng_state()
    with pytest.raises(DataError, match=says) as caught:
        chosen(Adds(), batch_of(rows()), own)
    assert "\n" not in str(caught.value)
    assert "perturb: your function" in str(caught.value)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


@pytest.mark.parametrize(
    ("batch", "own", "says"),
    [
        (batch_of(rows(), rows()), lambda x: x[0], "expected a tuple of 2, as it was given; found"),
        (
            batch_of(a=rows(), b=rows()),
            lambda x: {"a": x["a"]},
            "expected a dict of a, b.*dict of a",
        ),
        (
            batch_of(a=rows(), b=rows()),
            lambda x: {"a": x["a"], "b": x["b"][1:]},
            r"input 'b': expected a tensor of float32, shape \(100, 6\)",
        ),
    ],
)
def test_an_own_function_must_give_all_inputs(batch, own, says):
    with pytest.raises(DataError, match=says):
        chosen(Adds(), batch, own)


def test_an_own_function_that_destroys_meaning_is_none_and_says_so():
    found, (message,) = chosen(Adds(), batch_of(rows(300)), torch.randn_like)
    assert found is None
    assert "of 300 inputs with your function as it does without" in message


def test_an_own_function_that_changes_nothing_is_none_and_says_so():
    found, (message,) = chosen(Adds(), batch_of(rows()), lambda x: x)
    assert found is None
    assert "not perturbed: of 100 inputs your function changed none" in message
