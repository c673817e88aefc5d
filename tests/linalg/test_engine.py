"""What makes the engine fast changes no answer: screening, leading eigenvectors, cuts, budgets."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from reference import relu_rows
from underscript import MinimumAngleSubspaceClassifier as Masc
from underscript.errors import DataError
from underscript.linalg import bases, moments, spectra
from underscript.linalg.moments import ClassMoments, budgets, statistics_for
from underscript.linalg.precision import exact_products
from underscript.linalg.products import all_finite, in_float64
from underscript.linalg.rows import ClassRows, RowStore
from underscript.linalg.screening import RoundedColumns, RoundedRows, largest_singular_value
from underscript.linalg.spectra import Cut, Eigenproblem, leading, positive_definite, solve
from underscript.probes.classifier import fit_together
from underscript.probes.subspace import nearest_together
from underscript.utils.memory_size import as_bytes

few_examples = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def fitted(X, y, *shares, path=ClassMoments, dtype=torch.float32):
    """Decoders at several shares, from one decomposition."""
    made = path(int(y.max()) + 1, X.shape[1])
    made.update(torch.from_numpy(X), torch.from_numpy(y))
    decoders = {share: Masc(variance=share) for share in shares}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*whole space.*")
        fit_together(made, list(decoders.values()), dtype=dtype)
    return decoders


@pytest.fixture
def screening(monkeypatch):
    """Screen from the first row on, whatever this machine's bfloat16 is worth."""
    monkeypatch.setattr(bases, "_ROWS_BEFORE_SCREENING", 0)
    monkeypatch.setattr(bases, "_WORTH_SCREENING", 1e9)
    monkeypatch.setattr(bases, "bfloat16_pays", lambda _kind: True)


# --- screening ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("screening")
@pytest.mark.parametrize("share", [0.3, 0.75, 0.9, 0.99])
@pytest.mark.parametrize(("width", "n_classes"), [(40, 3), (130, 10), (300, 2)])
def test_screened_answers_are_the_full_ones(share, width, n_classes, monkeypatch):
    X, y = relu_rows(900, width, n_classes, dtype=np.float32)
    decoder = fitted(X, y, share)[share]
    rows = torch.from_numpy(X)
    screened = []
    whole = bases.ClassBases._screened
    monkeypatch.setattr(bases.ClassBases, "_screened", lambda *a: screened.append(1) or whole(*a))
    found = decoder.nearest(rows)
    assert screened
    values = decoder.decide(rows)
    best = values.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-6
    assert torch.equal(found[clear], values.argmax(1)[clear])
    assert clear.float().mean() > 0.99


@pytest.mark.usefixtures("screening")
def test_screened_answers_agree_with_the_literal_reference():
    X, y = relu_rows(1200, 90, 8, dtype=np.float32)
    literal = reference.masc(X, y, 0.9)
    decoder = fitted(X, y, 0.9)[0.9]
    same = decoder.nearest(torch.from_numpy(X)).numpy() == literal.predict(X)
    assert same[~literal.ties(X)].mean() >= 0.999


@pytest.mark.usefixtures("screening")
@few_examples
@given(seed=seeds, scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]), width=st.integers(5, 60))
def test_bounds_hold_the_truth(seed, scale, width):
    """For any rows, the squared cosines lie within what the rounded product promises."""
    X, y = relu_rows(120, width, 4, seed, dtype=np.float32)
    X += np.float32(0.05) * np.random.default_rng(seed).random(X.shape, dtype=np.float32)
    made = fitted(X, y, 0.6, 0.95)[0.6]._decoder()["bases"]
    unit, length = bases.unit_rows(torch.from_numpy(X * np.float32(scale)))
    exact = made.energies(unit.double(), length.double())
    for group in made._groups:
        common = made._common if group.leads else unit.new_empty(width, 0)
        columns, rows = group.in_bfloat16(common), RoundedRows.of(unit, common)
        product = rows.product(columns)
        for ladder in group.ladders:
            squares = ladder.squares(product, length, made.n_cuts)
            slack = rows.slack(columns, ladder.k)[:, None]
            inside = made._within(unit, length)[:, ladder.k]
            low, high = ladder.bounds(squares, slack, inside)
            assert (low <= exact[:, ladder.k]).all()
            assert (exact[:, ladder.k] <= high).all()


@pytest.mark.usefixtures("screening")
def test_zero_rows_and_equal_classes_go_to_the_first_when_screened():
    X, y = relu_rows(200, 30, 3, dtype=np.float32)
    X[y == 2] = 0  # a class of zero rows has no direction
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoder = fitted(X, y, 0.9)[0.9]
    assert decoder.nearest(torch.zeros(3, 30)).tolist() == [0, 0, 0]
    assert 2 not in decoder.nearest(torch.from_numpy(X)).tolist()


@pytest.mark.usefixtures("screening")
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_the_given_class_and_the_best_other_are_exact(share):
    X, y = relu_rows(500, 60, 5, dtype=np.float32)
    decoder = fitted(X, y, share)[share]
    rows, given = torch.from_numpy(X), torch.from_numpy(y)
    closeness, predicted = decoder.predictions(rows, given)
    full = decoder.decide(rows)
    own = torch.arange(len(y)), given
    torch.testing.assert_close(closeness[own], full[own], atol=1e-6, rtol=0)
    others, all_others = closeness.clone(), full.clone()
    others[own] = all_others[own] = -1
    torch.testing.assert_close(others.amax(1), all_others.amax(1), atol=1e-6, rtol=0)
    assert (predicted == full.argmax(1)).float().mean() > 0.995


@given(seed=seeds, n=st.integers(1, 40), m=st.integers(1, 40))
@few_examples
def test_the_bound_of_a_norm_is_one(seed, n, m):
    matrix = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, m))).float()
    truth = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert truth <= largest_singular_value(matrix) <= 1.3 * truth


def test_nothing_rounds_to_nothing():
    assert largest_singular_value(torch.zeros(5, 3)) == 0
    exact = torch.eye(4)
    assert RoundedColumns.of(exact, {0: slice(0, 4)}, torch.zeros(4, 0)).errors == {0: 0.0}


def test_products_stay_exact_whatever_the_user_allows():
    rng = torch.Generator().manual_seed(0)
    left = torch.randn(300, 300, generator=rng)
    exact = left.double() @ left.double()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with exact_products():
            inside = left @ left
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert float((inside - exact).abs().max()) < 1e-3


# --- eigenvectors -------------------------------------------------------------------------------


def falling(width, rate, seed=0, n=None):
    """A second moment whose eigenvalues fall like j^−rate."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n or 3 * width, width)) * np.arange(1, width + 1) ** (-rate / 2)
    turned = torch.from_numpy(rows @ np.linalg.qr(rng.normal(size=(width, width)))[0])
    return turned.T @ turned


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_leading_eigenvectors_are_lapacks(share, seed):
    matrix = falling(600, 1.6, seed)
    found = leading(matrix, [Cut(share), Cut(rank=1)])
    assert found is not None
    values, vectors = spectra.eigenvectors(matrix, "here")
    rank = Cut(share).rank_of(values, float(values.sum()))
    assert found[0].shape == (rank,)
    np.testing.assert_allclose(found[0], values[:rank], rtol=1e-9)
    apart = found[1] - vectors[:, :rank] @ (vectors[:, :rank].T @ found[1])
    assert float(torch.linalg.matrix_norm(apart, 2)) <= 1e-6


@pytest.mark.parametrize(
    ("matrix", "cuts"),
    [
        (falling(600, 0.1), [Cut(0.99)]),  # nearly all directions are needed
        (falling(600, 1.6), [Cut(1.0)]),  # all of them
        (falling(600, 1.6), [Cut(rank=300)]),
        (torch.eye(600, dtype=torch.float64), [Cut(rank=3)]),  # no gap at all
        (torch.zeros(600, 600, dtype=torch.float64), [Cut(0.5)]),
        (falling(600, 1.6) * 1e-200, [Cut(0.5)]),
    ],
)
def test_what_cannot_be_certified_is_left_to_lapack(matrix, cuts):
    assert leading(matrix, cuts) is None


@pytest.mark.parametrize(("missed", "certified"), [(None, True), (0, False), (2, False)])
def test_a_set_of_eigenvectors_that_lacks_one_is_not_certified(missed, certified):
    matrix = falling(600, 1.6)
    values, vectors = spectra.eigenvectors(matrix, "here")
    kept = [j for j in range(6) if j != missed]
    found = values[kept], vectors[:, kept[:4]]
    cuts = [Cut(rank=4)]
    assert spectra._certified(matrix, *found, [4], float(values.sum()), cuts) == certified


def test_a_class_keeps_the_directions_of_its_own_features():
    """Features that a class never uses are left out, and come back as what follows the rest."""
    X, _ = relu_rows(500, 40, 2)
    X[:, [3, 7, 30]] = 0
    second = torch.from_numpy(X.T @ X)
    found = solve([Eigenproblem(second, 500, second.new_zeros(40), "here")])[0]
    assert found.alive == 37
    vectors = found.vectors
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(40), atol=1e-12)
    np.testing.assert_array_equal(vectors[[3, 7, 30], :37], 0)
    np.testing.assert_allclose(
        vectors[:, :37] @ torch.diag(found.values) @ vectors[:, :37].T, second, atol=1e-9
    )


@few_examples
@given(
    seed=seeds,
    widths=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    exponents=st.sampled_from([(0, 0), (-60, 60), (-120, 120)]),
)
def test_matrices_decomposed_together_are_as_if_alone(seed, widths, exponents):
    """Of any sizes and scales, some without full rank, one of zeros."""
    rng = np.random.default_rng(seed)
    problems = []
    for place, width in enumerate([*widths, 4]):
        rows = rng.normal(size=(int(rng.integers(1, 40)), width))
        rows *= 10.0 ** (exponents[place % 2]) * (place < len(widths))
        matrix = torch.from_numpy(rows.T @ rows)
        problems.append((matrix, len(rows), matrix.new_zeros(width), f"class {place}"))
    together = solve([Eigenproblem(*problem) for problem in problems])
    for problem, found in zip(problems, together, strict=True):
        (alone,) = solve([Eigenproblem(*problem)])
        top = max(float(alone.values[:1].sum()), 1e-300)
        assert len(found.values) == len(alone.values)
        np.testing.assert_allclose(found.values / top, alone.values / top, atol=1e-13)
        inner = found.inner
        np.testing.assert_allclose(inner.T @ inner, np.eye(inner.shape[1]), atol=1e-13)
        again = inner[:, : len(found.values)] @ torch.diag(found.values / top)
        again = again @ inner[:, : len(found.values)].T
        np.testing.assert_allclose(again, problem[0] / top, atol=1e-13)


def test_one_of_several_that_overflows_is_named():
    finite, endless = torch.eye(3).double(), torch.full((2, 2), torch.inf).double()
    problems = [
        Eigenproblem(matrix, 5, matrix.new_zeros(len(matrix)), f"class {k}")
        for k, matrix in enumerate((finite, endless))
    ]
    with pytest.raises(DataError, match="class 1: the features overflow"):
        solve(problems)


@pytest.mark.parametrize("rank", [5, 30])
def test_rows_may_use_features_that_a_class_never_did(rank):
    X, y = relu_rows(400, 40, 2)
    X[y == 0, :6] = 0
    decoder = Masc(rank=rank).fit(X, y)
    queries = np.random.default_rng(0).normal(size=(50, 40))
    np.testing.assert_allclose(
        decoder.angles(queries), reference.masc(X, y, rank=rank).angles(queries), atol=1e-7
    )


@pytest.mark.parametrize("rank", [5, 30])
def test_features_that_no_class_uses_are_not_multiplied(rank):
    X, y = relu_rows(400, 40, 2)
    X[:, :6] = 0
    X[y == 0, 6:9] = 0
    decoder = Masc(rank=rank).fit(X, y)
    queries = np.random.default_rng(0).normal(size=(50, 40))
    expected = reference.masc(X, y, rank=rank).angles(queries)
    assert {len(group.matrix) for group in decoder._decoder()["bases"]._groups} == {34}
    np.testing.assert_allclose(decoder.angles(queries), expected, atol=1e-7)
    again = Masc(rank=rank).set_tensors(decoder.tensors())
    np.testing.assert_allclose(again.angles(queries), expected, atol=1e-7)
    for basis in decoder.bases_:
        assert basis.shape == (40, rank)
        np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-9)


@pytest.mark.usefixtures("screening")
def test_screening_leaves_out_what_no_class_uses():
    X, y = relu_rows(600, 60, 4, dtype=np.float32)
    X[:, :9] = 0
    decoder = fitted(X, y, 0.9)[0.9]
    rows = torch.from_numpy(X)
    rows[:, :9] = 0.01
    values = decoder.decide(rows)
    best = values.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-6
    assert torch.equal(decoder.nearest(rows)[clear], values.argmax(1)[clear])


@pytest.mark.parametrize("shift", [-1e-3, 1e-3])
def test_positive_definite_says_where_the_smallest_eigenvalue_is(shift):
    matrix = falling(300, 1.0)
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    matrix.diagonal().sub_(smallest * (1 + shift))
    assert positive_definite(matrix.clone(), size=64) == (shift < 0)


def test_projectors_are_those_of_float64():
    """Float32 rows whose first eigenvalue dwarfs the ones at the cut."""
    X, y = relu_rows(3000, 300, 3, dtype=np.float32)
    literal = reference.masc(X, y, 0.99)
    decoder = Masc(variance=0.99).fit(X, y)
    assert decoder.ranks_.tolist() == literal.ranks
    for mine, exact in zip(decoder.bases_, literal.projectors, strict=True):
        projector = mine.astype(np.float64) @ mine.astype(np.float64).T
        assert np.linalg.norm(projector - exact, 2) <= 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("path", ["moments", "rows"])
def test_a_gpu_gives_what_the_processor_gives(path):
    X, y = relu_rows(6000, 700, 5, dtype=np.float32)
    found = {}
    for device in ("cpu", "cuda"):
        made = (
            ClassMoments(5, 700, device)
            if path == "moments"
            else ClassRows(5, RowStore(700), device)
        )
        rows = torch.from_numpy(X).to(device)
        made.update(rows, torch.from_numpy(y))
        decoders = {share: Masc(variance=share) for share in (0.5, 0.99)}
        fit_together(made, list(decoders.values()))
        nearest_together(decoders, rows)  # so that the next one screens
        predictions = nearest_together(decoders, rows)
        found[device] = {share: answer.cpu() for share, answer in predictions.items()}, decoders
    for share, decoder in found["cpu"][1].items():
        assert decoder.ranks_.tolist() == found["cuda"][1][share].ranks_.tolist()
        best = decoder.decide(torch.from_numpy(X)).topk(2, dim=1).values
        clear = best[:, 0] - best[:, 1] > 1e-6
        same = found["cpu"][0][share] == found["cuda"][0][share]
        assert same[clear].float().mean() >= 0.999


# --- cuts ---------------------------------------------------------------------------------------


@few_examples
@given(seed=seeds, width=st.integers(4, 50), shares=st.sets(st.floats(0.05, 1), min_size=1))
def test_decoders_that_share_bases_answer_as_if_alone(seed, width, shares):
    X, y = relu_rows(150, width, 4, seed)
    together = fitted(X, y, *shares, dtype=torch.float64)
    rows = torch.from_numpy(X)
    predictions = nearest_together(together, rows)
    for share, decoder in together.items():
        alone = fitted(X, y, share, dtype=torch.float64)[share]
        assert decoder.ranks_.tolist() == alone.ranks_.tolist()
        np.testing.assert_allclose(decoder.decide(rows), alone.decide(rows), atol=1e-9)
        best = alone.decide(rows).topk(2, dim=1).values
        clear = best[:, 0] - best[:, 1] > 1e-9
        assert torch.equal(predictions[share][clear], alone.decide(rows).argmax(1)[clear])
        again = Masc(variance=share).set_tensors(decoder.tensors())
        np.testing.assert_allclose(again.decide(rows), decoder.decide(rows), atol=1e-12)


@few_examples
@given(seed=seeds, width=st.integers(4, 80), sizes=st.lists(st.integers(1, 60), min_size=1))
def test_path_order_and_batch_size_change_no_answer(seed, width, sizes):
    X, y = relu_rows(160, width, 3, seed)
    expected = fitted(X, y, 0.9, dtype=torch.float64)[0.9]
    rng = np.random.default_rng(seed)
    for make in (lambda: ClassMoments(3, width), lambda: ClassRows(3, RowStore(width, 5000))):
        statistics, order, at = make(), torch.from_numpy(rng.permutation(160)), 0
        while at < 160:
            part = order[at : at + sizes[at % len(sizes)]]
            statistics.update(torch.from_numpy(X)[part], torch.from_numpy(y)[part])
            at += len(part)
        decoder = Masc(variance=0.9)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*whole space.*")
            fit_together(statistics, [decoder], dtype=torch.float64)
        assert decoder.ranks_.tolist() == expected.ranks_.tolist()
        np.testing.assert_allclose(
            decoder.decide(torch.from_numpy(X)), expected.decide(torch.from_numpy(X)), atol=1e-7
        )


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("512 mb", 512 * 10**6), ("2GiB", 2 << 30), ("1.5k", 1500), (7, 7)],
)
def test_sizes_are_read(text, size):
    assert as_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "4XB", 0, -3, 1.5, True, None])
def test_what_is_no_size_is_one_line(text):
    with pytest.raises(DataError, match="expected a size such as 4GB"):
        as_bytes(text)


def test_a_budget_goes_to_moments_first_and_rows_share_the_rest():
    widths = [100, 4000, 200, 5000]
    allowed = budgets(10, widths, 20_000, 10**9, 2)  # 2,000 samples a class
    assert allowed[0] == 8 * 10 * 100**2 * 2
    assert allowed[2] == 8 * 10 * 200**2 * 2
    assert allowed[1] == allowed[3] == (10**9 - allowed[0] - allowed[2]) // 2
    paths = [
        statistics_for(10, width, 20_000, memory=memory, sets=2).path
        for width, memory in zip(widths, allowed, strict=True)
    ]
    assert paths == ["moments", "rows", "moments", "rows"]


def test_moments_that_exceed_the_budget_are_kept_as_rows():
    assert statistics_for(10, 100, 20_000, memory=8 * 10 * 100**2).path == "moments"
    assert statistics_for(10, 100, 20_000, memory=8 * 10 * 100**2 - 1).path == "rows"


def test_rows_wait_in_buffers_of_bounded_size():
    made = ClassMoments(50, 64)
    made.update(torch.rand(2000, 64), torch.arange(2000) % 50)
    held = sum(moment._waiting.nbytes for moment in made._moments.values())
    assert held <= moments.WAITING


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_seen(bad):
    values = torch.zeros(30, 40)
    assert all_finite(values)
    assert all_finite(values[:0])
    values[17, 3] = bad
    assert not all_finite(values)


def test_the_buffer_of_a_conversion_is_used_again():
    room = []
    first = in_float64(torch.ones(4, 5), room)
    second = in_float64(torch.full((2, 5), 3.0), room)
    assert first.data_ptr() == second.data_ptr()
    assert second.tolist() == [[3.0] * 5] * 2
