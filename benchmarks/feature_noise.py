"""Networks that memorised noise which depends on the image: made and trained.

    python -m benchmarks.feature_noise --root ROOT --out runs/feature-noise [pmd-1 cluster …]

ROOT is what `data/unpack.py` wrote. First an oracle is trained on the *true* labels of the training
images and the hold-out, with flips and crops. Its probabilities give noise of small margins (PMD,
types I to III), a t-SNE map of its last hidden layer gives cluster noise; 35 % of the labels change
(`underscript.corrupt_labels`). For each kind a network is trained until it memorised these labels.
`benchmarks.human` asks it which labels are wrong; no way sees the oracle or a true label. What is
there is not made again, and training goes on after the last epoch that ended.
"""

import argparse
import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from underscript import corrupt_labels
from underscript.experiments.training import matrix_precision

from . import networks
from .networks import Data, Recipe

KINDS = ("pmd-1", "pmd-2", "pmd-3", "cluster")
DEGREE, SEED = 0.35, 0


@dataclass(frozen=True)
class Sizes:
    """Images of each part, and epochs of the oracle and (at most) of the networks."""

    images: int = 20_000
    held: int = 5_000
    test: int = 10_000
    oracle: int = 15
    epochs: int = 120

    def recipe(self, name: str) -> Recipe:
        """Return how a network is trained: as the others of `benchmarks.networks`."""
        return Recipe(name, "cifar10", name, self.images, held=self.held, epochs=self.epochs)

    def data(self, name: str, root: Path) -> Data:
        """Return the images; the given labels are the true ones."""
        found = networks.load(replace(self.recipe(name), labels="c0"), root)
        return replace(found, test=(found.test[0][: self.test], found.test[1][: self.test]))


def make_noise(sizes: Sizes, root: Path, out: Path, device: torch.device, fast: bool) -> None:
    """Train the oracle; write given labels of each kind, training images first, and facts."""
    data = sizes.data("oracle", root)
    x, _, true = (torch.cat(parts) for parts in zip(data.train, data.holdout, strict=True))
    x, on_device = x.to(device), true.to(device)
    recipe = replace(sizes.recipe("oracle"), augment=True)
    model, state = networks.network(recipe).to(device), out / "oracle.state"
    lines = networks.train(
        model,
        x,
        on_device,
        recipe,
        (data.test[0].to(device), data.test[1].to(device)),
        epochs=sizes.oracle,
        fast=fast,
        ended=functools.partial(_say, "oracle"),
        resume=state,
    )
    logits, rows = _logits_and_rows(model, x, fast)
    plane = _map(rows)
    labels = {
        kind: corrupt_labels(
            true,
            DEGREE,
            10,
            kind=kind,
            seed=SEED,
            **({"features": plane} if kind == "cluster" else {"scores": logits}),
        )
        for kind in KINDS
    }
    right = true.numpy()
    probability = logits.softmax(1)
    own = probability[torch.arange(len(true)), true]
    others = probability.scatter(1, true[:, None], 0.0).amax(1)
    order = (own - others).argsort().numpy()
    facts = {
        "oracle": {"epochs": lines, "fitted": float((logits.argmax(1) == true).float().mean())},
        "wrong": {kind: float((given != right).mean()) for kind, given in labels.items()},
        # From the tenth of the smallest margins to that of the largest.
        "wrong_by_margin": {
            kind: [float(part.mean()) for part in np.array_split((given != right)[order], 10)]
            for kind, given in labels.items()
        },
    }
    (out / "noise.json").write_text(json.dumps(facts, indent=1))
    work = out / "labels.tmp.npz"
    np.savez_compressed(work, map=plane, **labels)
    work.rename(out / "labels.npz")
    state.unlink(missing_ok=True)
    print(f"wrong: {facts['wrong']}", flush=True)


@torch.no_grad()
def _logits_and_rows(model: nn.Module, x: Tensor, fast: bool) -> tuple[Tensor, Tensor]:
    """Return logits (n, K) and the rows of the last hidden layer (n, 256)."""
    rows: list[Tensor] = []
    hook = model.get_submodule("flatten").register_forward_hook(
        lambda module, inputs, output: rows.append(output.float())
    )
    logits = networks.predictions(model, x, fast)
    hook.remove()
    return logits.cpu(), torch.cat(rows).cpu()


def _map(rows: Tensor) -> np.ndarray:
    """Return a t-SNE map of rows, float32 (n, 2)."""
    from sklearn.manifold import TSNE

    found: np.ndarray = TSNE(random_state=SEED).fit_transform(rows.numpy())
    return found


def sizes_of(kind: str, out: Path) -> Sizes:
    """Return the sizes with which a network was made."""
    path = out / f"{kind}.json"
    if not path.exists():
        raise SystemExit(f"{path}: no network; `python -m benchmarks.feature_noise` makes it")
    recipe = json.loads(path.read_text())["recipe"]
    return Sizes(recipe["n"], recipe["held"], epochs=recipe["epochs"])


def load(kind: str, sizes: Sizes, root: Path, out: Path) -> Data:
    """Return the images with the labels of a kind of noise."""
    data = sizes.data(kind, root)
    given = torch.from_numpy(np.load(out / "labels.npz")[kind]).split([sizes.images, sizes.held])
    (x, _, true), (held, _, held_true) = data.train, data.holdout
    return Data((x, given[0], true), (held, given[1], held_true), data.test)


def _say(name: str, line: dict[str, float]) -> None:
    print(f"{name}: {line}", flush=True)


def main() -> None:
    """Make and train what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, help="for a trial: fewer images of each part")
    parser.add_argument("--epochs", type=int, help="for a trial: of each network, at most")
    arguments = parser.parse_args()
    out, root = arguments.out, arguments.root
    out.mkdir(parents=True, exist_ok=True)
    sizes = Sizes()
    if arguments.images:
        held = arguments.images // 4
        sizes = replace(sizes, images=arguments.images, held=held, test=2 * held)
    if arguments.epochs:
        sizes = replace(sizes, oracle=arguments.epochs, epochs=arguments.epochs)
    device = torch.device(arguments.device)
    fast = matrix_precision(device) == torch.bfloat16
    if not (out / "labels.npz").exists():
        make_noise(sizes, root, out, device, fast)
    for kind in arguments.kinds:
        if not (out / f"{kind}.pt").exists():
            state = out / f"{kind}.state"
            networks.make(
                sizes.recipe(kind),
                load(kind, sizes, root, out),
                out,
                device,
                fast=fast,
                ended=functools.partial(_say, kind),
                resume=state,
            )
            state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
