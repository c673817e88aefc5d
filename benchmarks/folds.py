"""Five retrainings of a network, stopped before they memorise: what cleanlab needs.

    python -m benchmarks.folds --root ROOT --out runs/folds worse-50k aggregate-50k

Each of five networks is trained without a fifth of the data for ten epochs, with flips and crops.
The file of a name holds the probabilities of each sample by the network that has not seen it
(`out_of_fold`), and those of all five together of the test data (`test`), float16 (n, K). What is
finished is not run again; training goes on after the last epoch that ended.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from . import networks
from .networks import RECIPES, Recipe, load, network, predictions

FOLDS, EPOCHS = 5, 10
# In epochs of training one network on all of the data.
COST = EPOCHS * (FOLDS - 1)


def retrain(recipe: Recipe, root: Path, out: Path, device: torch.device, fast: bool) -> None:
    """Train five networks and write what they say. `fast`: with products in bfloat16."""
    data = load(recipe, root)
    x, given, _ = (part.to(device) for part in data.train)
    test = data.test[0].to(device)
    found, together = torch.zeros(len(x), 10), torch.zeros(len(test), 10)
    held = torch.arange(len(x), device=device) % FOLDS
    for fold in range(FOLDS):
        part = out / f"{recipe.name}-{fold}.npz"
        seen = held != fold
        if not part.exists():
            each = replace(recipe, augment=True, seed=fold)
            model = network(each).to(device)
            state = part.with_suffix(".state")
            networks.train(
                model, x[seen], given[seen], each, epochs=EPOCHS, fast=fast, resume=state
            )
            chances = [predictions(model, some, fast).softmax(1) for some in (x[~seen], test)]
            _write(part, *(each.cpu().numpy() for each in chances))
            state.unlink(missing_ok=True)
            print(f"{recipe.name}: fold {fold + 1} of {FOLDS}", flush=True)
        kept = np.load(part)
        found[~seen.cpu()] = torch.from_numpy(kept["out_of_fold"]).float()
        together += torch.from_numpy(kept["test"]).float() / FOLDS
    _write(out / f"{recipe.name}.npz", found.numpy(), together.numpy())
    right = float((together.argmax(1) == data.test[1]).float().mean())
    print(f"{recipe.name}: five retrainings of {EPOCHS} epochs, test {right:.4f}", flush=True)


def _write(path: Path, out_of_fold: np.ndarray, test: np.ndarray) -> None:
    work = path.with_suffix(".tmp.npz")
    np.savez_compressed(work, out_of_fold=out_of_fold.astype("f2"), test=test.astype("f2"))
    work.rename(path)


def main() -> None:
    """Retrain what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=[*RECIPES], metavar="NAME")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        if not (arguments.out / f"{name}.npz").exists():
            device = torch.device(arguments.device)
            retrain(RECIPES[name], arguments.root, arguments.out, device, fast=True)


if __name__ == "__main__":
    main()
