"""Whether a decode keeps to its budget: eight networks, three budgets each.

    python -m benchmarks.memory [CASE …] [--budgets 400MB,800MB,1600MB] [--json FILE]
    python -m benchmarks.memory --written 100000,1000

Each decode runs in a process of its own, with the defaults, a hold-out and test data, on numbers
that are drawn at random. What counts is the peak of the process over what it held when torch,
underscript, the network and the data were there. A budget is kept if that is at most `SLACK` more
than it, or refused if the decode says at the start what it needs. Exits 1 if a budget is not kept.
With `--written` so many samples of so many classes are decoded, without a network, and the sizes of
the files that a run writes are printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Bytes beyond the budget: libraries that are loaded on the way, and what the system keeps of
# memory that was given back.
SLACK = 300_000_000
BUDGETS = "400MB,800MB,1600MB"


class Words(nn.Module):
    """A text classifier: embeddings, two blocks of attention, the mean of the words."""

    def __init__(self, words: int, width: int, n_classes: int):
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True) for _ in range(2)
        )
        self.readout = nn.Linear(width, n_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits of a batch of texts."""
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=attention_mask == 0)
        mask = attention_mask[..., None].float()
        return self.readout((x * mask).sum(1) / mask.sum(1))


class Texts(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Texts as numbers of words, with labels."""

    def __init__(self, ids: Tensor, labels: Tensor):
        self.ids, self.labels = ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        ids = self.ids[at]
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": self.labels[at]}


class Patches(nn.Module):
    """A vision transformer: patches of 4 × 4, three blocks, the mean of the patches."""

    def __init__(self, side: int, width: int, n_classes: int):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.places = nn.Parameter(torch.randn(1, (side // 4) ** 2, width) / width**0.5)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True) for _ in range(3)
        )
        self.readout = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.readout(x.mean(1))


def _split(x: Any, y: Tensor, n: int) -> list[Any]:
    """Return training data, a hold-out of a tenth as many, and test data."""
    tenth = n // 10
    cuts = slice(0, n), slice(n, n + tenth), slice(n + tenth, None)
    if isinstance(x, Tensor):
        return [(x[cut], y[cut]) for cut in cuts]
    return [Texts(x.ids[cut], y[cut]) for cut in cuts]


def _labels(n: int, n_classes: int) -> Tensor:
    return torch.randperm(n) % n_classes


def _images(model: Callable[[], nn.Module], shape: tuple[int, ...], n: int) -> Any:
    def make() -> tuple[nn.Module, list[Any]]:
        y = _labels(n + n // 10 + 2_000, 10)
        centres = torch.randn(10, *shape)
        x = torch.randn(len(y), *shape)
        for some, labels in zip(x.split(1_000), y.split(1_000), strict=True):
            some += 0.3 * centres[labels]
        wrong = torch.rand(len(y)) < 0.2
        return model(), _split(x, torch.where(wrong, _labels(len(y), 10), y), n)

    return make


def _mlp(*sides: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in pairwise(sides):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sides[-1], 10))


def _cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 9, 10))


def _residual() -> nn.Module:
    from . import networks

    return networks.Residual()


def _texts() -> tuple[nn.Module, list[Any]]:
    n = 2_000
    y = _labels(n + n // 10 + 1_000, 20)
    ids = torch.randint(21, 2_000, (len(y), 40))
    ids[:, ::3] = y[:, None] + 1
    ids[torch.rand(ids.shape) < 0.2] = 0
    ids[:, 0] = 2_000
    return Words(2_001, 128, 20), _split(Texts(ids, y), y, n)


def _features(n: int, width: int, n_classes: int) -> Any:
    def make() -> tuple[None, list[Any]]:
        y = _labels(n + n // 10 + 1_000, n_classes)
        x = torch.randn(n_classes, width)[y] + torch.randn(len(y), width)
        return None, _split(x, y, n)

    return make


CASES: dict[str, Callable[[], tuple[nn.Module | None, list[Any]]]] = {
    "mlp": _images(lambda: _mlp(784, 256, 256), (784,), 5_000),
    "wide-mlp": _images(lambda: _mlp(784, 512, 2_048, 2_048), (784,), 4_000),
    "cnn": _images(_cnn, (1, 28, 28), 2_500),
    "residual": _images(_residual, (3, 32, 32), 2_000),
    "patches": _images(lambda: Patches(32, 128, 10), (3, 32, 32), 2_000),
    "texts": _texts,
    "features": _features(50_000, 32, 10),
    "classes": _features(5_000, 64, 1_000),
}


def held(peak: bool = False) -> int:
    """Return what this process holds, or has held at most, in bytes (Linux)."""
    with open("/proc/self/status", encoding="ascii") as file:
        told = dict(line.split(":", 1) for line in file)
    return 1024 * int(told["VmHWM" if peak else "VmRSS"].split()[0])


def measured(name: str, budget: str) -> dict[str, Any]:
    """Return what a decode took over what was held before, in bytes, or why it was refused."""
    import underscript as us
    from underscript.utils.memory_size import as_bytes

    torch.manual_seed(0)
    model, (train, holdout, test) = CASES[name]()
    # The peak of making the data is not the decode's.
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = held()
    found: dict[str, Any] = {"case": name, "budget": as_bytes(budget), "before": before}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoding = us.decode(model, train, test, holdout, progress=False, memory=budget)
    except us.UnderscriptError as error:
        return found | {"refused": str(error), "peak": held(peak=True) - before}
    timing = decoding.summary["timing"]
    return found | {"peak": held(peak=True) - before, "seconds": sum(timing.values())}


def written(n: int, n_classes: int) -> None:
    """Print the sizes of what a decode of features writes."""
    import underscript as us

    torch.manual_seed(0)
    y = _labels(n, n_classes)
    x = 1.5 * torch.randn(n_classes, 32)[y] + torch.randn(n, 32)
    given = torch.where(torch.rand(n) < 0.2, _labels(n, n_classes), y)
    decoding = us.decode(None, (x, given), progress=False, memory="4GB")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        decoding.save(run)
        for name in ("results.json", "report.html", "label_issues.csv"):
            print(f"{name}: {(run / name).stat().st_size:,} bytes")


def line(found: dict[str, Any]) -> str:
    """Return a row of the table."""
    budget, peak = found["budget"], found["peak"]
    if "refused" in found:
        return f"| {found['case']} | {budget / 1e6:,.0f} MB | | refused: {found['refused']} |"
    kept = "kept" if peak <= budget + SLACK else "**not kept**"
    return (
        f"| {found['case']} | {budget / 1e6:,.0f} MB | {peak / 1e6:,.0f} MB | {kept} "
        f"({found['seconds']:.0f} s) |"
    )


def main() -> None:
    """Run the cases that are asked for, each with each budget."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--budgets", default=BUDGETS)
    parser.add_argument("--json")
    parser.add_argument("--written", metavar="SAMPLES,CLASSES")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one, arguments.budgets)))
        return
    if arguments.written:
        written(*map(int, arguments.written.split(",")))
        return
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"expected some of {', '.join(CASES)}; found {', '.join(unknown)}")
    print("| network | budget | peak over it and torch | |\n|---|---|---|---|", flush=True)
    results, failed = [], False
    for name in arguments.cases or CASES:
        for budget in arguments.budgets.split(","):
            command = [
                sys.executable,
                "-m",
                "benchmarks.memory",
                "--one",
                name,
                "--budgets",
                budget,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["it failed"])[-1]
                print(f"| {name} | {budget} | | failed: {last} |", flush=True)
                failed = True
                continue
            found = json.loads(done.stdout.strip().splitlines()[-1])
            results.append(found)
            failed |= "refused" not in found and found["peak"] > found["budget"] + SLACK
            print(line(found), flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
