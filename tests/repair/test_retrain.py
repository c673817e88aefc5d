"""Training on with cleaned labels: better, chosen on noisy labels, and the model left as it was."""

import json
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import models
import underscript as us
from underscript.cli.command_line import main
from underscript.errors import DataError, LabelError

N = 200
X, TRUE = models.data("rows", 2 * N, seed=7)
GIVEN = us.corrupt_labels(TRUE.numpy(), 0.4, seed=1)
TRAIN, HELD = (X[:N], GIVEN[:N]), (X[N:], GIVEN[N:])
TEST = (X[N:], TRUE[N:])
SETTINGS: dict[str, Any] = {
    "epochs": 4,
    "learning_rate": 0.02,
    "batch_size": 32,
    "progress": False,
}


def model() -> nn.Module:
    return models.build("dropout", seed=3)


def cleaned(n: int = N) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": TRUE[:n].numpy(),
            "confidence": np.ones(n),
            "changed": GIVEN[:n] != TRUE[:n].numpy(),
        }
    )


def weights(network: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("held", [True, False])
def test_it_learns_the_cleaned_labels_and_leaves_the_model_alone(held):
    network = model().train()
    before, state = weights(network), torch.get_rng_state()
    found = us.retrain(network, TRAIN, cleaned(), HELD if held else None, TEST, **SETTINGS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert list(found.model.state_dict()) == list(before)
    assert found.model.training
    history = found.history
    assert history["epoch"].tolist() == list(range(len(history)))
    assert history["chosen"].sum() == 1
    best = history["choice_accuracy"].idxmax()
    assert history["chosen"][best]
    assert found.summary["after"]["test_accuracy"] > 0.8 > found.summary["before"]["test_accuracy"]
    assert ("hold-out" in found.summary["criterion"]) == held
    # What is returned are the weights of the chosen epoch.
    with torch.no_grad():
        right = (found.model.eval()(TEST[0]).argmax(1) == TEST[1]).double().mean()
    assert float(right) == pytest.approx(found.summary["after"]["test_accuracy"])


def test_test_labels_choose_nothing():
    wrong = (TEST[0], (TEST[1] + 1) % 4)
    one, other = (
        us.retrain(model(), TRAIN, cleaned(), HELD, test, **SETTINGS) for test in (TEST, wrong)
    )
    assert one.summary["epoch"] == other.summary["epoch"]
    assert all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))


class Pairs:
    def __init__(self, index: bool = False):
        self.index = index

    def __len__(self) -> int:
        return N

    def __getitem__(self, at: int) -> tuple[Any, ...]:
        # Datasets may number their samples as they like.
        return (X[at], GIVEN[at], 1000 + at) if self.index else (X[at], GIVEN[at])


def test_every_kind_of_data_and_labels_gives_the_same():
    expected = us.retrain(model(), TRAIN, cleaned(), HELD, **SETTINGS).model.state_dict()
    loader = DataLoader(TensorDataset(X[:N], torch.from_numpy(GIVEN[:N])), 50, shuffle=True)
    numbered = cleaned().sample(frac=1, random_state=0)
    numbered.index += 1000
    for train, labels in (
        ((X[:N].numpy(), GIVEN[:N]), TRUE[:N]),
        (Pairs(), cleaned()),
        (loader, cleaned()),
        (Pairs(index=True), numbered),
    ):
        found = us.retrain(model(), train, labels, HELD, **SETTINGS).model.state_dict()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_the_surer_a_label_the_more_it_weighs():
    unsure = cleaned()
    unsure["label"] = (unsure["label"] + 1) % 4
    unsure.loc[: N // 2, "label"] = TRUE[: N // 2 + 1].numpy()
    unsure["confidence"] = np.where(np.arange(N) <= N // 2, 1.0, 0.0)
    found = us.retrain(model(), TRAIN, unsure, HELD, TEST, **SETTINGS)
    assert found.summary["after"]["test_accuracy"] > 0.8


def test_where_no_epoch_is_better_the_weights_stay():
    network = model()
    x, held = X[:N], X[N:]
    with torch.no_grad():
        own, own_held = network(x).argmax(1), network(held).argmax(1)
    wrong = ((own + 1) % 4).numpy()
    found = us.retrain(network, (x, own), wrong, (held, own_held), **{**SETTINGS, "epochs": 6})
    assert found.summary["epoch"] == 0
    assert len(found.history) == 4  # three epochs without a better one
    assert "stay as they were" in found.verdict
    before = network.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in found.model.state_dict().items())


def first_loss(network: nn.Module, labels: Any) -> float:
    """Return the loss of the first step, which takes all samples at once."""
    how = {**SETTINGS, "epochs": 1, "batch_size": N}
    return float(us.retrain(network, TRAIN, labels, HELD, **how).history["loss"][1])


def test_a_decoding_in_memory_teaches_its_soft_labels_and_a_loaded_one_its_labels(tmp_path):
    network = models.build("mlp", seed=3)
    with torch.no_grad():
        # A network that is sure of what it says tells losses apart.
        network.readout.weight *= 10
    how = {"controls": False, "progress": False, "variance": 0.5, "perturb": "none"}
    decoding = us.decode(network, TRAIN, holdout=HELD, layers="readout:input", **how)
    with torch.no_grad():
        odds = torch.log_softmax(network(X[:N]).double(), 1).numpy()
    expected = -(decoding.soft_labels() * odds).sum(1).mean()
    assert first_loss(network, decoding) == pytest.approx(expected, rel=2e-5)

    decoding.save(tmp_path / "run")
    table = decoding.relabel()
    sure = table["confidence"].to_numpy()
    losses = -odds[np.arange(N), table["label"]]
    weighted = (sure * losses).sum() / sure.sum()
    assert weighted != pytest.approx(expected, rel=4e-4)
    for labels in (us.load(tmp_path / "run", network), table):
        assert first_loss(network, labels) == pytest.approx(weighted, rel=2e-5)


def test_the_rate_falls_from_one_in_a_thousand():
    how = {key: value for key, value in SETTINGS.items() if key != "learning_rate"}
    one = us.retrain(model(), TRAIN, cleaned(), HELD, **how)
    other = us.retrain(model(), TRAIN, cleaned(), HELD, **how, learning_rate=1e-3)
    assert one.summary["settings"]["learning_rate"] == 1e-3
    assert one.history.equals(other.history)


class OneByOne(IterableDataset):
    def __iter__(self) -> Any:
        return iter(Pairs()[at] for at in range(N))


BAD = {
    "an iterable": (lambda: (OneByOne(), cleaned()), DataError, "Dataset with a length"),
    "labels of other data": (
        lambda: (TRAIN, cleaned(N - 1)),
        LabelError,
        f"none for the sample at index {N - 1}",
    ),
    "an index that repeats": (
        lambda: (TRAIN, cleaned().set_index(np.zeros(N, int))),
        LabelError,
        "stands once",
    ),
    "another table": (
        lambda: (TRAIN, pd.DataFrame({"y": GIVEN[:N]})),
        LabelError,
        "expected a column label",
    ),
    "a class too many": (lambda: (TRAIN, TRUE[:N] + 1), LabelError, "found label 4"),
    "confidence above one": (
        lambda: (TRAIN, cleaned().assign(confidence=2.0)),
        LabelError,
        "from 0 to 1",
    ),
    "too few": (lambda: ((X[:2], GIVEN[:2]), TRUE[:2]), DataError, "too few"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_clear_line(kind):
    make, error, said = BAD[kind]
    train, labels = make()
    with pytest.raises(error, match=said) as caught:
        us.retrain(model(), train, labels, **SETTINGS)
    assert "\n" not in str(caught.value)


def test_settings_out_of_range_are_refused():
    for name, value in (("epochs", 0), ("learning_rate", -1.0), ("batch_size", 0)):
        with pytest.raises(DataError, match=name):
            us.retrain(model(), TRAIN, cleaned(), HELD, **{**SETTINGS, name: value})


USER = """
import models, test_retrain as t
def build():
    return models.build("dropout", seed=3)
train, held, test = t.TRAIN, t.HELD, t.TEST
"""


def test_the_command_trains_on_a_runs_labels(tmp_path, capsys, monkeypatch):
    file = f"{tmp_path}/mine.py"
    (tmp_path / "mine.py").write_text(USER)
    decoding = us.decode(model(), TRAIN, holdout=HELD, controls=False, progress=False, variance=0.5)
    decoding.save(tmp_path / "run")
    out = tmp_path / "again.safetensors"
    command = [
        "retrain",
        str(tmp_path / "run"),
        "--model",
        f"{file}:build",
        "--train",
        f"{file}:train",
        "--holdout",
        f"{file}:held",
        "--test",
        f"{file}:test",
        "--epochs",
        "4",
        "--learning-rate",
        "0.02",
        "--batch-size",
        "32",
        "--out",
        str(out),
    ]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["after"]["test_accuracy"] > told["before"]["test_accuracy"]
    assert told["labels_changed"] == int(decoding.relabel()["changed"].sum())
    loaded = us.load(tmp_path / "run", model())
    expected = us.retrain(model(), TRAIN, loaded, HELD, TEST, **SETTINGS)
    with safetensors.safe_open(out, "pt") as file_:
        assert json.loads(file_.metadata()["underscript"])["verdict"] == told["verdict"]
        for name, value in expected.model.state_dict().items():
            assert torch.equal(file_.get_tensor(name), value)

    # Ctrl-C leaves what was there.
    def interrupt(*_args: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["underscript.repair.retraining"], "_step", interrupt)
    kept = out.read_bytes()
    assert main(command) == 130
    assert out.read_bytes() == kept
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]
