"""Fits of the input are made once for all networks that are decoded with the same data."""

import pytest
import torch

import models
import underscript as us
from small_decodes import GIVEN, X
from underscript.activations.trace import INPUT
from underscript.selection.candidates import LayersFit
from underscript.selection.fitting import Candidate, Fitted
from underscript.selection.kept_rows import KeptRows
from underscript.selection.known_fits import KnownFits

pytestmark = pytest.mark.filterwarnings("ignore:the subspace of class")


def test_a_trace_fits_the_input_once_and_each_layer_again(monkeypatch):
    made: list[str] = []
    fit = LayersFit.fit

    def counting(self, name, *how, **more):
        made.append(name)
        return fit(self, name, *how, **more)

    monkeypatch.setattr(LayersFit, "fit", counting)
    states = {step: models.build("mlp", seed=step).state_dict() for step in (1, 2, 3)}
    us.trace(models.build("mlp"), states, (X, GIVEN), progress=False)
    # Of the rows themselves, and of random features of them.
    assert made.count(INPUT) == 2
    assert made.count("relu1") == made.count("relu2") == 6


def kept(rows: torch.Tensor, labels: torch.Tensor) -> KeptRows:
    found = KeptRows(1, 1 << 20)
    found.add([{"input": rows}], labels, torch.arange(len(rows)).numpy().astype("uint64"))
    return found


def made() -> tuple[dict[Candidate, Fitted], None]:
    scores = torch.rand(3, 2)
    return {Candidate("input", 0, False, 0.1, 0): Fitted(None, [], scores, scores.clone())}, None  # type: ignore[arg-type]


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr("underscript.selection.known_fits._bytes", lambda fits: 10)
    return torch.rand(3, 4), torch.tensor([0, 1, 0])


def test_fits_are_found_by_all_that_they_depend_on(parts):
    rows, labels = parts
    known, (fits, _) = KnownFits(1000), made()
    (candidate,) = fits
    scores = fits[candidate].plain.clone()
    known.fits(kept(rows, labels), "input", 1, lambda: (fits, None))
    # Whoever gets fits changes their scores in place: the next one must not see that.
    fits[candidate].plain.zero_()
    for _ in range(2):
        again, _ = known.fits(kept(rows.clone(), labels), "input", 1, made)
        assert torch.equal(again[candidate].plain, scores)
        again[candidate].plain.zero_()
    moved = rows.clone()
    moved[2, 3] += 1e-6
    for other in (
        (kept(moved, labels), "input", 1),
        (kept(rows, 1 - labels), "input", 1),
        (kept(rows, labels), "input", 2),
        (kept(rows, labels), "other", 1),
    ):
        again, _ = known.fits(*other, made)
        assert not torch.equal(again[candidate].plain, scores)


def test_what_takes_too_much_memory_is_made_again(parts):
    known = KnownFits(15)
    calls = []
    for step in (1, 2, 1, 2):
        known.fits(kept(*parts), "input", step, lambda: calls.append(1) or made())
    assert len(calls) == 3
