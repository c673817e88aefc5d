"""Which epoch to keep, by the monitor and by other rules, on runs that `benchmarks.watched` kept.

    python -m benchmarks.watching --root ROOT --runs runs/watched worse-0 moved-c0.4-0 …

Each run is replayed: `Monitor.update` with the logits of each training batch, `end_epoch` with the
weights of each epoch. Beside it stand the epochs that other rules keep. None sees a clean label.

- *noisy validation*: the largest agreement with the noisy labels of data held out (2012.04193);
- *Label Wave*: the first local minimum of the number of training predictions that change from one
  epoch to the next, as a moving average over k = 3 epochs (2502.07551);
- *susceptibility*: how much better the network fits 512 held-out inputs with random labels after
  one step on them, as the mean over epochs so far; of the epochs below its mean over the run, the
  one with the largest training accuracy (2212.04461);
- *last*: no rule.

Regret is the test accuracy of the best epoch, an oracle, minus that of the epoch kept, in points.
What was measured of a run is in its folder (`watching.json`), and is not measured again. With
`--decode` the last network is decoded too, and wrong labels are found by margins, decoder, both.
"""

import argparse
import copy
import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import cross_entropy

import underscript as us
from underscript.results.monitor.judgement import stop

from .networks import Data, predictions
from .watched import Kept, load, load_last, run_of

MEASURED = "watching.json"
AVERAGED, RANDOM, RATE = 3, 512, 0.01


def measure(name: str, root: Path, runs: Path) -> dict[str, Any]:
    """Replay a run and return what the rules need."""
    torch.manual_seed(0)
    run, kept = run_of(name), Kept(runs / name)
    model, data = load(run, root)
    x, given, true = data.train
    monitor = us.Monitor((x, given))
    held, changes, susceptible, before = [], [], [], None
    for epoch, index, logits in kept.replay(model, given, monitor):
        predicted = torch.full((len(x),), -1)
        predicted[index] = logits.argmax(1)
        changes.append(None if before is None else int((predicted != before).sum()))
        before = predicted
        agrees = predictions(model, data.holdout[0], fast=True).argmax(1) == data.holdout[1]
        held.append(float(agrees.double().mean()))
        susceptible.append(susceptibility(model, data, epoch))
        print(f"{name}: epoch {epoch} of {len(kept.lines)}", flush=True)
    monitor.save(runs / name / "monitor")
    return {
        "held": held,
        "changes": changes,
        "susceptibility": susceptible,
        "wrong": torch.nonzero(given != true)[:, 0].tolist(),
    }


def decoded(name: str, root: Path, runs: Path) -> dict[str, Any]:
    """Decode the last network of a run; return how well wrong labels are found, alone and both."""
    model, data = load_last(name, root, runs)
    x, given, true = data.train
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoding = us.decode(model, (x, given), controls=False, progress=False)
        monitor = us.load_monitor(runs / name / "monitor")
        tables = {
            "margins": monitor.label_issues(),
            "decoder": decoding.label_issues(),
            "both": monitor.label_issues(decoding=decoding),
        }
    return {key: found_by(table, (given != true).numpy()) for key, table in tables.items()}


def found_by(issues: pd.DataFrame, wrong: NDArray[np.bool_]) -> dict[str, float]:
    """Return AUROC of the quality and F1 of the flags."""
    truth, flags = wrong[issues.index], issues["is_label_issue"].to_numpy()
    return {
        "auroc": float(roc_auc_score(truth, -issues["label_quality"])),
        "f1": float(2 * (flags & truth).sum() / (flags.sum() + truth.sum())),
    }


def judged(folder: Path, wrong: list[int]) -> dict[str, Any]:
    """Return what a monitor says of a run, and how well it finds wrong labels."""
    monitor = us.load_monitor(folder)
    kept, when = monitor.recommended, monitor.alarm
    assert kept is not None
    readings = monitor._readings
    stops = (stop(readings[:seen]) for seen in range(1, len(readings) + 1))
    first = next((each.epoch for each in stops if each is not None), None)
    issues = monitor.label_issues()
    truth = np.zeros(1 + int(issues.index.max()), dtype=bool)
    truth[wrong] = True
    found: dict[str, Any] = {
        "monitor": kept.epoch,
        "alarm": None if when is None else when.epoch,
        "stop": first,
        "flagged": int(issues["is_label_issue"].sum()),
    }
    return found | (found_by(issues, truth) if truth.any() else {})


def susceptibility(model: nn.Module, data: Data, seed: int) -> float:
    """Return how much more random labels of held-out inputs fit after one step on them."""
    rng = torch.Generator().manual_seed(seed)
    inputs = data.holdout[0]
    some = inputs[torch.randperm(len(inputs), generator=rng)[:RANDOM]]
    labels = torch.randint(0, 10, (len(some),), generator=rng)
    other = copy.deepcopy(model)
    fits = [(predictions(other, some).argmax(1) == labels).double().mean()]
    other.train()
    loss = cross_entropy(other(some), labels)
    weights = [each for each in other.parameters() if each.requires_grad]
    with torch.no_grad():
        for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight -= RATE * slope
    fits.append((predictions(other, some).argmax(1) == labels).double().mean())
    return float(fits[1] - fits[0])


def label_wave(changes: list[int | None]) -> int:
    """Return the epoch (from 1) of the first local minimum of the averaged prediction changes."""
    known = [(epoch, float(value)) for epoch, value in enumerate(changes, 1) if value is not None]
    smooth = [
        (known[at][0], np.mean([value for _, value in known[at - AVERAGED + 1 : at + 1]]))
        for at in range(AVERAGED - 1, len(known))
    ]
    for (epoch, value), (_, after) in pairwise(smooth):
        if after > value:
            return epoch
    return known[-1][0]


def by_susceptibility(values: list[float], running: list[float]) -> int:
    """Return the epoch of the largest training accuracy among those of low susceptibility."""
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    low = means <= means.mean()
    return 1 + int(np.where(low, running, -1.0).argmax())


def epochs_kept(found: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, int]:
    """Return the epoch that each rule keeps."""
    return {
        "monitor": found["monitor"],
        "noisy validation": 1 + int(np.argmax(found["held"])),
        "Label Wave": label_wave(found["changes"]),
        "susceptibility": by_susceptibility(
            found["susceptibility"], [line["running"] for line in lines]
        ),
        "last": len(lines),
    }


def main() -> None:
    """Measure what is not measured yet, and print a row for each run and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--decode", action="store_true", help="decode the last network as well")
    parser.add_argument("--again", action="store_true", help="measure also what was measured")
    arguments = parser.parse_args()
    regrets: dict[str, list[float]] = {}
    for name in arguments.names:
        path = arguments.runs / name / MEASURED
        if arguments.again or not path.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = measure(name, arguments.root, arguments.runs)
            path.write_text(json.dumps(found))
        found = json.loads(path.read_text())
        found |= judged(path.with_name("monitor"), found["wrong"])
        kept = Kept(arguments.runs / name)
        best = 1 + int(kept.test.argmax())
        cells = [f"{name}: best {best} ({100 * kept.test[best - 1]:.1f}), last {len(kept.test)}"]
        for rule, epoch in epochs_kept(found, kept.lines).items():
            regret = 100 * float(kept.test[best - 1] - kept.test[epoch - 1])
            regrets.setdefault(rule, []).append(regret)
            cells.append(f"{rule} {epoch}: {regret:.1f}")
        wrong = f"AUROC {found['auroc']:.3f}, F1 {found['f1']:.3f}" if "auroc" in found else ""
        cells.append(f"alarm {found['alarm']}, stop {found['stop']}, flags {found['flagged']}")
        print("; ".join([*cells, wrong]), flush=True)
        if arguments.decode:
            for way, reached in decoded(name, arguments.root, arguments.runs).items():
                print(f"  {way}: AUROC {reached['auroc']:.4f}, F1 {reached['f1']:.4f}", flush=True)
    for rule, values in regrets.items():
        print(f"{rule}: mean {np.mean(values):.2f}, worst {max(values):.1f}, n {len(values)}")


if __name__ == "__main__":
    main()
