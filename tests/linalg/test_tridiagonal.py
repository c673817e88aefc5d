"""Some eigenvectors by LAPACK's steps are the leading ones of all, and threads change nothing."""

import numpy as np
import pytest
import scipy.linalg
import torch

from underscript.linalg import spectra
from underscript.linalg import tridiagonal as _tridiagonal
from underscript.linalg.spectra import Cut, Eigenproblem, solve
from underscript.linalg.tridiagonal import leading_eigenpairs
from underscript.utils.threads import side_by_side


def moments(width: int, rate: float, seed: int = 0, n: int | None = None) -> torch.Tensor:
    """Return a second moment whose eigenvalues fall like j^−rate."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n or 3 * width, width)) * np.arange(1, width + 1) ** (-rate / 2)
    turned = torch.from_numpy(rows @ np.linalg.qr(rng.normal(size=(width, width)))[0])
    return turned.T @ turned


def apart(mine: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the sine of the largest angle between two subspaces."""
    return float(torch.linalg.matrix_norm(mine - exact @ (exact.T @ mine), 2))


@pytest.mark.parametrize(("width", "wanted"), [(300, 1), (300, 120), (301, 301), (2, 1)])
@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_they_are_the_leading_ones(width, wanted, rate):
    matrix = moments(width, rate)
    before = matrix.clone()
    values, vectors = leading_eigenpairs(matrix, lambda _values: wanted)
    assert torch.equal(matrix, before)
    exact, all_vectors = torch.linalg.eigh(matrix)
    np.testing.assert_allclose(values, exact.flip(0), atol=1e-13 * float(exact[-1]))
    assert vectors.shape == (width, wanted)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(wanted), atol=1e-11)
    assert apart(vectors, all_vectors.flip(1)[:, :wanted]) < 1e-8


# No more than half are ever asked for.
@pytest.mark.parametrize("wanted", [150, 200])
def test_repeated_eigenvalues_have_orthonormal_vectors(wanted):
    rng = np.random.default_rng(0)
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(300, 300)))[0])
    matrix = turn @ torch.diag(torch.repeat_interleave(torch.tensor([3.0, 2.0, 0.0]), 100).double())
    found = leading_eigenpairs(matrix @ turn.T, lambda _values: wanted)
    if found is None and wanted > 150:
        pytest.skip("LAPACK gives up on this processor")
    values, vectors = found
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(wanted), atol=1e-11)
    assert apart(vectors, turn[:, :200]) < 1e-12
    np.testing.assert_allclose(values[:200].diff(), [0] * 99 + [-1] + [0] * 99, atol=1e-12)


def test_nothing_is_returned_where_nothing_is_wanted_or_lapack_gives_up(monkeypatch):
    matrix = moments(20, 1.0)
    assert leading_eigenpairs(matrix, lambda _values: 0) is None
    monkeypatch.setattr(_tridiagonal, "_ORTHOGONAL", -1.0)
    assert leading_eigenpairs(matrix, lambda _values: 5) is None

    def gives_up(*_arguments, **_options):
        raise scipy.linalg.LinAlgError

    monkeypatch.setattr(_tridiagonal.scipy.linalg, "eigh_tridiagonal", gives_up)
    assert leading_eigenpairs(matrix, lambda _values: 5) is None


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_solving_in_part_is_solving_whole(share, threads, monkeypatch):
    """Whichever way is taken: Lanczos, some eigenvectors, or all."""
    matrices = [moments(width, 1.6, seed) for seed, width in enumerate((600, 300, 40, 280))]
    matrices[1][:, :30] = matrices[1][:30] = 0

    def problems():
        return [
            Eigenproblem(each.clone(), 900, each.new_zeros(len(each)), "here") for each in matrices
        ]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = solve(problems(), [Cut(share), Cut(rank=1)])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(spectra, "_SOME", 10**9)
    monkeypatch.setattr(spectra, "_WIDE", 10**9)
    for mine, exact in zip(found, solve(problems(), [Cut(share), Cut(rank=1)]), strict=True):
        (rank,) = mine.ranks([Cut(share)])
        assert [rank] == exact.ranks([Cut(share)])
        np.testing.assert_allclose(mine.total, exact.total)
        assert apart(mine.vectors[:, :rank], exact.vectors[:, :rank]) <= 1e-6


def test_most_directions_are_left_to_the_whole_solver(monkeypatch):
    monkeypatch.setattr(spectra, "leading_eigenpairs", lambda *_: pytest.fail("not asked for"))
    matrix = moments(300, 0.1)
    problem = Eigenproblem(matrix, 900, matrix.new_zeros(300), "here")
    (found,) = solve([problem], [Cut(0.99)], likely_rank=280)
    assert found.whole


def test_jobs_side_by_side_keep_their_order_and_end_as_they_found_it():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with side_by_side(5) as run:
            assert list(run(lambda job: (job, torch.get_num_threads()), range(5))) == [
                (job, 1) for job in range(5)
            ]
        with pytest.raises(ZeroDivisionError), side_by_side(2) as run:
            list(run(lambda job: 1 / job, [1, 0]))
        assert torch.get_num_threads() == 2
        with side_by_side(1) as run:
            assert list(run(lambda _job: torch.get_num_threads(), [0])) == [2]
    finally:
        torch.set_num_threads(before)
