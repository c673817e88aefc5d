"""The share of memory that survives is estimated correctly where it was planted."""

import numpy as np
import pytest
import torch

from underscript.activations.trace import INPUT
from underscript.noise.estimate import chance_right
from underscript.selection.candidates import Fits, measure_memory
from underscript.selection.fitting import Candidate
from underscript.selection.greedy import Scores
from underscript.selection.memorisation import (
    by_agreement,
    corrected,
    survival_by_contradiction,
    survival_on_holdout,
    weight_of_holdout,
)

SURVIVALS = [0.0, 0.1, 0.5, 0.9]


@pytest.mark.parametrize("survival", SURVIVALS)
def test_the_correction_undoes_what_memory_adds(survival):
    new, plain = torch.rand(2, 9, dtype=torch.float64)
    moved = (1 - survival) * new + survival * plain
    torch.testing.assert_close(corrected(plain, moved, survival), new)
    assert corrected(0.9, 0.4, 0.0) == 0.4
    # What remembers nothing is not corrected.
    torch.testing.assert_close(corrected(new, new, survival), new)


# With a hold-out ----------------------------------------------------------------------------


def agreements(survival, m, n=20_000, candidates=60, seed=0):
    """Draw candidates that remember some and know some: agreement plain, moved, on a hold-out."""
    rng = np.random.default_rng(seed)
    new = rng.uniform(0.2, 0.6, candidates)
    plain = new + (1 - new) * rng.choice([0.0, 0.1, 0.5, 0.95], candidates)
    moved = (1 - survival) * new + survival * plain
    # Half of what is easy for one is easy for all.
    shared = rng.random((candidates, m)) < 0.5
    agrees = np.where(shared, rng.random(m), rng.random((candidates, m))) < new[:, None]
    shares = [rng.binomial(n, share.clip(0, 1)) / n for share in (plain, moved)]
    return *map(torch.from_numpy, shares), torch.from_numpy(agrees.mean(1))


@pytest.mark.parametrize("survival", SURVIVALS)
@pytest.mark.parametrize("seed", range(3))
def test_survival_is_found_with_a_holdout(survival, seed):
    estimate = survival_on_holdout(*agreements(survival, 5000, seed=seed))
    assert estimate == pytest.approx(survival, abs=0.03)


def test_a_holdout_that_is_easier_by_a_constant_gives_the_same_survival():
    plain, moved, agrees = agreements(0.3, 5000)
    estimate = survival_on_holdout(plain, moved, agrees)
    assert estimate == pytest.approx(0.3, abs=0.03)
    assert survival_on_holdout(plain, moved, agrees + 0.2) == estimate
    assert survival_on_holdout(plain + 0.1, moved + 0.1, agrees) == estimate


def agreeing(n, knows=(0.3, 0.5, 0.6), seed=0):
    """Draw which of n labels each candidate predicts; what is easy for one is easy for all."""
    rng = np.random.default_rng(seed)
    hard, own = rng.random(n), rng.random((len(knows), n))
    difficulty = np.where(rng.random((len(knows), n)) < 0.5, hard, own)
    return torch.from_numpy(difficulty < np.array(knows)[:, None])


def test_a_holdout_weighs_by_its_precision_as_plainly_computed():
    plain, moved, held = agreeing(900), agreeing(900, seed=1), agreeing(150, seed=2)
    for survival in SURVIVALS:
        of_training = (moved.double().numpy() - survival * plain.double().numpy()) / (1 - survival)
        errors = []
        for agrees in (of_training, held.double().numpy()):
            apart = agrees - agrees.mean(0)
            errors.append(np.mean([np.var(row) for row in apart]) / agrees.shape[1])
        # Two estimates are averaged by the inverse of their variances.
        expected = (1 / errors[1]) / (1 / errors[0] + 1 / errors[1])
        assert weight_of_holdout(plain, moved, held, survival) == pytest.approx(expected, abs=1e-3)


def test_a_holdout_of_as_many_samples_as_there_are_others_weighs_half():
    agrees = agreeing(500)
    assert weight_of_holdout(agrees, agrees, agrees, 0.0) == pytest.approx(0.5)
    for times in (2, 9):
        weight = weight_of_holdout(agrees, agrees, agrees.repeat(1, times), 0.0)
        assert weight == pytest.approx(times / (1 + times))


def test_samples_on_which_all_candidates_agree_alike_make_nothing_less_certain():
    equal = (0.5, 0.5, 0.5)
    agrees, held = agreeing(500, equal), agreeing(100, equal, seed=1)
    alike = torch.arange(100)[None].expand(3, -1) % 2 == 0
    once = weight_of_holdout(agrees, agrees, held, 0.0)
    # Twice the samples, half of which say nothing of differences: four times less variance.
    twice = weight_of_holdout(agrees, agrees, torch.cat([held, alike], 1), 0.0)
    assert twice / (1 - twice) == pytest.approx(4 * once / (1 - once), rel=0.05)


def test_the_more_is_corrected_the_more_a_holdout_weighs():
    plain, moved, held = agreeing(900), agreeing(900, seed=1), agreeing(150, seed=2)
    weights = [weight_of_holdout(plain, moved, held, survival) for survival in SURVIVALS]
    assert weights == sorted(weights)
    assert weights[0] < 0.3 < 0.9 < weights[-1]


def test_candidates_that_are_all_alike_weigh_nothing_they_cannot_tell():
    same = torch.ones(5, 100, dtype=torch.bool)
    assert weight_of_holdout(same, same, same, 0.3) == 0


# Without one --------------------------------------------------------------------------------


N, K = 6000, 10
KNOWS = {"input": 0.7, "fc1": 0.85, "fc2": 0.9, "fc3": 0.85, "fc4": 0.8}
REMEMBERS = {"input": 0.0, "fc1": 0.02, "fc2": 0.1, "fc3": 0.5, "fc4": 0.95}
NOTHING = dict.fromkeys(KNOWS, 0.0)


def drawn_predictions(survival, wrong=0.4, remembers=REMEMBERS, each=4, seed=0):
    """Draw predictions of candidates whose layers know the true label, and remember the given one.

    If a perturbation breaks a memory, knowledge is left. Candidates of a layer mostly err
    on the same samples. Whether labels are right is known.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(0, K, N)
    given = np.where(rng.random(N) < wrong, (true + rng.integers(1, K, N)) % K, true)
    plain, moved, layers = [], [], []
    hard, other = rng.random(N), rng.integers(0, K, N)
    for layer, knows in KNOWS.items():
        memory, kept = rng.random(N) < remembers[layer], rng.random(N) < survival
        for _ in range(each):
            difficulty = np.where(rng.random(N) < 0.7, hard, rng.random(N))
            err = np.where(rng.random(N) < 0.5, other, rng.integers(0, K, N))
            predicted = np.where(difficulty < knows, true, err)
            plain.append(np.where(memory, given, predicted))
            moved.append(np.where(memory & kept, given, predicted))
            layers.append(layer)
    predicted = [torch.from_numpy(np.stack(each)) for each in (plain, moved)]
    right = torch.from_numpy((given == true).astype(np.float64))
    return *predicted, torch.from_numpy(given), right, layers, [True] * len(layers), K


@pytest.mark.parametrize("survival", SURVIVALS)
@pytest.mark.parametrize("wrong", [0.2, 0.4, 0.7])
def test_survival_is_found_without_a_holdout(survival, wrong):
    likely, most = survival_by_contradiction(*drawn_predictions(survival, wrong))
    assert likely == pytest.approx(survival, abs=0.05)
    assert likely <= most <= 0.9
    assert most == pytest.approx(likely, abs=0.05)


def plainly(plain, moved, labels, right, layers, perturbed, k):
    """Compute what survives sample by sample."""
    plain, moved, labels, right = (each.tolist() for each in (plain, moved, labels, right))
    samples = range(len(labels))

    def agreement(rows):
        return np.mean([[row[i] == labels[i] for i in samples] for row in rows])

    places = {name: [at for at, o in enumerate(layers) if o == name] for name in layers}
    by_plain = {
        name: agreement([plain[at] for at in of_layer]) for name, of_layer in places.items()
    }
    order = sorted(by_plain, key=by_plain.get)
    first, last = places[order[0]], places[order[-1]]
    vote, contradicted = [], []
    for i in samples:
        counts = np.bincount([moved[at][i] for at in first], minlength=k)
        vote.append(int(counts.argmax()))
        if counts[labels[i]] == 0 and counts.max() > len(first) / 2:
            contradicted.append(i)
    estimates = [(0.0, 0.0)]
    for kind in (False, True):
        of_kind = [at for at in last if perturbed[at] == kind]
        if not of_kind:
            continue
        known = agreement([moved[at] for at in of_kind])
        beyond = []
        for predicted in (plain, moved):
            rates = np.zeros((len(of_kind), k, k))
            for row, at in enumerate(of_kind):
                for i in samples:
                    if vote[i] == labels[i]:
                        rates[row, vote[i], predicted[at][i]] += 1
            rates /= np.maximum(rates.sum(2, keepdims=True), 1)
            beyond.append(
                [
                    np.mean([predicted[at][i] == labels[i] for at in of_kind])
                    - (1 - right[i]) * rates[:, vote[i], labels[i]].mean()
                    - right[i] * known
                    for i in contradicted
                ]
            )
        before, after = map(np.array, beyond)
        if before.mean() > 1.96 * before.std() / np.sqrt(len(before)):
            share = after.sum() / before.sum()
            error = np.sqrt(len(before)) * (after - share * before).std() / before.sum()
            estimates.append((share, share + 1.96 * error))
    return [min(0.9, max(ends)) for ends in zip(*estimates, strict=True)]


@pytest.mark.parametrize("survival", [0.1, 0.5])
def test_survival_is_as_computed_sample_by_sample(survival):
    plain, moved, given, right, layers, _, k = drawn_predictions(survival)
    some = slice(0, 700)
    how = plain[:, some], moved[:, some], given[some], 0.9 * right[some], layers
    kinds = [at % 2 == 0 for at in range(len(layers))]
    estimate = survival_by_contradiction(*how, kinds, k)
    assert estimate == pytest.approx(plainly(*how, kinds, k), rel=1e-6)
    assert estimate[1] > estimate[0] > 0


def test_of_what_is_fitted_to_perturbed_rows_and_what_is_not_the_larger_counts():
    plain, moved, given, right, layers, _, k = drawn_predictions(0.6)
    less = drawn_predictions(0.2)[1]
    last = torch.tensor([layer == "fc4" for layer in layers])
    kinds = [layer == "fc4" and at % 2 == 1 for at, layer in enumerate(layers)]
    mixed = torch.where((last & torch.tensor(kinds))[:, None], moved, less)
    estimate = survival_by_contradiction(plain, mixed, given, right, layers, kinds, k)
    alone = []
    for kind in (False, True):
        some = [at for at in range(len(layers)) if layers[at] != "fc4" or kinds[at] == kind]
        alone.append(
            survival_by_contradiction(
                plain[some],
                mixed[some],
                given,
                right,
                [layers[at] for at in some],
                [kinds[at] for at in some],
                k,
            )
        )
    assert estimate == tuple(max(ends) for ends in zip(*alone, strict=True))
    assert [each[0] for each in alone] == pytest.approx([0.2, 0.6], abs=0.1)


def test_fewer_samples_leave_a_wider_limit():
    plain, moved, given, right, *rest = drawn_predictions(0.5)
    few = survival_by_contradiction(plain[:, :600], moved[:, :600], given[:600], right[:600], *rest)
    many = survival_by_contradiction(plain, moved, given, right, *rest)
    assert few[1] - few[0] > 2 * (many[1] - many[0])


def test_one_layer_alone_cannot_tell():
    plain, moved, given, right, layers, kinds, k = drawn_predictions(0.5)
    one = [at for at, layer in enumerate(layers) if layer == "fc4"]
    names, kinds = ["fc4"] * len(one), kinds[: len(one)]
    assert survival_by_contradiction(plain[one], moved[one], given, right, names, kinds, k) == (
        0.0,
        0.0,
    )


def test_where_nothing_is_contradicted_nothing_is_told():
    plain, _, given, right, layers, kinds, k = drawn_predictions(0.5)
    agreed = given[None].expand(len(plain), -1)
    assert survival_by_contradiction(plain, agreed, given, right, layers, kinds, k) == (0.0, 0.0)


def test_the_order_of_candidates_and_samples_does_not_matter():
    plain, moved, given, right, layers, kinds, k = drawn_predictions(0.3)
    rng = np.random.default_rng(0)
    samples = torch.from_numpy(rng.permutation(N))
    order = rng.permutation(len(layers))
    names = [layers[at] for at in order]
    order = torch.from_numpy(order)
    estimate = survival_by_contradiction(
        plain[order][:, samples],
        moved[order][:, samples],
        given[samples],
        right[samples],
        names,
        kinds,
        k,
    )
    assert estimate == pytest.approx(
        survival_by_contradiction(plain, moved, given, right, layers, kinds, k)
    )


def test_survival_is_never_all_of_it():
    assert survival_by_contradiction(*drawn_predictions(1.0)) == (0.9, 0.9)


# As the decoder measures it -----------------------------------------------------------------


def fits_of(plain, moved, given, layers, holdout=(), held=None):
    names = [Candidate(layer, 0, True, 0.1 + at, 0) for at, layer in enumerate(layers)]
    made = Scores(plain, moved, given, list(holdout), held)
    return Fits(dict.fromkeys(names), {}, made, torch.arange(plain[0].shape[1]), 1)


def scored(survival, wrong, remembers, more, each=3, seed=0):
    """Draw scores of three layers as uncertain as softmax says, each of which knows more.

    `more` is the share of the true classes that a layer knows beyond the layer before it;
    `remembers` that of given labels. The first layer remembers nothing.
    """
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(N, K, generator=draw)
    true = torch.multinomial(torch.softmax(4 * first, 1), 1, generator=draw)[:, 0]
    shift = torch.randint(1, K, (N,), generator=draw) * (torch.rand(N, generator=draw) < wrong)
    given = (true + shift) % K
    of_true, of_given = (torch.nn.functional.one_hot(each, K) for each in (true, given))
    plain, moved, layers = [], [], []
    for depth, share in enumerate(remembers):
        known, memory, kept = torch.rand(3, N, 1, generator=draw)
        known, memory, kept = known < more * depth, memory < share, kept < survival
        for _ in range(each):
            for scores, remembered in ((plain, memory), (moved, memory & kept)):
                noisy = first + 0.3 * torch.randn(N, K, generator=draw)
                scores.append(noisy + 4 * known * of_true + 8 * remembered * of_given)
            layers.append(f"fc{depth}")
    return plain, moved, given, layers


@pytest.mark.parametrize("survival", SURVIVALS)
def test_memory_is_measured_on_scores(survival):
    plain, moved, given, layers = scored(survival, 0.5, (0.0, 0.3, 0.9), 0.2)
    memory = measure_memory(fits_of(plain, moved, given, layers), perturbed=True)
    assert memory.likely == pytest.approx(survival, abs=0.05)
    assert memory.likely <= memory.survival
    shares = [
        torch.stack([(one.argmax(1) == given).double().mean() for one in each])
        for each in (plain, moved)
    ]
    torch.testing.assert_close([memory.plain, memory.moved], shares)
    assert torch.equal(memory.base, memory.plain)
    assert memory.holdout is None
    assert memory.trust == memory.weight == 0
    expected = (shares[1] - memory.survival * shares[0]) / (1 - memory.survival)
    torch.testing.assert_close(memory.expected, expected)
    # What labels say of the first layer is what the function is given.
    known = torch.stack([m for m, layer in zip(moved, layers, strict=True) if layer == "fc0"])
    predicted = [torch.stack(each).argmax(2) for each in (plain, moved)]
    assert by_agreement(memory.plain, layers)[0] == "fc0"
    direct = survival_by_contradiction(
        *predicted, given, chance_right(known.sum(0), given), layers, [True] * 9, K
    )
    assert (memory.likely, memory.survival) == direct


@pytest.mark.parametrize("remembers", [(0.0, 0.0, 0.0), (0.0, 0.3, 0.9)])
@pytest.mark.parametrize("more", [0.0, 0.2, 0.4])
def test_where_all_labels_are_right_what_deep_layers_know_is_no_memory(remembers, more):
    memory = measure_memory(fits_of(*scored(0.5, 0.0, remembers, more)), perturbed=True)
    assert memory.likely <= memory.survival <= 0.02


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.4, 0.7])
def test_where_nothing_is_remembered_nothing_survives(wrong):
    plain, moved, given, _, layers, _, _ = drawn_predictions(0.5, wrong, NOTHING)
    scores = [list(torch.nn.functional.one_hot(each, K).float()) for each in (plain, moved)]
    memory = measure_memory(fits_of(*scores, given, layers), perturbed=True)
    assert memory.likely <= memory.survival <= 0.05


@pytest.mark.xfail(
    strict=True,
    reason="ρ is found at 0.9 instead of 0: deep layers predict labels that are contradicted but "
    "right more often than any label, which is taken for memory",
)
@pytest.mark.parametrize("wrong", [0.4, 0.7])
def test_where_labels_are_wrong_what_deep_layers_know_is_no_memory(wrong):
    made = fits_of(*scored(0.5, wrong, (0.0, 0.0, 0.0), 0.4))
    assert measure_memory(made, perturbed=True).likely <= 0.05


def test_what_reads_the_input_remembers_nothing():
    plain, moved, given, layers = scored(0.5, 0.4, (0.0, 0.3, 0.9), 0.2)
    layers = [INPUT if layer == "fc0" else layer for layer in layers]
    memory = measure_memory(fits_of(plain, moved, given, layers), perturbed=True)
    assert torch.equal(memory.base[:3], memory.moved[:3])
    assert torch.equal(memory.base[3:], memory.plain[3:])
    torch.testing.assert_close(memory.expected[:3], memory.moved[:3])


@pytest.mark.parametrize("perturbed", [True, False])
def test_a_holdout_says_what_is_likely_and_only_adds_to_what_survives_at_most(perturbed):
    plain, moved, given, layers = scored(0.3, 0.4, (0.0, 0.3, 0.9), 0.2)
    alone = measure_memory(fits_of(plain, moved, given, layers), perturbed)
    # The same layers, of new inputs: nothing is remembered of these.
    known, _, held, _ = scored(0.3, 0.4, (0.0, 0.0, 0.0), 0.2, seed=1)
    memory = measure_memory(fits_of(plain, moved, given, layers, known, held), perturbed)
    assert memory.likely == survival_on_holdout(memory.base, memory.moved, memory.holdout)
    assert memory.likely == pytest.approx(0.3, abs=0.05)
    assert memory.survival == max(alone.survival, memory.likely)
    if not perturbed:
        assert alone.survival == 0
        assert memory.trust == 1
        return
    agrees = [
        torch.stack([one.argmax(1) == y for one in each])
        for each, y in ((plain, given), (moved, given), (known, held))
    ]
    assert memory.trust == weight_of_holdout(*agrees, memory.survival)
    assert 0 < memory.trust < 1
