"""The whole choice, on a small network that memorised its labels, and on features alone."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import models
import underscript as us
from underscript.errors import DataError
from underscript.selection import candidates, greedy
from underscript.selection.chosen_decoder import Chosen, choose
from underscript.selection.measured_memory import measure_memory
from underscript.selection.out_of_fold import AnotherView, out_of_fold_values
from underscript.selection.readers import Reader

pytestmark = pytest.mark.filterwarnings("ignore::underscript.errors.UnderscriptWarning")

N, HELD = 480, 620


class Memoriser:
    """A network that fits 40 % wrong labels of five digits; and the data."""

    def __init__(self) -> None:
        digits, true = load_digits(n_class=5, return_X_y=True)
        x = torch.from_numpy((digits / 8 - 1).astype(np.float32)).reshape(-1, 1, 8, 8)
        self.x, self.true = x, true
        self.given = us.corrupt_labels(true, 0.4, seed=1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = network(5)
            step = torch.optim.Adam(self.model.parameters(), lr=3e-3)
            labels = torch.from_numpy(self.given)
            for _ in range(100):
                for part in torch.randperm(N).split(80):
                    step.zero_grad()
                    nn.functional.cross_entropy(self.model(x[part]), labels[part]).backward()
                    step.step()
        self.model.eval()

    @property
    def train(self):
        return self.x[:N], self.given[:N]

    @property
    def held(self):
        return self.x[N:HELD], self.given[N:HELD]

    @property
    def test(self):
        return self.x[HELD:], self.true[HELD:]


def network(classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 96),
        nn.ReLU(),
        nn.Linear(96, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


@pytest.fixture(scope="module", autouse=True)
def _few_are_tried() -> Iterator[None]:
    """Choose further members among fewer candidates: the same in a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "TRIED", 6)
        yield


@pytest.fixture(scope="module")
def it() -> Memoriser:
    return Memoriser()


def decode(model: Any, train: Any, **how: Any) -> us.Decoding:
    how = {"probes": ("velpic",), "controls": False, "progress": False, **how}
    return us.decode(model, train, **how)


@pytest.fixture(scope="module")
def decoding(it) -> us.Decoding:
    return decode(it.model, it.train)


@pytest.fixture(scope="module")
def with_holdout(it) -> us.Decoding:
    return decode(it.model, it.train, holdout=it.held)


@pytest.fixture(scope="module")
def not_perturbed(it) -> us.Decoding:
    return decode(it.model, it.train, perturb="none", holdout=it.held)


def same(one: Any, other: Any) -> float:
    return float((np.asarray(one) == np.asarray(other)).mean())


def issues(decoding: us.Decoding) -> Any:
    return decoding.label_issues()["predicted_label"].to_numpy()


def assert_chosen_alike(one: us.Decoding, other: us.Decoding, x: Tensor) -> None:
    """Compare all that is chosen without clean labels, bit for bit."""
    names = ["layer", "layers", "reason", "criterion", "n", "criterion_accuracy"]
    assert [one.summary["selected"][name] for name in names] == [
        other.summary["selected"][name] for name in names
    ]
    assert one.summary["noise"] == other.summary["noise"]
    assert one.summary["memory"] == other.summary["memory"]
    assert one.label_issues().equals(other.label_issues())
    np.testing.assert_array_equal(one.best.decision_function(x), other.best.decision_function(x))


# The same again -----------------------------------------------------------------------------


def test_a_memorised_network_is_decoded_better_than_it_answers(it, decoding):
    own = same(it.model(it.test[0]).argmax(1), it.test[1])
    assert same(it.model(it.train[0]).argmax(1), it.train[1]) > 0.98, "the test needs a memoriser"
    assert same(decoding.best.predict(it.test[0]), it.test[1]) > own + 0.1
    assert same(issues(decoding), it.true[:N]) > 0.9


def test_decoding_twice_gives_the_same(it, decoding):
    assert_chosen_alike(decoding, decode(it.model, it.train), it.x)


def test_true_and_test_labels_change_nothing_that_is_chosen(it, decoding):
    wrong = np.roll(it.true, 1)
    other = decode(it.model, it.train, test=(it.x[HELD:], wrong[HELD:]), true_labels=wrong[:N])
    assert_chosen_alike(decoding, other, it.x)


def test_the_order_of_samples_changes_the_choice_by_rounding_alone(it, decoding):
    order = np.random.default_rng(0).permutation(N)
    other = decode(it.model, (it.x[order], it.given[order]))
    assert same(decoding.best.predict(it.x), other.best.predict(it.x)) >= 0.995
    assert same(issues(decoding)[order], issues(other)) >= 0.995
    assert decoding.summary["selected"]["layers"] == other.summary["selected"]["layers"]


def test_the_batch_size_changes_the_choice_by_rounding_alone(it, decoding):
    data = TensorDataset(it.train[0], torch.from_numpy(it.train[1]))
    for other in (
        decode(it.model, it.train, batch_size=60),
        decode(it.model, DataLoader(data, batch_size=200)),
    ):
        assert same(decoding.best.predict(it.x), other.best.predict(it.x)) >= 0.995
        assert same(issues(decoding), issues(other)) >= 0.995


def test_rows_that_are_kept_in_files_choose_the_same(it, decoding, monkeypatch):
    models.shared_out(monkeypatch, rows=0)
    assert_chosen_alike(decoding, decode(it.model, it.train), it.x)


def recorded_choices(monkeypatch: pytest.MonkeyPatch) -> list[Chosen]:
    """Return a list that gets what later decodes choose."""
    made: list[Chosen] = []

    def recorded(*args: Any, **how: Any) -> Chosen:
        made.append(choose(*args, **how))
        return made[-1]

    monkeypatch.setattr("underscript._decode_stages.choose", recorded)
    return made


def of_view(fits: Any, kept: Any, members: list[int], fold: int, view: int) -> Tensor:
    """Return an ensemble's scores of one view of a fold, by what is fitted to the other folds."""
    total: Any = 0
    for each in (fits.candidates[at] for at in members):
        rows = torch.cat([block for (block,) in kept.blocks(each.layer, fold, [view])])
        rows = fits.features[each.layer](rows) if each.n_features else rows
        total = total + fits.fitted[each].without[fold](rows) / fits.fitted[each].moved_spread
    return total


def test_where_few_samples_choose_all_are_scored_by_what_has_not_seen_them(it, monkeypatch):
    made = recorded_choices(monkeypatch)
    decode(it.model, it.train)
    fits, kept, task = made[0].fits, made[0].kept, made[0].task
    members = [fits.candidates.index(member) for member in made[0].members[made[0].key.layer]]
    readers = [Reader(at, True) for at in members]
    assert fits.steps == 1
    expected = out_of_fold_values(fits, kept, readers, task)
    assert kept.views > 2, "the test needs several perturbed views"
    for view in range(1, kept.views):
        for fold, rest in enumerate(expected.split([len(kept.part(k).labels) for k in range(3)])):
            rest -= of_view(fits, kept, members, fold, view) / (kept.views - 1)
    torch.testing.assert_close(expected, torch.zeros_like(expected), rtol=0, atol=1e-3)
    # On inputs as they are, too.
    readers = [Reader(members[0], False), Reader(members[-1], True)]
    expected = out_of_fold_values(fits, kept, readers, task)
    fits.steps = 2
    torch.testing.assert_close(
        out_of_fold_values(fits, kept, readers, task), expected, rtol=1e-3, atol=1e-3
    )

    monkeypatch.setattr(candidates, "CHOOSE", 100)
    models.shared_out(monkeypatch, scores=int(N * task.sizes.of_sample / 2.5))
    few = decode(it.model, it.train)
    assert made[1].fits.steps == 3
    assert made[1].odds.of_classes.shape == (N, 5)
    assert len(few.label_issues()) == N
    assert same(issues(few), it.true[:N]) > 0.85


def test_references_look_at_another_view_than_the_one_that_is_measured(it, monkeypatch):
    measured = []

    def recorded(fits: Any, perturbed: bool, most: int, another: AnotherView) -> Any:
        measured.append(another)
        assert another.kept.views > 2, "the test needs several perturbed views"
        for name in dict.fromkeys(each.layer for each in fits.candidates):
            at = [k for k, each in enumerate(fits.candidates) if each.layer == name]
            # The first view's scores are known already, in the order that is wanted.
            monkeypatch.setattr("underscript.selection.out_of_fold._ANOTHER", 1)
            expected = sum(fits.scores.moved[k] for k in at)
            for step in (1, 3):
                found = another.scores(name, step)
                torch.testing.assert_close(found, expected[::step], rtol=1e-3, atol=1e-3)
            monkeypatch.setattr("underscript.selection.out_of_fold._ANOTHER", 2)
            plain = torch.cat([of_view(fits, another.kept, at, fold, 2) for fold in range(3)])
            plain -= plain.mean(1, keepdim=True)
            found = another.scores(name, 1)
            in_any_order = [each.sum(1).sort().values for each in (found.abs(), plain.abs())]
            torch.testing.assert_close(*in_any_order, rtol=1e-3, atol=1e-3)
        return measure_memory(fits, perturbed, most, another)

    monkeypatch.setattr("underscript.selection.chosen_decoder.measure_memory", recorded)
    decode(it.model, it.train)
    assert isinstance(measured[0], AnotherView)
    # One perturbed view has no other.
    monkeypatch.undo()
    monkeypatch.setattr(
        "underscript.selection.chosen_decoder.measure_memory",
        lambda *args: measured.append(args[3]) or measure_memory(*args),
    )
    decode(it.model, it.train, views=1)
    assert measured[1] is None


def test_margins_are_the_networks_own_for_perturbed_inputs(it, monkeypatch):
    down = functools.partial(torch.roll, shifts=1, dims=2)
    made = recorded_choices(monkeypatch)
    found = decode(it.model, it.train, perturb=down, views=2, batch_size=70)
    with torch.no_grad():
        chances = torch.softmax(it.model(down(it.x[:N])).double(), 1)[torch.arange(N), it.given[:N]]
    expected = chances.log() - torch.log1p(-chances)
    torch.testing.assert_close(made[0].kept.margins, expected, rtol=1e-3, atol=1e-3)
    # What they say is in the quality of labels, and not in the decoder's own probabilities.
    odds = made[0].odds
    assert odds.by_margins.abs().max() > 0
    quality = found.label_issues(sort=False)["label_quality"].to_numpy()
    soft = found.soft_labels()[np.arange(N), it.given[:N]]
    np.testing.assert_allclose(quality, soft, atol=1e-5)
    without = expit(logit(quality) - odds.by_margins.numpy())
    monkeypatch.setattr("underscript.noise.margins.SHARE", 0.0)
    again = decode(it.model, it.train, perturb=down, views=2, batch_size=70)
    np.testing.assert_allclose(again.label_issues(sort=False)["label_quality"], without, atol=1e-4)
    np.testing.assert_array_equal(again.pred_probs(it.train), found.pred_probs(it.train))


def test_without_perturbed_inputs_margins_say_nothing(it, monkeypatch):
    made = recorded_choices(monkeypatch)
    decode(it.model, it.train, perturb="none", holdout=it.held)
    assert made[0].kept.margins is None
    assert not made[0].odds.by_margins.any()


# With and without a hold-out ----------------------------------------------------------------


def test_a_holdout_chooses_and_is_in_the_meter(it, decoding, with_holdout):
    assert same(with_holdout.best.predict(it.test[0]), it.test[1]) > 0.85
    chosen = with_holdout.summary["selected"]
    assert chosen["criterion"] == "holdout"
    weight = with_holdout.summary["memory"]["holdout_weight"]
    assert 0 < weight <= 1
    assert ("and by perturbed training inputs" in chosen["reason"]) == (weight < 1)
    assert with_holdout.memory["holdout"].notna().all()
    assert decoding.memory["holdout"].isna().all()
    assert decoding.summary["memory"]["holdout_weight"] == 0
    assert decoding.summary["selected"]["criterion"] == "training data"


def test_the_holdouts_agreement_is_that_of_the_decoder_that_is_used(it, with_holdout):
    chosen = with_holdout.summary["selected"]
    assert chosen["n"] == HELD - N
    table = with_holdout.table
    row = table[table["selected"] & (table["split"] == "holdout")]
    # The table's decoder is adjusted for priors; else it is the one that was chosen.
    assert row["accuracy"].item() == pytest.approx(chosen["criterion_accuracy"], abs=0.05)


def test_the_memory_meter_has_a_row_a_layer(it, decoding, with_holdout):
    for one in (decoding, with_holdout):
        meter = one.memory
        assert meter.columns.tolist() == ["layer", "plain", "perturbed", "holdout", "corrected"]
        assert meter["layer"].tolist() == ["input", "2", "4"]
        shares = meter.drop(columns=["layer", "holdout"]).astype(float).to_numpy()
        assert ((shares >= 0) & (shares <= 1)).all()
        memory = one.summary["memory"]
        assert 0 <= memory["survival"] < 1
        assert 0 <= memory["survival_likely"] < 1
        assert 0 <= memory["holdout_weight"] <= 1
        assert memory["readers"]
        for reader in memory["readers"]:
            assert "discriminant of " in reader
            assert reader.endswith(("read on inputs as they are", "read on perturbed inputs"))
    # Deep layers remember more of the plain inputs.
    loses = (decoding.memory["plain"] - decoding.memory["perturbed"]).to_numpy()
    assert loses[-1] > 0.1


# Perturbations ------------------------------------------------------------------------------


def test_nothing_tells_memory_from_knowledge_without_perturbation_and_holdout(it):
    with pytest.warns(us.UnderscriptWarning, match="nothing tells memory from knowledge"):
        decoding = decode(it.model, it.train, perturb="none")
    assert any("nothing tells memory" in note for note in decoding.summary["warnings"])
    assert decoding.summary["settings"]["perturb"] is None
    # All layers answer together.
    assert set(decoding.summary["selected"]["layers"]) == {"input", "2", "4"}
    assert (decoding.memory["plain"] == decoding.memory["perturbed"]).all()
    assert same(decoding.best.predict(it.test[0]), it.test[1]) > 0.7


def test_a_holdout_alone_tells_it_too(it, not_perturbed):
    assert not any("nothing tells memory" in note for note in not_perturbed.summary["warnings"])
    assert not_perturbed.summary["memory"]["holdout_weight"] == 1
    assert same(not_perturbed.best.predict(it.test[0]), it.test[1]) > 0.85


def test_a_function_of_ones_own_perturbs(it):
    seen = []

    def down(x: Tensor) -> Tensor:
        seen.append(len(x))
        return torch.cat([torch.full_like(x[:, :, :1], -1), x[:, :, :-1]], 2)

    decoding = decode(it.model, it.train, perturb=down, views=1)
    assert decoding.summary["settings"]["perturb"] == "own"
    assert decoding.summary["settings"]["views"] == 1
    assert sum(seen) >= N
    assert (decoding.memory["plain"] != decoding.memory["perturbed"]).all()
    assert same(decoding.best.predict(it.test[0]), it.test[1]) > 0.85
    # The same images moved before, or by the decoder.
    both = (
        decoding.best.decision_function(it.test[0])
        + decoding.best.decision_function(down(it.test[0]))
    ) / 2
    np.testing.assert_allclose(
        decoding.best.decision_function(it.test[0], views=1), both, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("views", [0, -1, True, 1.0, "3", None])
def test_views_are_a_number_of_at_least_one(it, views):
    with pytest.raises(DataError, match="views: expected a whole number of at least 1") as caught:
        decode(it.model, it.train, views=views)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("perturb", ["x", "", None, 3])
def test_an_unknown_perturbation_is_one_clear_line(it, perturb):
    with pytest.raises(DataError, match="perturb: expected auto, overlays, none or a function"):
        decode(it.model, it.train, perturb=perturb)


def test_new_inputs_may_be_perturbed_too(it, decoding):
    plain = decoding.best.predict(it.test[0])
    views = decoding.best.predict(it.test[0], views=2)
    assert views.shape == plain.shape
    assert not np.array_equal(
        decoding.best.decision_function(it.test[0]), decoding.best.decision_function(it.test[0], 2)
    )
    assert same(views, it.test[1]) > same(plain, it.test[1]) - 0.05
    np.testing.assert_array_equal(decoding.best.predict(it.test[0], views=2), views)
    np.testing.assert_array_equal(decoding.best.predict(it.test[0], views=0), plain)


@pytest.mark.parametrize("views", [-1, True, 1.5])
def test_views_of_new_inputs_are_a_number_of_at_least_none(it, decoding, views):
    with pytest.raises(DataError, match="views: expected a whole number of at least 0"):
        decoding.best.predict(it.test[0], views=views)


def test_what_knows_no_perturbation_takes_no_views(it, not_perturbed):
    with pytest.raises(DataError, match="this one knows no perturbation"):
        not_perturbed.best.predict(it.test[0], views=2)


# Classes ------------------------------------------------------------------------------------


def test_class_ids_with_gaps_are_decoded_as_those_without(it, decoding):
    ids = np.array([3, 10, 11, 29, 40])
    other = network(41)
    other.load_state_dict(
        {k: v for k, v in it.model.state_dict().items() if not k.startswith("5.")}, strict=False
    )
    with torch.no_grad():
        other[5].weight.zero_()
        other[5].bias.fill_(-50.0)
        other[5].weight[ids], other[5].bias[ids] = it.model[5].weight, it.model[5].bias
    gaps = decode(other.eval(), (it.train[0], ids[it.train[1]]))
    np.testing.assert_array_equal(ids[issues(decoding)], issues(gaps))
    np.testing.assert_array_equal(ids[decoding.best.predict(it.x)], gaps.best.predict(it.x))
    values = gaps.best.decision_function(it.x)
    assert np.isneginf(np.delete(values, ids, 1)).all()
    np.testing.assert_allclose(
        values[:, ids], decoding.best.decision_function(it.x), rtol=1e-4, atol=1e-4
    )
    assert gaps.summary["noise"]["rate"] == pytest.approx(
        decoding.summary["noise"]["rate"], abs=0.01
    )


# Saved --------------------------------------------------------------------------------------


def test_a_run_that_was_saved_has_the_same_memory(it, with_holdout, tmp_path: Path):
    with_holdout.save(tmp_path / "run")
    loaded = us.load(tmp_path / "run", model=it.model)
    assert loaded.memory.equals(with_holdout.memory)
    assert loaded.summary["memory"] == with_holdout.summary["memory"]
    np.testing.assert_array_equal(loaded.best.predict(it.x), with_holdout.best.predict(it.x))


# Features, without a network ----------------------------------------------------------------


def features(d, k, noise, sizes, seed=0):
    """Gaussian classes of given sizes; a share of the labels wrong."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)).astype(np.float32)
    true = np.repeat(np.arange(k), sizes)
    x = centres[true] + rng.normal(size=(len(true), d)).astype(np.float32)
    given = true.copy()
    wrong = rng.random(len(true)) < noise
    given[wrong] = (given[wrong] + rng.integers(1, k, wrong.sum())) % k
    return x, given, true


def relabelled(decoding: us.Decoding) -> Any:
    table = decoding.label_issues()
    return table["predicted_label"].where(table["is_label_issue"], table["given_label"]).to_numpy()


@pytest.mark.parametrize("seed", range(2))
def test_rare_classes_keep_their_labels(seed):
    x, given, true = features(16, 5, 0.1, [1000, 300, 100, 30, 10], seed)
    decoding = decode(None, (x, given))
    flags = decoding.label_issues()["is_label_issue"].to_numpy()
    wrong = given != true
    assert (wrong & flags).sum() / flags.sum() > 0.75
    assert same(relabelled(decoding), true) > same(given, true) + 0.03
    noise = decoding.summary["noise"]
    assert noise["rate_low"] <= wrong.mean() <= noise["rate_high"]


@pytest.mark.parametrize("seed", range(2))
def test_a_column_on_another_scale_is_read_as_any_other(seed):
    x, given, true = features(16, 4, 0.3, [250] * 4, seed)
    one = decode(None, (x, given))
    x[:, 0] *= 100
    other = decode(None, (x, given))
    assert same(issues(other), true) > same(issues(one), true) - 0.01


def test_classes_of_features_may_have_gaps():
    x, given, true = features(16, 4, 0.3, [250] * 4)
    decoding, gaps = decode(None, (x, given)), decode(None, (x, 10 * (given + 1)))
    np.testing.assert_array_equal(10 * (issues(decoding) + 1), issues(gaps))
    assert same(issues(decoding), true) > 0.95


@pytest.mark.parametrize("n", [2, 5, 60])
def test_equal_inputs_of_all_classes_leave_no_number_missing(n):
    decoding = decode(None, (np.ones((n, 6), dtype=np.float32), np.arange(n) % 2))
    columns = ["label_quality", "margin", "confidence"]
    assert decoding.label_issues()[columns].notna().all(axis=None)
    assert np.isfinite(decoding.best.decision_function(np.ones((1, 6), dtype=np.float32))).all()
    assert decoding.summary["noise"]["hopeless"]
