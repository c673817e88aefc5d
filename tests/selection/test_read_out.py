"""The read-out is the logistic regression that scikit-learn fits, on labels that may be soft."""

import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from underscript.selection import read_out
from underscript.selection.read_out import fit_read_out
from underscript.utils.distributed import ALONE

N, WIDTH, K = 600, 7, 4
CPU = torch.device("cpu")


def rows(seed=0):
    """Draw rows whose columns are of several scales, and labels that depend on some of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, WIDTH))
    labels = (x @ rng.normal(size=(WIDTH, K)) + rng.gumbel(size=(N, K))).argmax(1)
    return (5 + x * np.logspace(-1, 1, WIDTH)).astype(np.float32), labels


def soft(labels, seed=0):
    """Return chances of each class, mostly of the label."""
    drawn = np.random.default_rng(seed).dirichlet(np.ones(K), len(labels))
    return (0.7 * np.eye(K)[labels] + 0.3 * drawn).astype(np.float32)


def fitted(x, chances, cuts=(), processes=ALONE):
    blocks = zip(np.split(x, cuts), np.split(chances, cuts), strict=True)
    tensors = ((torch.from_numpy(a), torch.from_numpy(b)) for a, b in blocks)
    return fit_read_out(tensors, (len(x), x.shape[1], chances.shape[1]), processes, CPU)


def of_sklearn(x, labels, weights=None):
    """Return log-odds of rows, about each row's mean, in float64.

    The weights' variance is C, of columns on one scale.
    """
    x = x.astype(np.float64)
    spread = x.std(0)
    scaled = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    model = LogisticRegression(C=0.25, tol=1e-8, max_iter=1000)
    return about(model.fit(scaled, labels, weights).decision_function(scaled))


def about(scores):
    scores = np.asarray(scores, dtype=np.float64)
    return scores - scores.mean(1, keepdims=True)


@pytest.fixture
def to_the_end(monkeypatch):
    """Let steps go on for as long as they gain anything."""
    monkeypatch.setattr(read_out, "_GAIN", 1e-10)


def test_steps_end_when_the_next_one_gains_next_to_nothing(monkeypatch):
    x, labels = rows()
    chances = np.eye(K, dtype=np.float32)[labels]
    early = about(fitted(x, chances)(torch.from_numpy(x)))
    monkeypatch.setattr(read_out, "_GAIN", 1e-10)
    late = about(fitted(x, chances)(torch.from_numpy(x)))
    assert 0 < np.abs(early - late).max() < 0.05


@pytest.mark.usefixtures("to_the_end")
def test_hard_labels_give_scikit_learns_regression():
    x, labels = rows()
    log_odds = about(fitted(x, np.eye(K, dtype=np.float32)[labels])(torch.from_numpy(x)))
    np.testing.assert_allclose(log_odds, of_sklearn(x, labels), rtol=0, atol=1e-3)


@pytest.mark.usefixtures("to_the_end")
def test_a_soft_label_counts_as_one_sample_of_each_class_by_its_chance():
    x, labels = rows()
    chances = soft(labels)
    log_odds = about(fitted(x, chances)(torch.from_numpy(x)))
    every = np.tile(np.arange(K), N)
    expected = of_sklearn(np.repeat(x, K, axis=0), every, chances.astype(np.float64).ravel())
    np.testing.assert_allclose(log_odds, expected[::K], rtol=0, atol=1e-3)


@pytest.mark.parametrize("cuts", [(250,), (1, 2, 500), (0, 300, 300)])
def test_blocks_are_one_data_set(cuts):
    x, labels = rows()
    chances = soft(labels)
    whole, parts = fitted(x, chances), fitted(x, chances, cuts)
    torch.testing.assert_close(parts.coefficients, whole.coefficients)
    torch.testing.assert_close(parts.intercepts, whole.intercepts)


class InThreads:
    """A processes of threads that add up as processes do."""

    size = 2

    def __init__(self):
        self.barrier, self.sent = threading.Barrier(2, timeout=20), {}

    def total(self, values):
        self.sent[threading.get_ident()] = values.clone()
        self.barrier.wait()
        result = sum(self.sent[each] for each in sorted(self.sent))
        self.barrier.wait()
        return result

    def together(self):
        return nullcontext()


@pytest.mark.parametrize("cut", [0, 170])
def test_processes_that_share_the_rows_find_the_same(cut):
    x, labels = rows()
    chances, processes, result = soft(labels), InThreads(), {}

    def work(part):
        result[part.start] = fitted(x[part], chances[part], processes=processes)

    threads = [threading.Thread(target=work, args=(p,)) for p in (slice(0, cut), slice(cut, N))]
    if not cut:
        threads[0] = threading.Thread(target=work, args=(slice(N, N),))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, other = result.values()
    assert torch.equal(one.coefficients, other.coefficients)
    assert torch.equal(one.intercepts, other.intercepts)
    expected = about(fitted(x, chances)(torch.from_numpy(x)))
    np.testing.assert_allclose(about(one(torch.from_numpy(x))), expected, rtol=0, atol=1e-3)


def test_of_too_many_rows_every_so_many_are_used_in_whatever_blocks(monkeypatch):
    x, labels = rows()
    chances = soft(labels)
    expected = fitted(x[::3].copy(), chances[::3].copy())
    monkeypatch.setattr(read_out, "_PRODUCTS", N * WIDTH * K // 3)
    for cuts in ((), (100, 101, 350)):
        result = fitted(x, chances, cuts)
        torch.testing.assert_close(result.coefficients, expected.coefficients)
        torch.testing.assert_close(result.intercepts, expected.intercepts)


def test_a_column_that_does_not_vary_says_nothing():
    x, labels = rows()
    chances = soft(labels)
    constant = np.concatenate([x, np.full((N, 1), 3, np.float32)], 1)
    result, without = fitted(constant, chances), fitted(x, chances)
    torch.testing.assert_close(result.coefficients[:, -1], torch.zeros(K))
    torch.testing.assert_close(result.coefficients[:, :-1], without.coefficients)
    no_rows = fitted(x[:0], chances[:0])
    assert bool(torch.isfinite(no_rows.coefficients).all())
