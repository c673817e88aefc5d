"""What a default decode costs: time in training epochs of the same network, and peak memory.

    python -m benchmarks.cost [--root ROOT] [CASE …] [--toy] [--json FILE]

Each case runs in a process of its own, one after the other: a network is trained for an epoch
(Adam, batches of 128, or 32 texts), which is timed; then it is decoded with the defaults, with a
hold-out and test data. ROOT is what `data/unpack.py` wrote (CIFAR-10, CIFAR-10N, Banking77);
without it the cases that need it are left out. MNIST and Fashion-MNIST are looked for where the
loaders put them. `--toy` takes noise for data, and few of it. The case `import` decodes nothing: it
is what the command line takes to start, in seconds of processor time. Exits 1 if a case fails. Bars
are those of docs/memory-and-time.md.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TOY = 600


@dataclass
class Case:
    """A network, its data, and what a decode of it may take.

    Attributes
    ----------
    make : callable
        From the root, whether it is a toy, and the device to the network, or None for features, and
        train, hold-out and test.
    epochs, seconds : float or None
        What it may take at most.
    gigabytes : float
        Peak of the process.
    """

    make: Callable[[Path, bool, torch.device], tuple[nn.Module | None, list[Any]]]
    epochs: float | None
    seconds: float | None
    gigabytes: float


def _images(name: str, n: int, held: int, arch: str, labels: str) -> Any:
    def make(root: Path, toy: bool, device: torch.device) -> tuple[nn.Module, list[Any]]:
        from . import networks

        recipe = networks.Recipe("cost", name, labels, n, held=held, arch=arch)
        model = networks.network(recipe)
        if toy:
            side, channels = (32, 3) if name == "cifar10" else (28, 1)
            drawn = [
                (torch.randn(TOY, channels, side, side), torch.randint(10, (TOY,)))
                for _ in range(3)
            ]
            return model, drawn
        found = networks.load(recipe, root)
        parts = [found.train[:2], found.holdout[:2], (found.test[0], found.test[1])]
        # Copies: the whole data set need not stay.
        return model, [(x.clone(), y.clone()) for x, y in parts]

    return make


def _small_cnn(root: Path, toy: bool, device: torch.device) -> tuple[nn.Module, list[Any]]:
    """Return a small CNN with BatchNorm and 5,000 images of Fashion-MNIST."""
    _, parts = _images("fashion-mnist", 5_000, 500, "cnn", "c0.4")(root, toy, device)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 9, 10))
    return model, [*parts[:2], (parts[2][0][:5_000], parts[2][1][:5_000])]


def _digits(root: Path, toy: bool, device: torch.device) -> tuple[nn.Module, list[Any]]:
    """Return an MLP and scikit-learn's 1,797 digits."""
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(each) for each in load_digits(return_X_y=True))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    parts = zip((x.float() / 16).split(600), y.split(600), strict=True)
    return model, list(parts)


def _texts(root: Path, toy: bool, device: torch.device) -> tuple[nn.Module, list[Any]]:
    from . import texts
    from .decoder import source

    folder = texts.model_folder()
    data = texts.load("tune-banking-1", root, folder)
    model = texts.network(folder, len(data["names"]), 1)
    parts = []
    for name in ("train", "holdout", "test"):
        ids, mask, given, _ = data[name]
        n = TOY if toy else len(ids)
        parts.append(source(({"input_ids": ids[:n], "attention_mask": mask[:n]}, given[:n])))
    return model, parts


def _features(n: int, width: int, classes: int, spread: float) -> Any:
    def make(root: Path, toy: bool, device: torch.device) -> tuple[None, list[Any]]:
        rng = np.random.default_rng(0)
        size = TOY if toy else n
        true = rng.permutation(np.arange(size) % (min(classes, 20) if toy else classes))
        centres = rng.normal(size=(classes, width))
        rows = (centres[true] + spread * rng.normal(size=(size, width))).astype(np.float32)
        wrong = rng.random(size) < 0.2
        given = np.where(wrong, rng.permutation(true), true)
        return None, [(rows, given), None, None]

    return make


CASES: dict[str, Case] = {
    "residual-20k": Case(_images("cifar10", 20_000, 5_000, "residual", "worse"), 3, None, 3.0),
    "residual-50k": Case(_images("cifar10", 45_000, 5_000, "residual", "worse"), 3, None, 3.0),
    "cnn-5k": Case(_small_cnn, 5, None, 1.5),
    "digits": Case(_digits, None, 10, 1.5),
    "mlp-60k": Case(_images("mnist", 55_000, 5_000, "mlp", "c0.4"), None, 60, 3.0),
    "texts-8k": Case(_texts, 1, None, 3.0),
    "features-200k": Case(_features(200_000, 32, 10, 1.0), None, 30, 1.5),
    "classes-1000": Case(_features(5_000, 64, 1_000, 0.3), None, 10, 1.5),
}
# What the command line takes to start, and may take, in seconds of processor time.
IMPORT, IMPORT_SECONDS = "import", 1.0
# What needs what `data/unpack.py` wrote.
_UNPACKED = {"residual-20k", "residual-50k", "texts-8k"}


def epoch_seconds(model: nn.Module, train: Any, device: torch.device) -> float:
    """Train for an epoch and return what it took; the first steps are not timed."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-3 if not _embeds(model) else 1e-4)
    model.to(device).train()
    n, timed, start = 0, 0, 0.0
    batches = list(_batches(train))
    for number, (inputs, labels) in enumerate(batches):
        if number == min(3, len(batches) - 1):
            _wait(device)
            start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        inputs = (
            {k: v.to(device) for k, v in inputs.items()}
            if isinstance(inputs, dict)
            else inputs.to(device)
        )
        output = model(**inputs).logits if isinstance(inputs, dict) else model(inputs)
        cross_entropy(output, labels.to(device)).backward()
        optimiser.step()
        n += len(labels)
        if start:
            timed += len(labels)
    _wait(device)
    return (time.perf_counter() - start) * n / max(1, timed)


def _embeds(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Embedding) for module in model.modules())


def _batches(train: Any) -> Any:
    if isinstance(train, tuple):
        x, y = train
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        yield from ((x[some], y[some]) for some in order.split(128))
        return
    for batch in train:
        labels: Tensor = batch.pop("labels")
        half = len(labels) // 2 or 1
        for some in (slice(0, half), slice(half, None)):
            if len(labels[some]):
                yield {k: v[some] for k, v in batch.items()}, labels[some]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def import_seconds() -> float:
    """Return the processor time of `underscript --version`, user and system, least of three."""
    command = [sys.executable, "-m", "underscript", "--version"]
    seconds = [_children_seconds()]
    for _ in range(3):
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(_children_seconds())
    return float(np.diff(seconds).min())


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Lines(logging.Handler):
    """Keeps the line that a decode begins with, which is logged where there is no terminal."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()


def measured(name: str, root: Path, toy: bool, device: torch.device) -> dict[str, Any]:
    """Return what a case takes: seconds of an epoch and of a decode, and gigabytes."""
    if name == IMPORT:
        return {"case": name, "cpu_s": import_seconds()}
    import underscript as us
    from underscript.utils.versions import peak_memory

    case = CASES[name]
    model, (train, holdout, test) = case.make(root, toy, device)
    epoch = None if model is None else epoch_seconds(model, train, device)
    if model is not None:
        model.eval()
    before = peak_memory() or 0
    lines = _Lines()
    logging.getLogger("underscript.utils.progress").addHandler(lines)
    logging.getLogger("underscript.utils.progress").setLevel(logging.INFO)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = us.decode(model, train, test, holdout)
    seconds = time.perf_counter() - start
    return {
        "case": name,
        "device": str(device),
        "epoch_s": epoch,
        "decode_s": seconds,
        "epochs": None if epoch is None else seconds / epoch,
        "peak_gb": (peak_memory() or 0) / 1e9,
        "before_gb": before / 1e9,
        "timing": found.summary["timing"],
        "budget": found.summary["settings"]["memory"],
        "perturb": found.summary["settings"]["perturb"],
        "said": lines.said,
    }


def line(found: dict[str, Any]) -> str:
    """Return a case's row of the table."""
    if found["case"] == IMPORT:
        took, met = found["cpu_s"], "yes" if found["cpu_s"] <= IMPORT_SECONDS else "no"
        return f"| {IMPORT} | {IMPORT_SECONDS:g} s of CPU | {took:.2f} s of CPU | {met} | |"
    case = CASES[found["case"]]
    allowed, took = (
        (f"{case.seconds:g} s", f"{found['decode_s']:.0f} s")
        if case.epochs is None
        else (
            f"{case.epochs:g} epochs",
            f"{found['epochs']:.1f} epochs ({found['decode_s']:.0f} s)",
        )
    )
    most = case.seconds if case.epochs is None else case.epochs
    value = found["decode_s"] if case.epochs is None else found["epochs"]
    met = "yes" if value <= most and found["peak_gb"] <= case.gigabytes else "no"
    stages = ", ".join(f"{k} {v:.0f}" for k, v in found["timing"].items() if v >= 0.5)
    return (
        f"| {found['case']} | {allowed}, {case.gigabytes:g} GB | {took}, {found['peak_gb']:.1f} GB "
        f"(before {found['before_gb']:.1f}) | {met} | {stages} | {found['said']} |"
    )


def main() -> None:
    """Run the cases that are asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        device = torch.device(arguments.device)
        root = arguments.root or Path()
        print(json.dumps(measured(arguments.one, root, arguments.toy, device)))
        return
    names = [*CASES, IMPORT]
    unknown = [name for name in arguments.cases if name not in names]
    if unknown:
        parser.error(f"expected some of {', '.join(names)}; found {', '.join(unknown)}")
    if arguments.root is not None and not arguments.root.is_dir():
        parser.error(f"--root: expected a folder; found {arguments.root}")
    print(
        "| case | bar | took | met | seconds by stage | said beforehand |\n" + "|---" * 6 + "|",
        flush=True,
    )
    results, failed = [], False
    for name in arguments.cases or names:
        if name in _UNPACKED and arguments.root is None and not arguments.toy:
            print(f"| {name} | | left out: needs --root ROOT | | | |", flush=True)
            continue
        command = [
            sys.executable,
            "-m",
            "benchmarks.cost",
            "--one",
            name,
            "--root",
            str(arguments.root or "."),
            "--device",
            arguments.device,
        ]
        done = subprocess.run(
            command + ["--toy"] * arguments.toy, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it failed"])[-1]
            print(f"| {name} | | failed: {last} | no | | |", flush=True)
            failed = True
            continue
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(line(results[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
