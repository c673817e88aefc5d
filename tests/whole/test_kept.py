"""Without an ensemble: rows that are kept, sums in common, and what waits to be asked for."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import models
import underscript as us
from underscript.activations.hooks import Tap
from underscript.activations.kept import Kept
from underscript.activations.stream import Rows
from underscript.data.batches import Batch
from underscript.errors import ModelError
from underscript.linalg import rows as rows_module
from underscript.linalg.rows import ClassRows, RowStore
from underscript.selection.budget import Shares

N = 240
X, Y = models.data("rows", N)
TEST = models.data("rows", 100, seed=1)
HOLD_X, HOLD_Y = models.data("rows", 90, seed=2)
GIVEN = us.corrupt_labels(Y, 0.4, seed=1)
HOLD = (HOLD_X, us.corrupt_labels(HOLD_Y, 0.4, seed=2))
TAPS = [Tap("fc2", "fc2", "output"), Tap("fc1", "fc1", "output")]


def sums(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float64).T @ rows.astype(np.float64)


def whole(problem, width: int) -> np.ndarray:
    """Return a problem's matrix among all features."""
    found = np.zeros((width, width))
    at = np.arange(width) if problem.features is None else problem.features.numpy()
    found[np.ix_(at, at)] = problem.matrix
    return found


@pytest.mark.parametrize("memory", [1 << 30, 5_000])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 1), held=st.booleans())
def test_label_sets_that_share_their_sums_have_the_sums_of_their_rows(memory, seed, noise, held):
    rng = np.random.default_rng(seed)
    rows = rng.random((200, 12), dtype=np.float32)
    rows[:, [2, 7]] = 0
    true = rng.integers(3, size=200)
    labels = np.where(rng.random(200) < noise, rng.integers(3, size=200), true)
    apart = rng.random(200) < 0.1
    first = ClassRows(3, RowStore(12, memory))
    rest, other = first.sharing(), first.sharing()
    for part in np.split(np.arange(200), 4):
        batch = torch.from_numpy(rows[part])
        mine = np.where(apart, -1, labels) if held else labels
        first.update(batch, torch.from_numpy(mine[part]))
        rest.update(batch, torch.from_numpy(np.where(apart, labels, -1)[part]))
        other.update(batch, torch.from_numpy(true[part]))
    sets = [(first, mine), (other, true)]
    if held:
        sets.insert(1, (first.merge(rest), labels))
    for place, (each, _) in enumerate(sets):
        each.before(*(later for later, _ in sets[place + 1 :]))
    for each, expected in sets:
        for k in range(3):
            own = rows[expected == k]
            problem = each.eigenproblem([k])
            np.testing.assert_allclose(whole(problem, 12), sums(own), rtol=1e-13, atol=1e-13)
            np.testing.assert_allclose(problem.mean, own.astype(float).mean(0), rtol=1e-12)
            assert problem.count == len(own)


def test_what_two_label_sets_have_in_common_is_added_up_once(monkeypatch):
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.random((300, 5), dtype=np.float32))
    true = torch.from_numpy(rng.integers(2, size=300))
    labels = torch.where(torch.arange(300) % 4 == 0, 1 - true, true)
    first = ClassRows(2, RowStore(5))
    other = first.sharing()
    first.update(rows, labels)
    other.update(rows, true)
    first.before(other)
    added = 0
    plain = rows_module.add_products

    def counted(product, exact, *more):
        nonlocal added
        added += len(exact)
        plain(product, exact, *more)

    monkeypatch.setattr(rows_module, "add_products", counted)
    for each in (first, other):
        for k in range(2):
            each.eigenproblem([k])
    assert added == 300 + 75


def batch(places) -> Batch:
    return Batch((torch.zeros(len(places), 1),), {}, None, np.asarray(places) + 100, len(places))


@pytest.mark.parametrize("memory", [1 << 30, 1])
@pytest.mark.parametrize("size", [7, 60, 500])
def test_kept_rows_come_back_in_any_order(memory, size):
    rng = np.random.default_rng(0)
    layers = {name: torch.from_numpy(rng.random((N, 4))).float() for name in ("fc1", "fc2")}
    logits = torch.from_numpy(rng.random((N, 3)))
    stores = {name: RowStore(4, memory) for name in layers}
    kept = Kept(stores)
    came = rng.permutation(N)
    for at in np.split(came, range(size, N, size)):
        kept.add(Rows(batch(at), {}, logits[at]))
        for name, store in stores.items():
            store.append(layers[name][at])
    for places in (np.arange(N), came, came[:1], np.array([3, 3, 2])):
        again = kept(batch(places), TAPS)
        assert list(again.layers) == ["fc2", "fc1"]
        for name, rows in again.layers.items():
            assert torch.equal(rows, layers[name][places])
        assert torch.equal(again.logits, logits[places])
    assert kept(batch([5, N]), TAPS) is None
    assert kept(batch([5]), [Tap("fc3", "fc3", "output")]) is None


def decoded(**options):
    """Decode without an ensemble; also return of how many training samples the network ran."""
    net, runs = models.build("mlp", seed=3), []
    net.register_forward_hook(lambda _module, args, _output: runs.append(len(args[0])))
    defaults = {"auto": False, "controls": False, "variance": 0.9, "progress": False}
    found = us.decode(net, (X, GIVEN), test=TEST, true_labels=Y, **(defaults | options))
    beside = 100 + (90 if options.get("holdout") else 0)
    # The first samples, that show what layers there are.
    return found, runs, beside + sum(size for size in runs if size < 4)


@pytest.mark.parametrize("holdout", [None, HOLD])
@pytest.mark.parametrize("evaluate", [("test",), ("train", "test")])
def test_the_network_runs_once_over_each_training_sample(holdout, evaluate):
    _, runs, beside = decoded(holdout=holdout, evaluate=evaluate)
    assert sum(runs) == N + beside


def test_rows_that_are_kept_change_no_number(monkeypatch):
    options = {"holdout": HOLD, "evaluate": ("train", "test"), "probes": ("masc", "velpic")}
    kept, _, _ = decoded(**options)
    # Without room in memory they come from the file.
    monkeypatch.setattr(Shares, "of", lambda _sizes, _memory: Shares(statistics=1))
    plain, runs, beside = decoded(**options)
    assert sum(runs) == N + beside
    pd.testing.assert_frame_equal(kept.table, plain.table)
    pd.testing.assert_frame_equal(kept.label_issues(), plain.label_issues())


def test_label_issues_wait_until_they_are_asked_for():
    found, runs, _ = decoded(holdout=HOLD)
    done = sum(runs)
    assert found.best.layer in repr(found)
    chosen = found.table[found.table["selected"]]
    assert set(chosen["split"]) == {"test", "holdout"}
    own = found.table[(found.table["layer"] == "output") & (found.table["split"] == "train")]
    assert set(own["labels"]) == {"given", "true"}
    assert sum(runs) == done
    issues = found.label_issues()
    assert sum(runs) == done + N
    at_once, _, _ = decoded(holdout=HOLD, evaluate=("train", "test"))
    pd.testing.assert_frame_equal(issues, at_once.label_issues())
    assert found.summary["label_issues"] == at_once.summary["label_issues"]
    assert found.summary["selected"] == at_once.summary["selected"]
    assert found.summary["transfer"] == at_once.summary["transfer"]
    assert found.verdict == at_once.verdict
    assert [each.index for each in found.examples] == [each.index for each in at_once.examples]
    keys = ["split", "labels"]
    mine, theirs = (each.table[each.table["selected"]] for each in (found, at_once))
    pd.testing.assert_frame_equal(
        mine.sort_values(keys, ignore_index=True), theirs.sort_values(keys, ignore_index=True)
    )
    # Nothing is done twice.
    found.transfer()
    assert sum(runs) == done + N


def test_a_saved_run_is_whole(tmp_path):
    found, _, _ = decoded(holdout=HOLD)
    found.save(tmp_path / "run")
    again = us.load(tmp_path / "run", models.build("mlp", seed=3))
    assert isinstance(again.best.module, nn.Module)
    assert len(again.label_issues()) == N
    assert set(again.table[again.table["selected"]]["split"]) == {"train", "test", "holdout"}
    assert again.summary["label_issues"]["n"] == found.summary["label_issues"]["n"]


def test_a_network_that_was_trained_on_is_not_asked_about_its_training_data():
    found, _, _ = decoded(holdout=HOLD)
    with torch.no_grad():
        next(found.best.model.parameters()).add_(1e-3)
    with pytest.raises(ModelError, match="other weights now: decode it again"):
        found.label_issues()


def test_nothing_need_be_evaluated():
    """Then the table is empty, and labels are told if somebody asks."""
    x, y = models.data("rows")
    found = us.decode(
        models.build("mlp"), (x, y), auto=False, controls=False, evaluate=(), progress=False
    )
    assert found.summary["selected"]["width"] > 0
    assert len(found.label_issues()) == len(x)
