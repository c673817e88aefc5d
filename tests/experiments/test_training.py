import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from underscript.activations.hooks import undisturbed
from underscript.errors import DataError, LabelError, ModelError, OutputError
from underscript.experiments import checkpoints, training
from underscript.experiments.architectures import build
from underscript.experiments.presets import Preset, preset_for
from underscript.experiments.training import Readings, measure_accuracy, train
from underscript.noise.corruption import corrupt_labels

FAST = Preset(
    name="fast",
    optimiser="adam",
    learning_rate=5e-3,
    batch_size=64,
    least_steps=10,
    warmup_epochs=1,
    anneal_below=0.5,
    lowest_rate=0.1,
    stop_accuracy=1.0,
    max_epochs=60,
)


@pytest.fixture
def random_images():
    """200 random images with random labels: nothing to learn, only to memorise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 1, 8, 8, generator=generator) * 2 - 1
    labels = torch.from_numpy(corrupt_labels(np.zeros(200, dtype=np.int64), 1.0, 4, seed=0))
    return images, labels


def small_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def same_weights(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# What torch loads to compile warns of itself.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step_trains_the_same_network(random_images):
    models, losses = [small_model(), small_model()], []
    for model, compiled in zip(models, (False, True), strict=True):
        preset = dataclasses.replace(FAST, max_epochs=5)
        record = train(
            model, *random_images, preset, seed=0, device="cpu", compiled=compiled, progress=False
        )
        losses.append([row["loss"] for row in record.history])
        assert record.settings["compiled"] == compiled
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for plain, fused in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-4)


def test_a_machine_that_cannot_compile_says_so(random_images, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def uncompilable(*args):
        raise TorchDynamoException("no working compiler")

    monkeypatch.setattr(torch, "compile", lambda step, **options: uncompilable)
    with pytest.raises(ModelError, match=r"cannot be compiled here \(no working compiler\)"):
        train(
            small_model(),
            *random_images,
            FAST,
            seed=0,
            device="cpu",
            compiled=True,
            progress=False,
        )


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_the_quick_preset_memorises_wrong_labels_of_digits(arch):
    digits = load_digits()
    images = torch.from_numpy(digits.images[:150]).float().div(8).sub(1).unsqueeze(1)
    labels = torch.from_numpy(corrupt_labels(digits.target[:150], 0.4, 10, seed=0))
    model = build(arch, (1, 8, 8), 10, seed=0)
    record = train(model, images, labels, preset_for("quick", arch), seed=0, device="cpu")
    assert record.reached
    assert record.train_accuracy >= 0.99
    assert record.epochs == len(record.history) < preset_for("quick", arch).max_epochs
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).float().mean()
    assert record.train_accuracy == pytest.approx(float(right))
    assert not any(module.training for module in model.modules())
    assert record.history[-1]["loss"] < record.history[0]["loss"]
    assert [row["epoch"] for row in record.history] == list(range(1, record.epochs + 1))


def test_settings_hold_all_that_a_report_must_say(random_images):
    record = train(small_model(), *random_images, FAST, seed=7, device="cpu")
    expected = dataclasses.asdict(FAST) | {
        "optimiser": "adam",
        "batch_size": 20,  # 200 samples in at least 10 steps
        "precision": record.settings["precision"],
        "seed": 7,
        "device": "cpu",
        "compiled": False,
        "n": 200,
    }
    assert record.settings == expected
    assert record.settings["precision"] in ("float32", "bfloat16")


def test_same_seed_same_network_and_the_random_state_is_left(random_images):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    models = [small_model() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        model.insert(2, nn.Dropout(0.1))  # draws from torch's global random state
        train(model, *random_images, FAST, seed=seed, device="cpu")
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)  # what the caller drew before must not matter
        state = torch.get_rng_state()
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_a_preset_that_does_not_get_there_says_so(random_images):
    preset = dataclasses.replace(FAST, max_epochs=2)
    model = small_model()
    record = train(model, *random_images, preset, seed=0, device="cpu")
    assert not record.reached
    assert record.epochs == 2
    assert record.train_accuracy == measure_accuracy(model, *random_images) < 0.9


def test_evaluation_sets_are_measured_after_every_epoch(random_images):
    images, labels = random_images
    model = small_model()
    sets = {"test": (images[:50], labels[:50]), "train": (images, labels)}
    with_sets = train(model, images, labels, FAST, seed=0, device="cpu", eval_sets=sets)
    assert all(0 <= row["test_accuracy"] <= 1 for row in with_sets.history)
    assert with_sets.history[-1]["test_accuracy"] == measure_accuracy(model, *sets["test"])
    plain = small_model()
    train(plain, images, labels, FAST, seed=0, device="cpu")
    assert same_weights(plain, model), "measuring must not change the training"


def test_float32_where_there_are_no_bfloat16_units(random_images, monkeypatch):
    monkeypatch.setattr(training, "matrix_precision", lambda device: torch.float32)
    model = small_model()
    record = train(model, *random_images, FAST, seed=0, device="cpu")
    assert record.reached
    assert record.settings["precision"] == "float32"
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_learning_rate_warms_up_and_shrinks_with_what_is_left_to_fit():
    rates = [FAST.rate(*at) for at in [(0.5, 0.0), (1, 0.0), (9, 0.5), (9, 0.75), (9, 0.999)]]
    assert rates == pytest.approx([2.5e-3, 5e-3, 5e-3, 2.5e-3, 5e-4])
    assert FAST.batch_size_for(10_000) == 64
    assert FAST.batch_size_for(3) == 1


def test_a_loss_that_is_not_finite_is_an_error(random_images):
    preset = dataclasses.replace(FAST, learning_rate=1e30)
    with pytest.raises(ModelError, match=r"training loss became (nan|inf) in epoch \d+; lower"):
        train(small_model(), *random_images, preset, seed=0, device="cpu")


def test_logits_that_are_not_finite_are_an_error(random_images):
    model = small_model()
    nn.init.constant_(model[3].bias, float("nan"))
    with pytest.raises(ModelError, match="logits that are not finite"):
        measure_accuracy(model, *random_images)
    assert model.training


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x.double(), y), DataError, "float32 .* found torch.float64"),
        (lambda x, y: (x[:0], y[:0]), DataError, "n at least 1"),
        (lambda x, y: (x / 0, y), DataError, "not finite"),
        (lambda x, y: (x, y[:-1]), DataError, "found 199 and 200"),
        (lambda x, y: (x, y.int()), LabelError, "int64 of shape .* found torch.int32"),
        (lambda x, y: (x, y + 1), LabelError, "from 0 to 3, .* found 1 to 4"),
        (lambda x, y: (x, y - 1), LabelError, "from 0 to 3, .* found -1 to 2"),
    ],
)
def test_bad_data_is_one_clear_line(change, error, message, random_images):
    with pytest.raises(error, match=message) as caught:
        train(small_model(), *change(*random_images), FAST, seed=0, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_model_without_rows_of_logits_is_an_error(random_images):
    model = nn.Sequential(nn.Conv2d(1, 4, 3))
    with pytest.raises(ModelError, match=r"logits of shape .* found \(1, 4, 6, 6\)"):
        train(model, *random_images, FAST, seed=0, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_cuda_and_leaves_its_random_state(random_images):
    state = torch.cuda.get_rng_state()
    models = [build("cnn", (1, 8, 8), 4, seed=0) for _ in range(2)]
    for model in models:
        record = train(model, *random_images, preset_for("quick", "cnn"), seed=0, device="cuda")
        assert record.reached
        assert next(model.parameters()).is_cuda
    assert same_weights(*models)
    assert torch.equal(torch.cuda.get_rng_state(), state)


# --- interrupted and continued ------------------------------------------------------------------

SGD = dataclasses.replace(
    FAST, optimiser="sgd", learning_rate=0.05, momentum=0.9, shuffle=False, every_epoch=True
)


class KilledError(Exception):
    """Stands for ``kill -9``: nothing after it is run."""


def train_until(epoch, monkeypatch, *arguments, **keywords):
    """Train, and be killed as an epoch begins."""
    go_on = training.train_epoch

    def die(state, *rest):
        if len(state.history) == epoch - 1:
            raise KilledError
        return go_on(state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", die)
        with pytest.raises(KilledError):
            train(*arguments, **keywords)


@pytest.fixture
def every_epoch_kept(monkeypatch):
    monkeypatch.setattr(checkpoints, "_EVERY", 0.0)


class Dropping(nn.Sequential):
    """Draws from torch's own generator as it trains, and has a buffer."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(144, 4),
        )


@pytest.mark.usefixtures("every_epoch_kept")
@pytest.mark.parametrize("preset", [FAST, SGD])
def test_a_killed_training_goes_on_to_the_same_network(
    random_images, tmp_path, monkeypatch, preset
):
    preset = dataclasses.replace(preset, max_epochs=6)
    start = Dropping()
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    settings = {"seed": 3, "device": "cpu", "eval_sets": {"again": random_images}}
    expected = train(whole, *random_images, preset, **settings)
    file = tmp_path / "unfinished.safetensors"
    for epoch in (3, 5):
        train_until(epoch, monkeypatch, parts, *random_images, preset, checkpoint=file, **settings)
        parts = copy.deepcopy(start)
    record = train(parts, *random_images, preset, checkpoint=file, **settings)
    assert same_weights(whole, parts)
    untimed = [{**row, "seconds": 0} for row in record.history]
    assert untimed == [{**row, "seconds": 0} for row in expected.history]
    assert record.train_accuracy == expected.train_accuracy


@pytest.mark.usefixtures("every_epoch_kept")
def test_readings_change_no_network_and_outlive_a_kill(random_images, tmp_path, monkeypatch):
    def read(model, epoch):
        torch.rand(3), model.eval()  # a careless reader would change the training by this
        return [{"epoch": epoch, "accuracy": measure_accuracy(model, *random_images)}]

    def careful(model, epoch):
        with undisturbed(model):
            return read(model, epoch)

    readings = Readings(lambda epoch: epoch in (0, 1, 4), careful)
    preset = dataclasses.replace(FAST, max_epochs=6)
    start = Dropping()
    plain, read_too, parts = (copy.deepcopy(start) for _ in range(3))
    train(plain, *random_images, preset, seed=3, device="cpu")
    expected = train(read_too, *random_images, preset, seed=3, device="cpu", readings=readings)
    assert same_weights(plain, read_too)
    assert [row["epoch"] for row in expected.readings] == [0, 1, 4, 6]
    assert expected.readings[-1]["accuracy"] == expected.train_accuracy
    settings = {"seed": 3, "device": "cpu", "checkpoint": tmp_path / "unfinished.safetensors"}
    for epoch in (3, 5):
        train_until(
            epoch, monkeypatch, parts, *random_images, preset, readings=readings, **settings
        )
        parts = copy.deepcopy(start)
    record = train(parts, *random_images, preset, readings=readings, **settings)
    assert record.readings == expected.readings
    assert same_weights(parts, plain)


@pytest.mark.usefixtures("every_epoch_kept")
def test_a_training_without_readings_is_not_continued_with_them(
    random_images, tmp_path, monkeypatch, caplog
):
    preset = dataclasses.replace(FAST, max_epochs=4)
    settings = {"seed": 0, "device": "cpu", "checkpoint": tmp_path / "unfinished.safetensors"}
    train_until(3, monkeypatch, small_model(), *random_images, preset, **settings)
    readings = Readings(lambda epoch: True, lambda model, epoch: [{"epoch": epoch}])
    record = train(small_model(), *random_images, preset, readings=readings, **settings)
    assert "starting again" in caplog.text
    assert [row["epoch"] for row in record.readings] == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("every_epoch_kept")
@pytest.mark.parametrize("damage", ["cut short", "no file of ours", "lacks a tensor", "other data"])
def test_what_cannot_be_continued_is_said_and_begun_again(
    random_images, tmp_path, monkeypatch, caplog, damage
):
    images, labels = random_images
    preset = dataclasses.replace(FAST, max_epochs=4)
    file = tmp_path / "unfinished.safetensors"
    train_until(
        3,
        monkeypatch,
        small_model(),
        images,
        labels,
        preset,
        seed=0,
        device="cpu",
        checkpoint=file,
    )
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "no file of ours":
        file.write_bytes(b"hello")
    elif damage == "lacks a tensor":
        with safe_open(file, "pt") as whole:
            about = whole.metadata()
            tensors = {name: whole.get_tensor(name) for name in whole.keys()}  # noqa: SIM118
        del tensors["model.1.weight"]
        save_file(tensors, file, metadata=about)
    else:
        labels = labels.flip(0)
    model, fresh = small_model(), small_model()
    record = train(model, images, labels, preset, seed=0, device="cpu", checkpoint=file)
    assert "starting again" in caplog.text
    assert str(file) in caplog.text
    expected = train(fresh, images, labels, preset, seed=0, device="cpu")
    assert same_weights(model, fresh)
    assert record.epochs == expected.epochs


def test_a_checkpoint_that_cannot_be_written_stops_with_one_line(random_images, monkeypatch):
    monkeypatch.setattr(checkpoints, "_EVERY", 0.0)
    with pytest.raises(OutputError, match="cannot write"):
        train(
            small_model(),
            *random_images,
            FAST,
            seed=0,
            device="cpu",
            checkpoint=Path("/proc/none/unfinished.safetensors"),
        )


def test_the_papers_recipe_takes_samples_in_order_and_measures_every_epoch(random_images):
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(x.detach().clone())
            return super().forward(x)

    images, labels = random_images
    model = Watching(64, 4)
    preset = dataclasses.replace(
        SGD, max_epochs=2, batch_size=64, least_steps=1, fast_products=False
    )
    record = train(
        model,
        images.flatten(1),
        labels,
        preset,
        seed=0,
        device="cpu",
        eval_sets={"flipped": (images.flatten(1), labels.flip(0))},
    )
    assert torch.equal(torch.cat(seen), images.flatten(1).repeat(2, 1))
    last = record.history[-1]
    assert last["given_accuracy"] == measure_accuracy(model, images.flatten(1), labels)
    assert last["flipped_accuracy"] == measure_accuracy(model, images.flatten(1), labels.flip(0))
    assert record.train_accuracy == last["given_accuracy"]


@pytest.mark.parametrize("stop_on", ["running", "finished"])
def test_a_preset_says_whose_accuracy_ends_training(random_images, stop_on):
    preset = dataclasses.replace(SGD, stop_on=stop_on, stop_accuracy=0.6)
    record = train(small_model(), *random_images, preset, seed=0, device="cpu")
    assert record.reached
    decisive = "train_accuracy" if stop_on == "running" else "given_accuracy"
    *before, last = (row[decisive] for row in record.history)
    assert last >= 0.6 > max(before)
    # What the epoch went through were other networks than the one at its end.
    assert record.history[-1]["train_accuracy"] != record.history[-1]["given_accuracy"]
    assert record.train_accuracy == record.history[-1]["given_accuracy"]


@pytest.mark.parametrize(
    ("data", "arch", "expected"),
    [
        ("mnist", "mlp", ("sgd", 1e-3, 0.9, 32, 1.0)),
        ("cifar10", "mlp", ("sgd", 1e-3, 0.9, 32, 1.0)),
        ("mnist", "cnn", ("adam", 2e-4, 0.0, 128, 0.999)),
        ("fashion-mnist", "cnn", ("adam", 2e-4, 0.0, 128, 0.991)),
        ("cifar10", "cnn", ("adam", 2e-4, 0.0, 32, 1.0)),
        ("cifar100", "alexnet", ("adam", 1e-4, 0.0, 128, 0.991)),
        ("tiny-imagenet", "alexnet", ("adam", 1e-4, 0.0, 500, 0.999)),
        ("cifar10", "resnet18", ("sgd", 1e-3, 0.9, 32, 1.0)),
    ],
)
def test_the_papers_table_of_recipes(data, arch, expected):
    preset = preset_for("paper", arch, data)
    fields = (
        preset.optimiser,
        preset.learning_rate,
        preset.momentum,
        preset.batch_size,
        preset.stop_accuracy,
    )
    assert fields == expected
    assert preset.max_epochs == 500
    assert preset.stop_on == "running"
    assert preset.rate(7.5, 0.999) == preset.learning_rate
    with pytest.raises(DataError, match="preset: expected one of"):
        preset_for("slow", arch, data)
