"""The networks that the decoder is measured on: trained here until they memorise wrong labels.

    python -m benchmarks.networks --root ROOT --out runs/networks [--only worse-0,random1-0]

ROOT is what `data/unpack.py` wrote (CIFAR-10 and its human labels); MNIST and Fashion-MNIST are
looked for in it and in the loaders' own folders. Each network becomes one file of weights, rounded
to float16, and one of facts: how many labels it fits, its accuracy by epoch, and its best epoch,
which nobody can know without clean test labels (an oracle). A network that is there is not trained
again. Networks named ``tune-…`` are those that the decoder's constants may be looked at with; the
others are for reporting only. Needs torch and numpy alone.
"""

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, relu

HUMAN = {"worse": "worse_label", "random1": "random_label1", "aggregate": "aggre_label"}


@dataclass(frozen=True)
class Recipe:
    """A network: what it is trained on, and how.

    `labels` is a name of human labels, or ``c0.4`` for a share that is redrawn from all classes;
    the training images are `first` to `first + n` of the training data, the hold-out the last
    `held`.
    """

    name: str
    data: str
    labels: str
    n: int
    first: int = 0
    held: int = 5_000
    augment: bool = False
    seed: int = 0
    arch: str = "residual"
    stop: float = 0.995
    epochs: int = 120


def _recipes() -> dict[str, Recipe]:
    some = [
        Recipe("worse-0", "cifar10", "worse", 20_000),
        Recipe("random1-0", "cifar10", "random1", 20_000),
        Recipe("c0.25-0", "cifar10", "c0.25", 20_000),
        Recipe("aggregate-0", "cifar10", "aggregate", 20_000),
        Recipe("clean-0", "cifar10", "c0", 20_000),
        Recipe(
            "worse-augmented-0", "cifar10", "worse", 20_000, augment=True, stop=0.95, epochs=400
        ),
        *(
            Recipe(f"{labels}-50k", "cifar10", labels, 50_000, held=0)
            for labels in ("worse", "random1", "aggregate")
        ),
        *(
            Recipe(
                f"{labels}-50k-augmented",
                "cifar10",
                labels,
                50_000,
                held=0,
                augment=True,
                stop=0.99,
                epochs=400,
            )
            for labels in ("worse", "random1", "aggregate")
        ),
        Recipe("tune-worse-1", "cifar10", "worse", 20_000, first=22_000, seed=1),
        Recipe("tune-random1-1", "cifar10", "random1", 20_000, first=22_000, seed=1),
        Recipe("tune-aggregate-1", "cifar10", "aggregate", 20_000, first=22_000, seed=1),
        Recipe("tune-c0.4-1", "cifar10", "c0.4", 20_000, first=22_000, seed=1),
        Recipe("tune-c0.8-1", "cifar10", "c0.8", 20_000, first=22_000, seed=1),
        Recipe(
            "tune-random1-augmented-1",
            "cifar10",
            "random1",
            20_000,
            first=22_000,
            augment=True,
            seed=1,
            stop=0.95,
            epochs=400,
        ),
        Recipe(
            "tune-worse-augmented-1",
            "cifar10",
            "worse",
            20_000,
            first=22_000,
            augment=True,
            seed=1,
            stop=0.95,
            epochs=400,
        ),
        Recipe("mnist-c0.4", "mnist", "c0.4", 55_000, arch="mlp", stop=0.99),
        Recipe("mnist-c0.8", "mnist", "c0.8", 55_000, arch="mlp", stop=0.99),
        Recipe("fashion-c0.8", "fashion-mnist", "c0.8", 55_000, arch="cnn", stop=0.97),
        Recipe("tune-mnist-c0.8-1", "mnist", "c0.8", 20_000, arch="mlp", stop=0.99, seed=1),
        Recipe(
            "tune-fashion-c0.4-1", "fashion-mnist", "c0.4", 20_000, arch="cnn", stop=0.99, seed=1
        ),
    ]
    return {recipe.name: recipe for recipe in some}


RECIPES = _recipes()


class Block(nn.Module):
    """Two 3 × 3 convolutions and a way around them."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.around = nn.Sequential()
        if stride > 1 or channels_in != channels:
            self.around = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block makes of a batch of maps."""
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(out + self.around(x))


class Residual(nn.Module):
    """A stem, three blocks of 64, 128 and 256 channels, a linear read-out: 1.2 million numbers."""

    def __init__(self, n_classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.block1, self.block2 = Block(64, 64, 1), Block(64, 128, 2)
        self.block3 = Block(128, 256, 2)
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.readout = nn.Linear(256, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return self.readout(self.flatten(self.pool(x)))


def network(recipe: Recipe) -> nn.Module:
    """Return the untrained network of a recipe."""
    torch.manual_seed(recipe.seed)
    if recipe.arch == "residual":
        return Residual()
    if recipe.arch == "mlp":
        sides = [784, 128, 512, 2048, 2048]
        layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
        for number, (a, b) in enumerate(pairwise(sides), 1):
            layers[f"fc{number}"] = nn.Sequential(nn.Linear(a, b), nn.ReLU())
        model = nn.Sequential()
        for name, module in (layers | {"readout": nn.Linear(2048, 10)}).items():
            model.add_module(name, module)
        return model
    model = nn.Sequential()
    channels = [1, 16, 16, 32, 32, 64, 64]
    for number, (a, b) in enumerate(pairwise(channels), 1):
        model.add_module(f"conv{number}", nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.ReLU()))
        if number % 2 == 0:
            model.add_module(f"pool{number // 2}", nn.MaxPool2d(2))
    model.add_module("flatten", nn.Flatten())
    for number, (a, b) in enumerate(((576, 250), (250, 250), (250, 250)), 1):
        model.add_module(f"fc{number}", nn.Sequential(nn.Linear(a, b), nn.ReLU()))
    model.add_module("readout", nn.Linear(250, 10, bias=False))
    return model


@dataclass
class Data:
    """Images float32 (n, C, H, W) in [−1, 1], given and true labels int64 (n,), of each part."""

    train: tuple[Tensor, Tensor, Tensor]
    holdout: tuple[Tensor, Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(recipe: Recipe, root: Path) -> Data:
    """Return the data of a recipe."""
    images, true, test_images, test_labels = _read(recipe.data, root)
    if recipe.labels in HUMAN:
        given = torch.from_numpy(np.load(root / "cifar-10n" / f"{HUMAN[recipe.labels]}.npy")).long()
    else:
        share = float(recipe.labels[1:])
        rng = np.random.default_rng(1_000 + recipe.seed)
        redrawn = torch.from_numpy(rng.random(len(true)) < share)
        drawn = torch.from_numpy(rng.integers(0, 10, len(true)))
        given = torch.where(redrawn, drawn, true)
    mine = slice(recipe.first, recipe.first + recipe.n)
    rest = slice(len(true) - recipe.held, len(true)) if recipe.held else slice(0, 0)
    if recipe.held and recipe.first + recipe.n > len(true) - recipe.held:
        rest = slice(0, recipe.held)
    # Images recur in neither part: the hold-out is before or behind the training images.
    parts = [tuple(each[part] for each in (images, given, true)) for part in (mine, rest)]
    return Data(parts[0], parts[1], (test_images, test_labels))  # type: ignore[arg-type]


def _read(name: str, root: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if name == "cifar10":
        folder = root / "cifar-10-batches-bin"
        files = [folder / f"data_batch_{k}.bin" for k in range(1, 6)]
        raw = np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073) for f in files])
        test = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(-1, 3073)
        shape = (-1, 3, 32, 32)
        return (
            _scaled(raw[:, 1:].reshape(shape)),
            torch.from_numpy(raw[:, 0]).long(),
            _scaled(test[:, 1:].reshape(shape)),
            torch.from_numpy(test[:, 0]).long(),
        )
    folder = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "underscript"
    places = [base / folder / "raw" for base in (root, cache)]
    place = next((place for place in places if place.is_dir()), places[0])
    parts = [
        _idx(place, f"{kind}-{what}")
        for kind in ("train", "t10k")
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    return (
        _scaled(parts[0][:, None]),
        torch.from_numpy(parts[1]).long(),
        _scaled(parts[2][:, None]),
        torch.from_numpy(parts[3]).long(),
    )


def _idx(place: Path, name: str) -> np.ndarray:
    packed = place / f"{name}.gz"
    raw = gzip.decompress(packed.read_bytes()) if packed.exists() else (place / name).read_bytes()
    sides = np.frombuffer(raw, ">u4", raw[3], 4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sides)


def _scaled(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float().div_(127.5).sub_(1)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images, and crop each at random after a border of 4 pixels."""
    n, _, height, width = x.shape
    flips = torch.rand(n, generator=generator, device=x.device) < 0.5
    x = torch.where(flips[:, None, None, None], x.flip(3), x)
    x = pad(x, (4, 4, 4, 4))
    rows = torch.randint(9, (n, 1), generator=generator, device=x.device)
    rows = rows + torch.arange(height, device=x.device)
    columns = torch.randint(9, (n, 1), generator=generator, device=x.device)
    columns = columns + torch.arange(width, device=x.device)
    each = torch.arange(n, device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def predictions(model: nn.Module, x: Tensor, fast: bool = False) -> Tensor:
    """Return logits (n, K) in evaluation mode; `fast`: with products in bfloat16."""
    model.eval()
    size = 2_000 if x.is_cuda else 250  # A CPU's cache holds the maps of few images.
    with torch.autocast(x.device.type, torch.bfloat16, fast):
        return torch.cat([model(part).float() for part in x.split(size)])


class _Step:
    """One step of Adam; on CUDA a graph of it. `fast`: with products in bfloat16.

    It gives the logits of the batch from before the step.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, fast: bool):
        self.model, self.fast, self.graphed = model, fast, x.is_cuda
        rate = torch.tensor(1e-3, device=x.device) if self.graphed else 1e-3
        self.optimiser = torch.optim.Adam(model.parameters(), rate, capturable=self.graphed)
        self.graph = None
        if not self.graphed:
            return
        self.x, self.y = x.clone(), y.clone()
        model.train()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run(self.x, self.y)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._run(self.x, self.y)

    def _run(self, x: Tensor, y: Tensor) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, self.fast, cache_enabled=False):
            logits = self.model(x).float()
        cross_entropy(logits, y).backward()
        self.optimiser.step()
        return logits.detach()

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.graph is None:
            return self._run(x, y)
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.logits

    @property
    def rate(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    @rate.setter
    def rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            if self.graphed:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    test: tuple[Tensor, Tensor] | None = None,
    epochs: int | None = None,
    seconds: float = float("inf"),
    fast: bool | None = None,
    seen: Callable[[Tensor, Tensor], None] = lambda index, logits: None,
    ended: Callable[[dict[str, float]], None] = lambda line: None,
    resume: Path | None = None,
) -> list[dict[str, float]]:
    """Train until a share of the labels is fitted, or for some epochs; return a line an epoch.

    Adam at 1e-3, batches of 128 (MLP 512); below 20 % of labels still to be fitted the rate shrinks
    with their share, to a twentieth at least. No weight decay, augmentation only where the recipe
    says so. `fast`: products in bfloat16, by default on CUDA. `seen` gets each batch's places and
    logits, `ended` each epoch's line. `resume`: a file for the state after each epoch; on a CPU,
    training goes on from it.
    """
    device = x.device
    fast = x.is_cuda if fast is None else fast
    generator = torch.Generator(device).manual_seed(recipe.seed)
    size = min(len(x), 512 if recipe.arch == "mlp" else 128)
    if not x.is_cuda:  # Convolutions are a third faster so on a CPU.
        model.to(memory_format=torch.channels_last)
    step = _Step(model, x[:size], y[:size], fast)
    lines = _resumed(resume, step, generator) if resume and not x.is_cuda else []
    began = time.perf_counter()
    for epoch in range(len(lines), epochs or recipe.epochs):
        if time.perf_counter() - began > seconds:
            break
        model.train()
        start, hits = time.perf_counter(), torch.zeros((), device=device)
        for batch in torch.randperm(len(x), generator=generator, device=device).split(size):
            if len(batch) == size:
                inputs = augmented(x[batch], generator) if recipe.augment else x[batch]
                logits = step(inputs, y[batch])
                hits += (logits.argmax(1) == y[batch]).sum()
                seen(batch, logits)
        left = 1 - float(hits) / (len(x) // size * size)
        step.rate = 1e-3 * min(1.0, max(0.05, left / 0.2))
        line = {"epoch": epoch + 1, "seconds": time.perf_counter() - start, "running": 1 - left}
        if test is not None:
            line["test"] = _accuracy(predictions(model, test[0], fast), test[1])
        if epochs is None and left < 3 * (1 - recipe.stop):
            line["fitted"] = _accuracy(predictions(model, x, fast), y)
        lines.append(line)
        ended(line)
        if resume and not x.is_cuda:
            _save(resume, step, generator, lines)
        if line.get("fitted", 0.0) >= recipe.stop:
            break
    model.to(memory_format=torch.contiguous_format)
    return lines


def _save(path: Path, step: _Step, generator: torch.Generator, lines: list[Any]) -> None:
    """Write all that training needs to go on."""
    state = {
        "model": step.model.state_dict(),
        "optimiser": step.optimiser.state_dict(),
        "order": generator.get_state(),
        "lines": lines,
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def _resumed(path: Path, step: _Step, generator: torch.Generator) -> list[dict[str, float]]:
    """Go back to the state after the last epoch that ended; return the lines until then."""
    if not path.exists():
        return []
    state = torch.load(path, weights_only=True)
    step.model.load_state_dict(state["model"])
    step.optimiser.load_state_dict(state["optimiser"])
    generator.set_state(state["order"])
    return list(state["lines"])


def device_name(device: torch.device) -> str:
    """Return what facts say of where a network was trained."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def make(recipe: Recipe, data: Data, out: Path, device: torch.device, **settings: Any) -> None:
    """Train one network, with settings of `train`, and write its weights and facts."""
    x, given, true = (part.to(device) for part in data.train)
    test = tuple(part.to(device) for part in data.test)
    model = network(recipe).to(device)
    lines = train(model, x, given, recipe, test, **settings)  # type: ignore[arg-type]
    # As they are written, so they are measured.
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    best = max(lines, key=lambda line: line["test"])
    facts = {
        "recipe": asdict(recipe),
        "wrong": float((given != true).float().mean()),
        "fitted": _accuracy(predictions(model, x), given),
        "test": _accuracy(predictions(model, test[0]), test[1]),
        "best_epoch_oracle": best["test"],
        "epochs": lines,
        "torch": torch.__version__,
        "device": device_name(device),
    }
    torch.save({k: v.cpu() for k, v in state.items()}, out / f"{recipe.name}.tmp")
    (out / f"{recipe.name}.json").write_text(json.dumps(facts, indent=1))
    (out / f"{recipe.name}.tmp").rename(out / f"{recipe.name}.pt")
    print(
        f"{recipe.name}: {len(lines)} epochs, fits {facts['fitted']:.4f} "
        f"(wrong {facts['wrong']:.3f}), test {facts['test']:.4f}, "
        f"best epoch {facts['best_epoch_oracle']:.4f}",
        flush=True,
    )


def main() -> None:
    """Train what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(RECIPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most, for each")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    for name in arguments.only.split(","):
        if not (arguments.out / f"{name}.pt").exists():
            data = load(RECIPES[name], arguments.root)
            make(RECIPES[name], data, arguments.out, device, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
