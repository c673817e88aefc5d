"""Training runs of which every epoch is kept, to judge rules that watch a network while it trains.

    python -m benchmarks.watched --root ROOT --out runs/watched worse-0 moved-0 …

Each run becomes a folder: the weights after each epoch, the logits of each training batch, a line
an epoch, and test accuracy, which only an oracle knows. `benchmarks.watching` judges the rules on
them. A run that is there is not trained again; on a CPU one that was stopped goes on. Products are
in bfloat16, weights are kept in float16. ROOT is what `data/unpack.py` wrote.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from underscript import Monitor
from underscript.experiments.demo import Demo

from . import networks
from .networks import RECIPES, Data, Recipe


def _runs() -> dict[str, Recipe]:
    """Return all runs; those named ``tune-…`` are the ones that constants may be looked at with."""
    digits = Recipe("", "moved-digits", "c0.4", 0, arch="small-cnn", stop=0.99, epochs=40)
    clean = {"labels": "c0", "stop": 2.0}
    runs: dict[str, Recipe] = {}
    for seed in range(3):
        runs[f"worse-{seed}"] = replace(RECIPES["worse-0"], seed=seed)
        runs[f"random1-{seed}"] = replace(RECIPES["random1-0"], seed=seed)
        runs[f"mnist-c0.4-{seed}"] = replace(RECIPES["mnist-c0.4"], seed=seed)
        runs[f"mnist-c0.8-{seed}"] = replace(RECIPES["mnist-c0.8"], seed=seed)
        runs[f"moved-c0.4-{seed}"] = replace(digits, seed=seed)
    for seed in range(8):
        runs[f"moved-clean-{seed}"] = replace(digits, seed=seed, epochs=20, **clean)
    for seed in range(2):
        runs[f"mnist-clean-{seed}"] = replace(RECIPES["mnist-c0.4"], seed=seed, epochs=20, **clean)
    runs |= {name: RECIPES[name] for name in RECIPES if "50k" in name or "augmented" in name}
    runs["clean-0"] = replace(RECIPES["clean-0"], epochs=15, **clean)
    for name in ("worse", "random1", "aggregate"):
        runs[f"tune-{name}-10"] = replace(RECIPES[f"tune-{name}-1"], seed=10)
    runs["tune-mnist-c0.8-10"] = replace(RECIPES["tune-mnist-c0.8-1"], seed=10)
    for seed in (10, 11):
        runs[f"tune-moved-c0.4-{seed}"] = replace(digits, seed=seed)
        runs[f"tune-moved-clean-{seed}"] = replace(digits, seed=seed, epochs=20, **clean)
    return {name: replace(run, name=name) for name, run in runs.items()}


RUNS = _runs()


def run_of(name: str) -> Recipe:
    """Return the run of a name; another name ends the program in one line."""
    if name not in RUNS:
        raise SystemExit(f"{name}: expected a run, one of {', '.join(RUNS)}")
    return RUNS[name]


def load(run: Recipe, root: Path) -> tuple[nn.Module, Data]:
    """Return the untrained network of a run, and its data."""
    if run.data != "moved-digits":
        return networks.network(run), networks.load(run, root)
    demo = Demo(arch=run.arch, corruption=float(run.labels[1:]), seed=run.seed)
    data = demo.load()
    held = (*data.holdout, data.holdout[1])
    return demo.build(data), Data((*data.train, data.true), held, data.test)


class Kept:
    """A run that was kept: `lines`, and per epoch (from 1) the weights, and logits (n, K)."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "run.json"
        if not path.exists():
            raise SystemExit(f"{folder}: no finished run; `python -m benchmarks.watched` makes it")
        facts = json.loads(path.read_text())
        self.lines: list[dict[str, Any]] = facts["epochs"]
        self.test = np.array([line["test"] for line in self.lines])

    def weights(self, epoch: int) -> dict[str, Tensor]:
        """Return the weights after an epoch."""
        state = load_file(self.folder / f"epoch-{epoch:03d}.safetensors")
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}

    def batches(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return places and logits in the order in which they were seen."""
        kept = load_file(self.folder / f"logits-{epoch:03d}.safetensors")
        return kept["index"].long(), kept["logits"]

    def replay(
        self, model: nn.Module, given: Tensor, monitor: Monitor
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Let a monitor see the run again; yield each epoch, places and logits when it has ended.

        The model then has the epoch's weights.
        """
        for epoch in range(1, len(self.lines) + 1):
            model.load_state_dict(self.weights(epoch))
            model.train()
            index, logits = self.batches(epoch)
            for at, part in zip(index.split(512), logits.split(512), strict=True):
                monitor.update(part, given[at], at)
            monitor.end_epoch(model)
            yield epoch, index, logits


def load_last(name: str, root: Path, runs: Path) -> tuple[nn.Module, Data]:
    """Return the network that a run ended with, and its data."""
    run, kept = run_of(name), Kept(runs / name)
    model, data = load(run, root)
    model.load_state_dict(kept.weights(len(kept.lines)))
    return model, data


def keep(run: Recipe, root: Path, out: Path, device: torch.device) -> None:
    """Train a run and write its folder."""
    model, data = load(run, root)
    model.to(device)
    work = out / f"{run.name}.partial"
    work.mkdir(parents=True, exist_ok=True)
    index: list[Tensor] = []
    logits: list[Tensor] = []

    def seen(batch: Tensor, given: Tensor) -> None:
        index.append(batch)
        logits.append(given.clone())

    def ended(line: dict[str, float]) -> None:
        number = f"{int(line['epoch']):03d}"
        state = {
            k: (v.half() if v.is_floating_point() else v).contiguous().cpu()
            for k, v in model.state_dict().items()
        }
        save_file(state, work / f"epoch-{number}.safetensors")
        kept = {"index": torch.cat(index).int().cpu(), "logits": torch.cat(logits).cpu()}
        save_file(kept, work / f"logits-{number}.safetensors")
        index.clear()
        logits.clear()
        print(f"{run.name}: {line}", flush=True)

    x, given, *test = (part.to(device) for part in (*data.train[:2], *data.test))
    state = work / "state.pt"
    lines = networks.train(
        model, x, given, run, (test[0], test[1]), fast=True, seen=seen, ended=ended, resume=state
    )
    facts = {
        "recipe": asdict(run),
        "epochs": lines,
        "torch": torch.__version__,
        "device": networks.device_name(device),
    }
    (work / "run.json").write_text(json.dumps(facts, indent=1))
    state.unlink(missing_ok=True)
    shutil.rmtree(out / run.name, ignore_errors=True)
    work.rename(out / run.name)


def main() -> None:
    """Train what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", default=[*RUNS])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    for name in arguments.runs:
        if not (arguments.out / name / "run.json").exists():
            keep(run_of(name), arguments.root, arguments.out, device)


if __name__ == "__main__":
    main()
