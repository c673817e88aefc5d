"""Kinds of situations in which a number would be wrong without a word: it is right, or refused."""

import copy
import warnings

import pandas as pd
import pytest
import torch
from situation_data import (
    FLAG,
    GIVEN,
    PREDICTED,
    blobs,
    features,
    memorise,
    mlp,
    precision,
    share_right,
    situation,
)
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as old_weight_norm
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import models
import underscript as us
from underscript.activations.untrained import untrained

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::underscript.errors.UnderscriptWarning"),
]


def decoded(net, *data, **settings):
    settings.setdefault("controls", False)
    return us.decode(net, *data, progress=False, **settings)


@pytest.mark.parametrize(
    ("ids", "width"), [((10, 20, 30, 40), 41), ((0, 1, 2, 3), 8), ((2, 5, 6, 11), 12)]
)
def test_kind_1_classes_that_never_occur_do_not_count(ids, width):
    data = blobs()
    place = torch.tensor(ids)
    given, true = place[data.given], place[data.true]
    net = memorise(mlp(k=width), data.x, given)
    d = decoded(net, (data.x, given))
    assert d.summary["noise"]["rate"] == pytest.approx(0.307, abs=0.05)
    assert share_right(d, data.test, place[data.test_true]) > 0.9
    assert precision(d.label_issues(), true) > 0.9
    assert set(d.label_issues()[PREDICTED]) <= set(ids)


class Backwards(torch.utils.data.Sampler):
    """A sampler of one's own."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n - 1, -1, -1))

    def __len__(self):
        return self.n


class Shuffles(IterableDataset):
    """A stream that comes in another order each time."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __iter__(self):
        for at in torch.randperm(len(self.pairs)).tolist():
            yield self.pairs[at]


def mixed_up(n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(3)).tolist()


LOADERS = {
    "a random subset": lambda p: DataLoader(p, 128, sampler=SubsetRandomSampler(range(len(p)))),
    "a part of it": lambda p: DataLoader(p, 128, sampler=SubsetRandomSampler(range(100, 900))),
    "a sampler of one's own": lambda p: DataLoader(p, 128, sampler=Backwards(len(p))),
    "a list of places": lambda p: DataLoader(p, 128, sampler=mixed_up(len(p))),
    "batches of one's own": lambda p: DataLoader(
        p, batch_sampler=BatchSampler(mixed_up(len(p)), 128, False)
    ),
    "drawn again": lambda p: DataLoader(
        p, 128, sampler=WeightedRandomSampler([1.0, 2.0] * (len(p) // 2), len(p))
    ),
    "ready batches": lambda p: DataLoader(
        [p[i : i + 100] for i in range(0, len(p), 100)], batch_size=None, shuffle=True
    ),
    "places twice": lambda p: DataLoader(p, 128, sampler=[*range(len(p)), 0, 1]),
    "a stream": lambda p: DataLoader(Shuffles(p), 128),
    "a bare stream": Shuffles,
}


@pytest.mark.parametrize("name", LOADERS)
def test_kind_2_an_index_is_shown_only_where_it_is_known(name):
    net, data = situation()
    loader = LOADERS[name](TensorDataset(data.x, data.given))
    state = torch.get_rng_state()
    if name in ("ready batches", "places twice", "a stream", "a bare stream"):
        with pytest.raises(us.errors.UnderscriptError, match="index"):
            decoded(net, loader)
        return
    issues = decoded(net, loader).label_issues()
    assert torch.equal(state, torch.get_rng_state())
    # The places that are shown are the data set's.
    assert (issues[GIVEN].to_numpy() == data.given.numpy()[issues.index.to_numpy()]).all()
    assert precision(issues, data.true) > 0.9


class Both(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.body, self.names = mlp(), (first, second)

    def forward(self, image, question):
        return self.body(torch.cat([image, question], 1))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.slow
def test_kind_3_all_named_inputs_are_the_input(swapped):
    data = blobs()
    halves = {"image": data.x[:, :10], "question": data.x[:, 10:]}
    net = memorise(
        Both("image", "question"),
        None,
        data.given,
        call=lambda net, i: net(halves["image"][i], halves["question"][i]),
    )
    names = ["question", "image"] if swapped else ["image", "question"]
    items = [
        {**{name: halves[name][i] for name in names}, "labels": int(data.given[i])}
        for i in range(len(data.given))
    ]
    d = decoded(net, DataLoader(items, 128), controls=True)
    own = d.table[(d.table["layer"] == "input")]
    assert own["width"].iloc[0] == 20
    assert (d.label_issues()["conflicting_duplicate"] >= 0).mean() < 0.1
    assert precision(d.label_issues(), data.true) > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kind_4_labels_of_unequal_classes_are_not_made_worse(seed):
    x, given, true = features(16, 5, 0.1, [1000, 300, 100, 30, 10], seed)
    d = decoded(None, (x, given))
    cleaned = d.relabel()["label"].to_numpy()
    assert (cleaned == true).mean() >= (given == true).mean()
    noise = d.summary["noise"]
    assert noise["rate_low"] <= (given != true).mean() <= noise["rate_high"]


@pytest.mark.parametrize("factor", [100.0, 1e4, 1e-3])
def test_kind_5_columns_of_other_units(factor):
    x, given, true = features(16, 4, 0.3, [250] * 4)
    plain = decoded(None, (x, given)).label_issues()
    x = x.copy()
    x[:, 0] *= factor
    scaled = decoded(None, (x, given)).label_issues()
    right = (scaled[PREDICTED] == true).mean()
    assert right > (plain[PREDICTED] == true).mean() - 0.03


class Scaled(nn.Module):
    """With a parameter of its own, which nothing initialises anew but its class."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = mlp(), nn.Parameter(torch.full((4,), 0.5))

    def forward(self, x):
        return self.inner(x) * self.scale


class Asks(Scaled):
    """Which keeps nothing of what it was made with."""

    def __init__(self, start):
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), start))


class Averages(nn.Module):
    """With a buffer that follows the data."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()
        self.register_buffer("mean", torch.zeros(20))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.inner(x - self.mean)


def with_fc2(change):
    net = mlp()
    net.fc2 = change(net.fc2)
    return net


NORMED = {
    "weight_norm": lambda: with_fc2(old_weight_norm),
    "parametrized weight_norm": lambda: with_fc2(parametrizations.weight_norm),
    "spectral_norm": lambda: with_fc2(parametrizations.spectral_norm),
    "old spectral_norm": lambda: with_fc2(nn.utils.spectral_norm),
    "orthogonal": lambda: with_fc2(parametrizations.orthogonal),
    "pruned": lambda: with_fc2(lambda fc: prune.l1_unstructured(fc, "weight", amount=0.3)),
    "a parameter of its own": Scaled,
    "a parameter of unknown making": lambda: Asks(0.7),
    "a buffer of its own": Averages,
}


@pytest.mark.parametrize("name", NORMED)
def test_kind_6_no_trained_number_is_in_the_untrained_twin(name):
    data = blobs()
    net = NORMED[name]()
    memorise(net, data.x, data.given, 20)
    trained = copy.deepcopy(net.state_dict())
    if name == "a parameter of unknown making":
        with pytest.raises(us.errors.ModelError, match="Asks"):
            untrained(net, 0)
        d = us.decode(net, (data.x, data.given), progress=False)
        assert any("twin" in note for note in d.summary["warnings"])
        return
    with torch.random.fork_rng():
        twin = untrained(net, 0)
    assert all(torch.equal(value, trained[key]) for key, value in net.state_dict().items())
    for key, value in twin.state_dict().items():
        if value.is_floating_point() and bool(((value != 0) & (value != 1)).any()):
            assert not torch.equal(value, trained[key]), key
    fresh = NORMED[name]()
    for key, value in twin.named_parameters():
        there = dict(fresh.named_parameters())[key]
        if value.numel() > 100:
            ours, theirs = (float(each.detach().std()) for each in (value, there))
            assert ours == pytest.approx(theirs, rel=0.25), key
    with torch.no_grad():
        assert (twin(data.x).argmax(1) == data.given).float().mean() < 0.6


class Negated(nn.Module):
    """Whose logits are a function of its last linear layer."""

    def __init__(self, k=4):
        super().__init__()
        self.body, self.out = mlp()[:4], nn.Linear(64, k)

    def forward(self, x):
        return -self.out(self.body(x))


class Halved(Negated):
    def forward(self, x):
        return self.out(self.body(x)) / 2 + 1


class Flipped(Negated):
    def forward(self, x):
        return self.out(self.body(x)).flip(1)


@pytest.mark.parametrize("kind", [Negated, Halved, Flipped])
def test_kind_7_what_is_told_of_a_written_network_is_measured_on_it(kind):
    data = blobs()
    net = memorise(kind(), data.x, data.given)
    d = decoded(net, (data.x, data.given))
    told = d.summary["transfer"]
    if "impossible" in told:
        with pytest.raises(us.errors.ModelError):
            d.transfer()
        return
    written = d.transfer()
    with torch.no_grad():
        said = written(data.test).argmax(1).numpy()
    real = (said == d.best.predict(data.test)).mean()
    assert real > 0.9, told


def test_kind_8_a_compiled_network_is_read_like_the_original():
    net, data = situation()
    compiled = torch.compile(net, backend="eager")
    compiled(data.x[:128])
    d = decoded(compiled, (data.x, data.given))
    assert len(d.summary["layers"]) >= 2
    assert share_right(d, data.test, data.test_true) > 0.95


@pytest.mark.parametrize(
    "norm",
    [
        parametrizations.weight_norm,
        pytest.param(old_weight_norm, marks=pytest.mark.slow),
        pytest.param(parametrizations.spectral_norm, marks=pytest.mark.slow),
    ],
)
def test_kind_9_the_input_of_a_parametrized_read_out_is_a_layer(norm):
    net = mlp()
    net.out = norm(nn.Linear(64, 4))
    data = blobs()
    memorise(net, data.x, data.given, 20)
    names = decoded(net, (data.x, data.given)).summary["layers"]
    plain = decoded(memorise(mlp(), data.x, data.given, 20), (data.x, data.given)).summary["layers"]
    assert [layer["layer"] for layer in names] == [layer["layer"] for layer in plain]


def test_kind_10_an_index_column_of_pandas_is_no_feature(tmp_path, capfd):
    x, given, _ = features(6, 3, 0.2, [120] * 3)
    frame = pd.DataFrame(x).add_prefix("f").assign(label=given)
    frame.to_csv(tmp_path / "plain.csv", index=False)
    frame.to_csv(tmp_path / "indexed.csv")
    from underscript.cli.command_line import main

    results = []
    for name in ("plain", "indexed"):
        warnings.simplefilter("always")
        out = tmp_path / name
        assert not main(["audit", "--train", f"{tmp_path / name}.csv:label", "--out", str(out)])
        results.append(pd.read_csv(out / "label_issues.csv"))
    said = capfd.readouterr()
    assert "Unnamed: 0" in said.err + said.out
    assert (results[0][PREDICTED] == results[1][PREDICTED]).all()


class Frozen(nn.Module):
    """Whose `train()` keeps BatchNorm as it is."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
        )
        self.out = nn.Linear(64, 4)

    def forward(self, x):
        return self.out(self.body(x))

    def train(self, mode=True):
        super().train(mode)
        self.body[1].eval()
        return self


@pytest.mark.slow
def test_kind_11_retrain_leaves_frozen_parts_alone():
    data = blobs()
    net = Frozen()
    with torch.no_grad():
        net.body[1].running_mean.copy_(net.body[0](data.x).mean(0))
        net.body[1].running_var.copy_(net.body[0](data.x).var(0))
    memorise(net, data.x, data.given)
    before = copy.deepcopy(net.body[1].state_dict())
    d = decoded(net, (data.x, data.given))
    again = us.retrain(net, (data.x, data.given), d, epochs=2, progress=False)
    again = getattr(again, "model", again)
    for key, value in again.body[1].state_dict().items():
        if "running" in key or "tracked" in key:
            assert torch.equal(value, before[key]), key


def told(d):
    return " ".join([d.verdict, *map(str, d.summary.get("contradictions") or [])])


def test_kind_12_a_network_that_does_not_fit_its_labels_is_told_in_the_verdict():
    net, data = situation()
    untrained = mlp()
    assert "chance" in decoded(untrained, (data.x, data.given), (data.test, data.test_true)).verdict
    swapped = copy.deepcopy(net)
    with torch.no_grad():
        order = torch.tensor([1, 2, 3, 0])
        swapped.out.weight.copy_(net.out.weight[order])
        swapped.out.bias.copy_(net.out.bias[order])
    assert "chance" in decoded(swapped, (data.x, data.given), (data.test, data.test_true)).verdict


def test_kind_13_a_run_is_loaded_with_its_own_weights_only(tmp_path):
    net, data = situation()
    d = decoded(net, (data.x, data.given))
    d.save(tmp_path / "run")
    assert (
        us.load(tmp_path / "run", net).best.predict(data.test) == d.best.predict(data.test)
    ).all()
    with pytest.raises(us.errors.UnderscriptError, match="weights"):
        us.load(tmp_path / "run", mlp())


def test_kind_14_a_clean_holdout_contradicts_noisy_training_labels():
    net, data = situation()
    d = decoded(net, (data.x, data.given), None, (data.test, data.test_true))
    noise = d.summary["noise"]
    wrong = float((data.given != data.true).double().mean())
    assert "hold-out" in d.verdict or noise["rate_low"] <= wrong <= noise["rate_high"]
    assert noise["rate"] > 0.1 or "cleaner" in d.verdict


@pytest.mark.parametrize("share", [pytest.param(1.0, marks=pytest.mark.slow), 0.3])
def test_kind_15_test_data_that_were_trained_on_are_told(share):
    net, data = situation()
    some = int(len(data.x) * share)
    d = decoded(net, (data.x, data.given), (data.x[:some], data.given[:some]))
    inputs = f"{some:,} of the {some:,} inputs of the"
    assert f"Caution: {inputs} test data are also in the training data" in d.verdict
    d = decoded(
        net,
        (data.x, data.given),
        (data.x[:100], data.given[:100]),
        (data.x[:100], data.given[:100]),
    )
    assert "inputs of the hold-out are also in the training data" in d.verdict


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_kind_16_few_samples_give_wide_intervals_or_none(seed):
    data = blobs(n=30, seed=seed)
    net = memorise(mlp(), data.x, data.given)
    d = decoded(net, (data.x, data.given))
    right = share_right(d, data.test, data.test_true)
    noise = d.summary["noise"]
    if noise["hopeless"]:
        # So few labels show nothing, and nothing is claimed.
        assert "estimated" not in d.verdict
        assert not d.label_issues()[FLAG].any()
        return
    assert noise["accuracy_high"] - noise["accuracy_low"] > 0.1
    assert noise["accuracy_low"] <= right <= noise["accuracy_high"]


@pytest.mark.slow
def test_kind_16_intervals_of_the_rate_hold_the_truth_of_150_samples():
    held = 0
    for seed in range(10):
        data = blobs(n=150, seed=seed)
        net = memorise(mlp(), data.x, data.given)
        noise = decoded(net, (data.x, data.given)).summary["noise"]
        wrong = float((data.given != data.true).double().mean())
        held += noise["rate_low"] <= wrong <= noise["rate_high"]
    assert held >= 9


def test_kind_17_an_estimate_without_a_holdout_is_called_one():
    net, data = situation()
    d = decoded(net, (data.x, data.given))
    assert "on new data" not in d.verdict
    assert "estimated" in d.verdict


@pytest.mark.slow
def test_kind_18_a_mask_that_was_there_when_decoded_is_asked_for():
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (400,), generator=rng)
    ids = labels[:, None] * 15 + torch.randint(1, 15, (400, 8), generator=rng)
    mask = torch.ones_like(ids)
    mask[:, 5:] = 0
    net = memorise(models.TextNet(3), None, labels, 20, call=lambda net, i: net(ids[i], mask[i]))
    items = [
        {"input_ids": ids[i], "attention_mask": mask[i], "labels": int(labels[i])}
        for i in range(400)
    ]
    d = decoded(net, DataLoader(items, 64))
    with pytest.raises(us.errors.DataError, match="attention_mask"):
        d.best.predict(ids)
    both = [{"input_ids": ids[i], "attention_mask": mask[i]} for i in range(400)]
    assert (d.best.predict(DataLoader(both, 64)) == labels.numpy()).mean() > 0.9


@pytest.mark.slow
def test_kind_20_errors_of_the_decoder_are_no_confusions_of_labels():
    for seed in range(3):
        data = blobs(n=1500, k=6, noise=0.3, seed=seed)
        net = memorise(mlp(k=6), data.x, data.given)
        d = decoded(net, (data.x, data.given))
        assert not d.summary["noise"].get("confusions"), d.summary["noise"]
