"""Decoding beside other answers to wrong labels, on the demo's network: `docs/comparison.md`.

    python -m benchmarks.beside --out runs/beside [--seeds 0,1,2,3,4] [--data moved-digits]
    python -m benchmarks.beside --features        # without a network: seconds and scores

For each seed: the network that memorised its labels; the epoch at which one should have stopped, by
held-out noisy labels and by an oracle; SAP, RoG and a read-out that was fitted again; the decoder;
and cleanlab with five retrainings of the same network, each stopped early, before and after one
more training without the labels that it flags. Costs are in epochs of training that network. What
is finished in DIR is not run again.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor, nn

import underscript as us
from benchmarks.rivals import rivals
from underscript.experiments.datasets import load_dataset, to_float
from underscript.experiments.demo import Demo, DemoData
from underscript.experiments.folds import FOLDS, train_and_stop
from underscript.experiments.presets import preset_for
from underscript.experiments.training import TrainingRecord, train
from underscript.utils.versions import versions

CPU = torch.device("cpu")
Row = dict[str, Any]


def main() -> None:
    """Measure what is not measured yet, and print means and standard deviations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/beside"))
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--data", default="moved-digits")
    parser.add_argument("--root")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if arguments.features:
        table = pd.concat([pd.DataFrame(of_features(seed)) for seed in seeds])
        print(summary(table, "seconds"))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    tables = []
    for seed in seeds:
        path = arguments.out / f"{arguments.data}-{seed}.csv"
        if not path.exists():
            demo = Demo(data=arguments.data, seed=seed, root=arguments.root)
            pd.DataFrame(measured(demo)).assign(seed=seed).to_csv(path, index=False)
        tables.append(pd.read_csv(path))
        print(path, tables[-1].round(2).to_string(index=False), sep="\n", flush=True)
    print(summary(pd.concat(tables)))
    print(", ".join(f"{name} {version}" for name, version in versions().items()))


def measured(demo: Demo) -> Iterator[Row]:
    """Yield a row for each way: test `accuracy`, `auroc` and `f1` of wrong labels, `epochs`."""
    data = demo.load()
    model, record, seconds = memorised(demo, data)
    epoch = seconds / record.epochs
    true, given = data.true.numpy(), data.train[1].numpy()
    wrong = given != true

    def row(way: str, accuracy: float, spent: float, **scores: Any) -> Row:
        return {"way": way, "accuracy": 100 * accuracy, "epochs": spent, **scores}

    found = partial(scores_of, wrong)
    history = pd.DataFrame(record.history)
    chances = _softmax(model, data.train[0]).numpy()
    in_sample = get_label_quality_scores(given, chances)
    flags = find_label_issues(given, chances, n_jobs=1)
    own = history["test_accuracy"].iloc[-1]
    yield row("the network itself", own, 0.0, **found(in_sample, flags))
    stopped = history.loc[history["holdout_accuracy"].idxmax()]
    yield row("stopped by held-out noisy labels", stopped["test_accuracy"], 0.0)
    yield row("stopped at the best epoch (oracle)", history["test_accuracy"].max(), 0.0)
    pairs = [(x, y.numpy()) for x, y in (data.train, data.holdout, data.test)]
    for rival in rivals(model, *pairs, seed=demo.seed).itertuples():
        if rival.way != "the network itself":
            yield row(str(rival.way), float(rival.accuracy), float(rival.seconds) / epoch)
    began = time.perf_counter()
    decoding = us.decode(
        model, data.train, holdout=data.holdout, controls=False, seed=demo.seed, progress=False
    )
    issues = decoding.label_issues()
    spent = (time.perf_counter() - began) / epoch
    quality, flagged = issues["label_quality"].to_numpy(), issues["is_label_issue"].to_numpy()
    right = np.mean(decoding.best.predict(data.test[0]) == data.test[1].numpy())
    yield row("decoded", float(right), spent, **found(quality, flagged))
    yield from retrained(demo, data, epoch, found)


def scores_of(wrong: np.ndarray, quality: np.ndarray, flags: np.ndarray) -> dict[str, float]:
    """Return AUROC of the qualities and F1 of the flags, in %."""
    hits = (flags & wrong).sum()
    return {
        "auroc": 100 * roc_auc_score(wrong, -quality),
        "f1": 100 * 2 * hits / (flags.sum() + wrong.sum()),
    }


def of_features(seed: int) -> Iterator[Row]:
    """Yield rows of scikit-learn's digits without a network: ours, and cleanlab with five folds."""
    digits = load_dataset("digits")
    features = to_float(digits.train_images).reshape(len(digits.train_labels), -1)
    given = us.corrupt_labels(digits.train_labels, 0.4, 10, seed=42 + seed)
    tests = to_float(digits.test_images).reshape(len(digits.test_labels), -1)
    found = partial(scores_of, given != digits.train_labels)
    began = time.perf_counter()
    decoding = us.decode(None, (features, given), seed=seed, progress=False)
    issues = decoding.label_issues()
    quality, flags = issues["label_quality"].to_numpy(), issues["is_label_issue"].to_numpy()
    right = np.mean(decoding.best.predict(tests) == digits.test_labels)
    spent = time.perf_counter() - began
    row = {"way": "decoded", "accuracy": 100 * right, "seconds": spent}
    yield {**row, **found(quality, flags)}
    began = time.perf_counter()
    model = LogisticRegression(max_iter=1_000)
    chances = cross_val_predict(model, features, given, cv=FOLDS, method="predict_proba")
    flags = find_label_issues(given, chances, n_jobs=1)
    quality = get_label_quality_scores(given, chances)
    right = np.mean(model.fit(features[~flags], given[~flags]).predict(tests) == digits.test_labels)
    spent = time.perf_counter() - began
    row = {"way": "cleanlab, five folds of logistic regression, fitted again without its flags"}
    yield {**row, "accuracy": 100 * right, "seconds": spent, **found(quality, flags)}


def memorised(demo: Demo, data: DemoData) -> tuple[nn.Module, TrainingRecord, float]:
    """Return the demo's network, how its training went, and its seconds without evaluations."""
    preset = preset_for("quick", demo.architecture)
    watched, timed = demo.build(data), demo.build(data)
    sets = {"holdout": data.holdout, "test": data.test}
    record = train(
        watched, *data.train, preset, seed=demo.seed, device=CPU, eval_sets=sets, progress=False
    )
    plain = train(timed, *data.train, preset, seed=demo.seed, device=CPU, progress=False)
    return watched, record, plain.seconds


def retrained(demo: Demo, data: DemoData, epoch: float, found: Any) -> Iterator[Row]:
    """Yield the rows of cleanlab with five networks, and of one trained without what it flags."""
    preset, (inputs, labels) = preset_for("quick", demo.architecture), data.train
    given = labels.numpy()
    chances, on_test = torch.empty(len(given), data.n_classes), []
    began = time.perf_counter()
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=demo.seed)
    for number, (inside, outside) in enumerate(split.split(given, given)):
        model = replace(demo, seed=demo.seed + 1000 * (number + 1)).build(data)
        (chances[outside], tested), _ = train_and_stop(
            model,
            (inputs[inside], labels[inside]),
            (inputs[outside], labels[outside]),
            preset,
            demo.seed,
            CPU,
            [data.test[0]],
        )
        on_test.append(tested)
    probabilities = chances.double().numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    flags = find_label_issues(given, probabilities, n_jobs=1)
    quality = get_label_quality_scores(given, probabilities)
    spent = (time.perf_counter() - began) / epoch

    def right(tested: Tensor) -> float:
        return float((tested.argmax(1) == data.test[1]).double().mean())

    scores = {"way": "cleanlab, five retrainings stopped early", "epochs": spent}
    yield {**scores, "accuracy": 100 * right(sum(on_test)), **found(quality, flags)}
    keep = torch.from_numpy(~flags)
    (_, tested), _ = train_and_stop(
        demo.build(data),
        (inputs[keep], labels[keep]),
        data.holdout,
        preset,
        demo.seed,
        CPU,
        [data.test[0]],
    )
    spent = (time.perf_counter() - began) / epoch
    yield {
        "way": "and a sixth, without the labels that it flags",
        "accuracy": 100 * right(tested),
        "epochs": spent,
    }


def _softmax(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.softmax(model.eval()(inputs).double(), 1)


def summary(table: pd.DataFrame, cost: str = "epochs") -> str:
    """Return means and standard deviations over the seeds, as a table in Markdown."""
    lines = [f"| way | test accuracy | AUROC of wrong labels | F1 of flags | cost, {cost} |"]
    lines.append("|---|---|---|---|---|")
    for way, rows in table.groupby("way", sort=False):
        cells = [
            "" if rows[name].isna().all() else f"{rows[name].mean():.1f} ± {rows[name].std():.1f}"
            for name in ("accuracy", "auroc", "f1", cost)
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
