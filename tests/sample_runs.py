"""Made-up runs, for what is drawn and written of them."""

import math
from typing import Any

import numpy as np
import pandas as pd

from underscript.decoding import Decoding
from underscript.utils.files import RUN_FORMAT

EVIL = "<img src=x onerror=alert(1)>"


def run_of(summary: dict[str, Any], table: pd.DataFrame, **parts: Any) -> Decoding:
    """A decoding of these results; what a report needs of it, but no decoder."""
    issues = parts.pop("issues", None)
    if issues is None:
        rng = np.random.default_rng(0)
        given = rng.integers(0, 10, 200)
        quality = rng.random(200)
        predicted = np.where(quality < 0.3, (given + 1) % 10, given)
        issues = pd.DataFrame(
            {
                "is_label_issue": predicted != given,
                "label_quality": quality,
                "given_label": given,
                "predicted_label": predicted,
                "second_label": (predicted + 1) % 10,
                "margin": quality - 0.3,
            },
            index=pd.RangeIndex(200, name="index"),
        )
    return Decoding(table, summary, None, issues, None, **parts)  # type: ignore[arg-type]


def noise_of(n_classes: int, rate: float = 0.36) -> dict[str, Any]:
    """Noise that also makes 3 into 8 more often than into others."""
    matrix = np.full((n_classes, n_classes), rate / n_classes)
    np.fill_diagonal(matrix, 1 - rate * (n_classes - 1) / n_classes)
    matrix[3, 8] += 0.2
    matrix[3, 3] -= 0.2
    return {
        "rate": rate,
        "rate_low": rate - 0.03,
        "rate_high": rate + 0.03,
        "accuracy": 0.93,
        "accuracy_low": 0.9,
        "accuracy_high": 0.95,
        "n": 1293,
        "beyond_chance": 60.0,
        "transitions": matrix.tolist(),
        "transitions_error": np.full((n_classes, n_classes), 0.02).tolist(),
        "hopeless": False,
        "nothing_wrong": False,
    }


def memory_of(layers: list[str], holdout: bool = True) -> dict[str, Any]:
    """Deeper layers remember more; perturbed inputs and the hold-out tell what."""
    rows = [
        {
            "layer": name,
            "plain": 0.6 + 0.35 * deep,
            "perturbed": 0.58 - 0.1 * deep,
            "holdout": 0.59 - 0.1 * deep if holdout else None,
            "corrected": 0.57 - 0.1 * deep,
        }
        for name, deep in zip(layers, np.arange(len(layers)) / len(layers), strict=True)
    ]
    return {
        "survival": 0.12,
        "survival_likely": 0.08,
        "holdout_weight": 0.9 if holdout else 0.0,
        "layers": rows,
    }


def make_table(
    layers: dict[str, tuple[int, float, float, float | None]], own: tuple[float, float, float]
) -> pd.DataFrame:
    """Lay out a tidy table as a run does.

    `layers` gives width and test accuracy from given labels, from true labels and of the random
    network (None for the input, which a random network shares); `own` is the model's own
    accuracy on test, given and true training labels.
    """
    rows: list[dict[str, Any]] = []

    def add(model: str, layer: str, width: int, labels: str | None, rank: float, a: float) -> None:
        base = {"model": model, "layer": layer, "width": width, "subspace_labels": labels}
        base |= {"probe": "masc", "variance": 0.99, "rank": rank, "selected": False}
        if labels is None:
            base |= {"probe": "model", "variance": math.nan}
        cells = [("test", "given", 360, a), ("train", "given", 1293, 0.62 * a + 0.08)]
        cells += [("train", "true", 1293, min(a + 0.021, 1.0)), ("holdout", "given", 144, 0.66 * a)]
        if labels is None:
            cells = [("test", "given", 360, own[0]), ("train", "given", 1293, own[1])]
            cells += [("train", "true", 1293, own[2]), ("holdout", "given", 144, 0.62 * own[0])]
        for split, kind, n, accuracy in cells:
            rows.append(base | {"split": split, "labels": kind, "n": n, "accuracy": accuracy})

    for name, (width, given_labels, true_labels, random) in layers.items():
        add("trained", name, width, "corrupted", width / 3, given_labels)
        add("trained", name, width, "true", width / 4, true_labels)
        if random is not None:
            add("random", name, width, "corrupted", width / 2.5, random)
    add("trained", "output", 10, None, math.nan, own[0])
    return pd.DataFrame(rows)


def make_summary(table: pd.DataFrame, layer: str) -> dict[str, Any]:
    """Results that fit `table`, with `layer` as the selected one (marked in the table too)."""
    ours = (table.layer == layer) & (table.model == "trained")
    ours &= table.subspace_labels == "corrupted"
    table.loc[ours, "selected"] = True

    def accuracy(rows: pd.DataFrame, split: str, labels: str) -> float:
        found = rows[(rows.split == split) & (rows.labels == labels)]
        return float(found.accuracy.iloc[0])

    best, model = table[ours], table[table.probe == "model"]
    test, own = accuracy(best, "test", "given"), accuracy(model, "test", "given")
    gain = 100 * (test - own)
    return {
        "underscript": {"format": RUN_FORMAT, "version": "0.1.0"},
        "kind": "demo",
        "command": "underscript demo --data digits --corruption 0.4 --seed 0 --out run",
        "created": "2026-02-03T10:20:30+00:00",
        "verdict": (
            f"The network memorised its labels, 36.1 % of them wrong, and gets {100 * own:.1f} % "
            f"of unseen digits right; its layer {layer} still knows {100 * test:.1f} %, "
            f"{gain:.1f} points more."
        ),
        "model": {
            "class": "MLP",
            "parameters": 5_356_042,
            "n_classes": 10,
            "class_names": None,
            "accuracy": {
                "train_given": 0.9990,
                "train_true": 0.637,
                "test": own,
                "holdout": accuracy(model, "holdout", "given"),
            },
        },
        "selected": {
            "layer": layer,
            "layers": [layer],
            "width": int(best.width.iloc[0]),
            "probe": "masc",
            "variance": 0.99,
            "rank": float(best["rank"].iloc[0]),
            "criterion": "holdout",
            "reason": (
                "Of 5 layers it agrees best with the noisy labels of 144 held-out training "
                "examples: 62.5 % ± 4.0."
            ),
            "n": 144,
            "criterion_accuracy": 0.625,
            "criterion_standard_error": 0.04,
            "test_accuracy": test,
            "train_given_accuracy": accuracy(best, "train", "given"),
            "train_true_accuracy": accuracy(best, "train", "true"),
        },
        "oracle": {
            "layer": "input",
            "probe": "masc",
            "variance": 0.99,
            "test_accuracy": test + 0.0083,
            "regret_points": 0.83,
        },
        "gain_points": gain,
        "wrong_label_share": 0.361,
        "noise": noise_of(10),
        "memory": memory_of(list(table.loc[table.probe != "model", "layer"].unique())),
        "peak_memory_bytes": 712_400_000,
        "layers": [{"layer": name, "width": 1, "path": name} for name in table.layer.unique()],
        "settings": {
            "data": "digits",
            "arch": "mlp",
            "corruption": 0.4,
            "variance": 0.99,
            "probes": ["masc"],
            "controls": True,
            "device": "cpu",
            "layers": None,
            "perturb": "shifts",
            "views": 3,
        },
        "seeds": {"corruption": 0, "weights": 0, "random_twin": 1, "split": 0},
        "versions": {
            "underscript": "0.1.0",
            "python": "3.12.8",
            "torch": "2.13.0+cpu",
            "numpy": "2.3.1",
            "scikit-learn": "1.7.0",
        },
        "machine": {
            "platform": "Linux-6.1-x86_64",
            "cpus": 2,
            "processor": "x86_64",
            "peak_memory_mb": 712.4,
        },
        "timing": {"training": 21.7, "decoding": 2.31, "controls": 1.96, "total": 27.4},
        "training": {
            "epochs": 143,
            "optimiser": "SGD, momentum 0.9",
            "learning_rate": 0.01,
            "batch_size": 32,
            "stopped_at": 0.9985,
            "n": 1293,
            "accuracy_by_epoch": [i / 143 for i in range(143)],
        },
        "warnings": [],
    }


def digits() -> tuple[dict[str, Any], pd.DataFrame]:
    """An MLP on handwritten digits with 40 % of the labels redrawn."""
    layers = {
        "input": (64, 0.931, 0.981, None),
        "fc1": (128, 0.939, 0.975, 0.919),
        "fc2": (512, 0.892, 0.969, 0.886),
        "fc3": (2048, 0.817, 0.947, 0.794),
        "fc4": (2048, 0.689, 0.864, 0.731),
    }
    table = make_table(layers, (0.647, 0.9990, 0.637))
    return make_summary(table, "fc1"), table


def evil() -> tuple[dict[str, Any], pd.DataFrame]:
    summary, table = digits()
    table.loc[table.layer == "fc1", "layer"] = EVIL
    table.loc[table.layer == "fc2", "layer"] = "$\\frac{$ [red]&amp;\x00\u202e#0b63b0"
    summary["selected"]["layer"] = summary["oracle"]["layer"] = EVIL
    summary["selected"]["layers"] = [EVIL]
    summary["memory"] = memory_of(
        [str(name) for name in table[table.probe != "model"].layer.unique()]
    )
    summary["model"]["class"] = EVIL
    summary["verdict"] = f"Layer {EVIL} still knows 93.9 %."
    summary["command"] = f"underscript decode --model '{EVIL}' --layers \"</code>*\""
    for part in ("settings", "seeds", "versions", "machine", "training"):
        summary[part] = {EVIL: EVIL}
    summary["settings"] = {EVIL: [EVIL, {EVIL: "</style><script>alert(1)</script>"}]}
    summary["timing"] = {EVIL: 1.0}
    summary["warnings"] = [f"class {EVIL} has no sample", "one more, of ordinary words"]
    return summary, table


def deep() -> tuple[dict[str, Any], pd.DataFrame]:
    layers: dict[str, tuple[int, float, float, float | None]] = {}
    for i in range(40):
        name = f"backbone.encoder.blocks.{i}.attention.projection.output" if i else "input"
        bend = math.sin(i / 13)
        layers[name] = (768, 0.4 + 0.4 * bend, 0.5 + 0.42 * bend, 0.42 - 0.004 * i if i else None)
    table = make_table(layers, (0.38, 1.0, 0.4))
    summary = make_summary(table, "backbone.encoder.blocks.22.attention.projection.output")
    summary["memory"] = memory_of([*layers], holdout=False)
    return summary, table


def single() -> tuple[dict[str, Any], pd.DataFrame]:
    table = make_table({"fc": (32, 0.8, 0.9, 0.5)}, (0.6, 1.0, 0.62))
    return make_summary(table, "fc"), table


def bare() -> tuple[dict[str, Any], pd.DataFrame]:
    """A user's own model: no test data, no true labels, no control, VeLPIC chosen beside MASC."""
    summary, table = digits()
    table = table[(table.model == "trained") & (table.subspace_labels != "true")]
    table = table[(table.split != "test") & (table.labels == "given")]
    linear = table[table.probe == "masc"].assign(
        probe="velpic", variance=math.nan, rank=1.0, selected=False
    )
    linear["accuracy"] += 0.01
    table = pd.concat([table.assign(selected=False), linear], ignore_index=True)
    table.loc[(table.probe == "velpic") & (table.layer == "fc1"), "selected"] = True
    summary |= {"kind": "decode", "oracle": None, "gain_points": None, "training": None}
    summary |= {"wrong_label_share": None, "command": None, "noise": None, "memory": None}
    summary["model"]["accuracy"] |= {"test": None, "train_true": None, "holdout": None}
    summary["selected"] |= {"probe": "velpic", "variance": None, "rank": 1.0}
    summary["selected"] |= {"test_accuracy": None, "train_true_accuracy": None}
    return summary, table


def holes() -> tuple[dict[str, Any], pd.DataFrame]:
    summary, table = digits()
    table.loc[(table.layer == "fc3") & (table.split == "test"), "accuracy"] = math.nan
    table.loc[table.layer == "fc2", "rank"] = math.nan
    table.loc[(table.layer == "output") & (table.split == "train"), "accuracy"] = math.nan
    return summary, table


SAMPLES = {f.__name__: f for f in (digits, evil, deep, single, bare, holes)}
