"""The share of memory that survives is estimated correctly where it was planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import fits_of, labels_that_are_hard_to_tell, scores_that_remember

from underscript.activations.trace import INPUT
from underscript.noise.estimate import chance_right
from underscript.selection.measured_memory import measure_memory
from underscript.selection.memorisation import (
    Memory,
    Reference,
    by_agreement,
    corrected,
    lost_by,
    survival_by_references,
    survival_of_scores,
)
from underscript.selection.memory_by_holdout import survival_on_holdout, weight_of_holdout

SURVIVALS = [0.0, 0.1, 0.5, 0.9]


@pytest.mark.parametrize("survival", SURVIVALS)
def test_the_correction_undoes_what_memory_adds(survival):
    new, plain = torch.rand(2, 9, dtype=torch.float64)
    moved = (1 - survival) * new + survival * plain
    torch.testing.assert_close(corrected(plain, moved, survival), new)
    assert corrected(0.9, 0.4, 0.0) == 0.4
    # What remembers nothing is not corrected.
    torch.testing.assert_close(corrected(new, new, survival), new)


def test_what_the_input_loses_is_knowledge_and_as_much_is_elsewhere():
    plain = torch.tensor([0.50, 0.44, 0.70, 0.99], dtype=torch.float64)
    moved = torch.tensor([0.46, 0.42, 0.65, 0.60], dtype=torch.float64)
    nothing = Memory(plain, moved, None, 0.5, 0.5, 0.0)
    assert nothing.lost == 0
    torch.testing.assert_close(nothing.expected, 2 * moved - plain)
    # The first two are of the input: the better one loses 0.04.
    known = replace(nothing, free=(0, 1))
    assert known.lost == pytest.approx(0.04)
    wanted = torch.tensor([0.46, 0.42, 0.64, 0.25], dtype=torch.float64)
    torch.testing.assert_close(known.expected, wanted)
    # A number for each sample and grid point works alike.
    grids = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    lost = lost_by(*grids[:, :2])
    best = int(grids[1, :2].flatten(1).amax(1).argmax())
    torch.testing.assert_close(lost, (grids[0, best] - grids[1, best]).clamp(min=0))
    assert not lost_by(*grids[:, :0]).any()


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


class Drawn:
    """Predictions of candidates whose layers know the true label, and remember the given one.

    If a perturbation breaks a memory, knowledge is left. What a layer remembers, deeper ones do,
    too. Candidates of a layer mostly err on the same samples.
    """

    def __init__(self, survival, wrong=0.4, remembers=REMEMBERS, each=4, seed=0, n=N):
        rng = np.random.default_rng(seed)
        true = rng.integers(0, K, n)
        given = np.where(rng.random(n) < wrong, (true + rng.integers(1, K, n)) % K, true)
        self.true, self.given = torch.from_numpy(true), torch.from_numpy(given)
        self.plain, self.moved, self.layers = [], [], []
        hard, other = rng.random(n), rng.integers(0, K, n)
        easy, kept = rng.random(n), rng.random(n) < survival
        for layer, knows in KNOWS.items():
            memory = easy < remembers[layer]
            for _ in range(each):
                difficulty = np.where(rng.random(n) < 0.7, hard, rng.random(n))
                err = np.where(rng.random(n) < 0.5, other, rng.integers(0, K, n))
                predicted = np.where(difficulty < knows, true, err)
                self.plain.append(torch.from_numpy(np.where(memory, given, predicted)))
                self.moved.append(torch.from_numpy(np.where(memory & kept, given, predicted)))
                self.layers.append(layer)

    def of(self, layer):
        """Return the predictions of a layer's candidates, plain and moved."""
        at = [at for at, name in enumerate(self.layers) if name == layer]
        return tuple(torch.stack([each[k] for k in at]) for each in (self.plain, self.moved))

    def reference(self, layer):
        """Return a layer as a reference: it takes for wrong what it does not predict."""
        vote = self.of(layer)[1].mode(0).values
        # An honest guess: of the labels that it contradicts or not, this share is right.
        exact, agrees = (self.given == self.true).double(), vote == self.given
        right = torch.where(agrees, exact[agrees].mean(), exact[~agrees].mean())
        return Reference(self.given, vote, right, K)

    def measured(self, layers):
        """Return ρ by references."""
        last = self.of("fc4")
        agree = {
            name: tuple(float((each == self.given).double().mean()) for each in self.of(name))
            for name in layers
        }
        return survival_by_references(*last, {name: self.reference(name) for name in layers}, agree)


@pytest.mark.parametrize("survival", SURVIVALS)
@pytest.mark.parametrize("wrong", [0.2, 0.4, 0.7])
def test_survival_is_found_without_a_holdout(survival, wrong):
    likely, most, _ = Drawn(survival, wrong).measured(["input", "fc1", "fc2"])
    # What the references do not know makes it a little too large, not too small.
    assert survival - 0.02 <= likely <= survival + 0.08
    assert likely <= most <= 0.9
    assert most == pytest.approx(likely, abs=0.05)


def plainly(drawn, reference, predictions):
    """Compute sample by sample what is predicted beyond what is alike, times w."""
    samples = range(len(drawn.given))
    given, vote, right = (each.tolist() for each in (drawn.given, reference.vote, reference.right))
    total = np.zeros(predictions.shape)
    for k, row in enumerate(predictions.tolist()):
        for i in samples:
            # Of samples of class vote[i], weighted by how likely that label is right.
            of_class = [j for j in samples if given[j] == vote[i]]
            alike = sum(right[j] for j in of_class if row[j] == given[i])
            alike /= sum(right[j] for j in of_class)
            wrong = 0 if vote[i] == given[i] else 1 - right[i]
            total[k, i] = wrong * ((row[i] == given[i]) - alike)
    return total


def test_the_excess_is_as_computed_sample_by_sample():
    drawn = Drawn(0.5, n=300, each=2)
    for layer in ("input", "fc2"):
        reference = drawn.reference(layer)
        for predictions in drawn.of("fc4"):
            torch.testing.assert_close(
                reference.excess(predictions),
                torch.from_numpy(plainly(drawn, reference, predictions)),
            )


def test_one_reference_alone_gives_the_share_of_what_it_sees():
    drawn = Drawn(0.4)
    reference = drawn.reference("input")
    before, after = (reference.excess(each).numpy() for each in drawn.of("fc4"))
    likely, most, used = drawn.measured(["input"])
    assert torch.equal(used.vote, reference.vote)
    assert used.hidden == 0
    # Of all candidates the largest.
    shares = [two.sum() / one.sum() for one, two in zip(before, after, strict=True)]
    assert likely == pytest.approx(max(shares))
    limits = [
        share + 1.96 * np.sqrt(N) * (two - share * one).std() / one.sum()
        for share, one, two in zip(shares, before, after, strict=True)
    ]
    assert most == pytest.approx(max(limits))


@pytest.mark.parametrize("survival", [0.1, 0.5])
def test_what_a_reference_remembers_itself_is_added(survival):
    drawn = Drawn(survival)
    alone = drawn.reference("fc3")
    before, after = (float(alone.excess(each).sum()) for each in drawn.of("fc4"))
    # A layer that remembers half takes for right what survives of that.
    assert after / before < survival - 0.005
    first, _, _ = drawn.measured(["input"])
    likely, _, used = drawn.measured(["input", "fc3"])
    assert survival - 0.02 <= likely < first
    assert used.hidden >= 0.5 * survival - 0.02


def test_the_share_of_what_any_layer_remembers_is_found():
    drawn = Drawn(0.5)
    reference = drawn.reference("fc2")
    for layer, share in REMEMBERS.items():
        plain, moved = (each[0] for each in drawn.of(layer))
        assert -0.06 <= reference.remembered(plain) - share <= 0.12
        assert -0.06 <= reference.remembered(moved) - 0.5 * share <= 0.12
    # All that a reference hides counts as remembered.
    hidden = replace(reference, hidden=0.3)
    plain = drawn.of("fc3")[0][0]
    assert hidden.remembered(plain) == pytest.approx(0.3 + 0.7 * reference.remembered(plain))
    assert replace(reference, right=torch.ones(N).double()).remembered(plain) == 0


def test_labels_that_look_wrong_and_are_right_are_no_evidence():
    drawn = Drawn(0.5)
    reference = drawn.reference("input")
    assert reference.credible
    for share, credible in ((0.45, True), (0.55, False)):
        right = torch.full((N,), share, dtype=torch.float64)
        assert replace(reference, right=right).credible == credible
    # What the last layer knows of them is no evidence either, but to the limit it counts.
    plain, moved = Drawn(0.5, remembers=NOTHING).of("fc4")
    for each in (plain, moved):
        assert reference.excess(each, knows=True).sum() < reference.excess(each).sum()


def test_fewer_samples_leave_a_wider_limit():
    few, many = (Drawn(0.5, n=n).measured(["input", "fc1"]) for n in (600, 12_000))
    assert few[1] - few[0] > 2 * (many[1] - many[0])


def test_without_a_reference_and_without_memory_nothing_is_told():
    drawn = Drawn(0.5)
    assert drawn.measured([]) == (0.0, 0.0, None)
    likely, most, reference = Drawn(0.5, remembers=NOTHING).measured(["fc2", "fc3"])
    assert (likely, most) == (0.0, 0.0)
    assert reference is not None


def test_the_order_of_candidates_and_samples_does_not_matter():
    drawn = Drawn(0.3)
    before = drawn.measured(["input", "fc1"])
    samples = torch.from_numpy(np.random.default_rng(0).permutation(N))
    for name in ("plain", "moved"):
        setattr(drawn, name, [each[samples] for each in getattr(drawn, name)][::-1])
    drawn.true, drawn.given = drawn.true[samples], drawn.given[samples]
    drawn.layers.reverse()
    assert drawn.measured(["input", "fc1"])[:2] == pytest.approx(before[:2])


def test_survival_is_never_all_of_it():
    assert Drawn(1.0).measured(["input", "fc1"])[:2] == (0.9, 0.9)


# As the decoder measures it -----------------------------------------------------------------


def scored(survival, wrong, remembers, more, each=3, seed=0):
    """Draw scores of three layers as uncertain as softmax says, each of which knows more.

    `more` is the share of the true classes that a layer knows beyond the layer before it;
    `remembers` that of given labels. The first layer remembers nothing.
    """
    draw = torch.Generator().manual_seed(seed)
    first, true, given = labels_that_are_hard_to_tell(N, K, wrong, draw)
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
    assert memory.holdout is None
    assert memory.trust == memory.weight == 0
    expected = (shares[1] - memory.survival * shares[0]) / (1 - memory.survival)
    torch.testing.assert_close(memory.expected, torch.minimum(expected, shares[1]))
    # References are all layers but the last one, by their summed scores.
    references, agree = {}, {}
    for name in ("fc0", "fc1"):
        at = [at for at, layer in enumerate(layers) if layer == name]
        known = sum(moved[k] for k in at)
        votes = [sum(plain[k] for k in at).argmax(1), known.argmax(1)]
        references[name] = Reference(given, votes[1], chance_right(known, given), K)
        agree[name] = tuple(float((vote == given).double().mean()) for vote in votes)
    assert by_agreement(memory.plain, layers) == ["fc0", "fc1", "fc2"]
    last = [torch.stack(each[-3:]).argmax(2) for each in (plain, moved)]
    direct = survival_by_references(*last, references, agree)
    assert (memory.likely, memory.survival) == direct[:2]
    assert memory.reference.hidden == direct[2].hidden


@pytest.mark.parametrize("remembers", [(0.0, 0.0, 0.0), (0.0, 0.3, 0.9)])
@pytest.mark.parametrize("more", [0.0, 0.2, 0.4])
def test_where_all_labels_are_right_what_deep_layers_know_is_no_memory(remembers, more):
    memory = measure_memory(fits_of(*scored(0.5, 0.0, remembers, more)), perturbed=True)
    assert memory.likely <= memory.survival <= 0.02


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.4, 0.7])
def test_where_nothing_is_remembered_nothing_survives(wrong):
    drawn = Drawn(0.5, wrong, NOTHING)
    scores = [
        list(torch.nn.functional.one_hot(torch.stack(each), K).float())
        for each in (drawn.plain, drawn.moved)
    ]
    memory = measure_memory(fits_of(*scores, drawn.given, drawn.layers), perturbed=True)
    assert memory.likely <= memory.survival <= 0.05


@pytest.mark.parametrize("wrong", [0.4, 0.7])
def test_where_labels_are_wrong_what_deep_layers_know_is_no_memory(wrong):
    made = fits_of(*scored(0.5, wrong, (0.0, 0.0, 0.0), 0.4))
    assert measure_memory(made, perturbed=True).likely <= 0.05


def test_one_layer_alone_cannot_tell():
    plain, moved, given, _ = scored(0.5, 0.4, (0.9,), 0.2)
    memory = measure_memory(fits_of(plain, moved, given, ["fc0"] * 3), perturbed=True)
    assert (memory.likely, memory.survival, memory.reference) == (0.0, 0.0, None)


def test_the_input_as_a_reference_hides_nothing():
    plain, moved, given, layers = scored(0.3, 0.4, (0.0, 0.3, 0.9), 0.2)
    layers = [INPUT if layer == "fc1" else layer for layer in layers]
    memory = measure_memory(fits_of(plain, moved, given, layers), perturbed=True)
    assert memory.reference.hidden == 0


@pytest.mark.parametrize("perturbed", [True, False])
def test_a_holdout_says_what_is_likely_and_only_adds_to_what_survives_at_most(perturbed):
    plain, moved, given, layers = scored(0.3, 0.4, (0.0, 0.3, 0.9), 0.2)
    alone = measure_memory(fits_of(plain, moved, given, layers), perturbed)
    # The same layers, of new inputs: nothing is remembered of these.
    known, _, held, _ = scored(0.3, 0.4, (0.0, 0.0, 0.0), 0.2, seed=1)
    memory = measure_memory(fits_of(plain, moved, given, layers, known, held), perturbed)
    assert memory.likely == survival_on_holdout(memory.plain, memory.moved, memory.holdout)
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


@pytest.mark.parametrize("left", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("seed", range(2))
def test_what_memory_adds_to_scores_and_the_share_that_survives(left, seed):
    plain, moved, given, true = scores_that_remember(left, seed)
    reference = Reference(given, true, (given == true).double(), 6)
    wrong = given != true
    # By hand: the given label's score less its mean for right labels of the true class.
    centred = plain - plain.mean(1, keepdim=True)
    by_hand = [
        float(centred[at, given[at]] - centred[~wrong & (true == true[at]), given[at]].mean())
        for at in torch.nonzero(wrong)[:50, 0]
    ]
    assert reference.raised(plain)[wrong][:50].tolist() == pytest.approx(by_hand)
    found = survival_of_scores(reference, [plain], [moved])
    # Right labels are remembered, too; centring lowers what is expected of the others.
    assert found == pytest.approx(left, abs=0.04)
    zeros = torch.zeros(1, dtype=torch.float64)
    memory = Memory(zeros, zeros, None, 0.1, 0.1, 0.0, reference=reference, left=found)
    seen = float(reference.raised(moved).sum() / reference.wrong.sum())
    assert memory.added(plain, moved) == pytest.approx(seen, abs=0.05)
    assert memory.added(plain, moved, lost=100.0) == 0.0
    assert replace(memory, left=0.0).added(plain, moved) == 0.0
