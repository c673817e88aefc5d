r"""The regret of choosing a layer or a decoder without clean labels: ours beside other rules.

    python -m benchmarks.choosing worse-0 runs/quick/cifar10-cnn/cells/c0.4-run1 banking-0 \
        --root ROOT --runs runs/watched --networks runs/networks --out runs/choosing

A name is that of a run of `benchmarks.watched`, of a network of `benchmarks.networks`,
`benchmarks.texts` or `benchmarks.feature_noise`, or the folder of a cell of `reproduce`. Each
network is decoded with its hold-out, if it has one, and alone. Every candidate (a discriminant of
one layer) is tried on the test data; the best one is the oracle's. Regret is its test accuracy
minus that of what a rule chooses, in points; an ensemble may be better than the best candidate.
No rule sees a clean label.

- *decoded*: the ensemble that `decode` chooses; *best by A\**: the single candidate that agrees
  best with noisy labels, as `decode` estimates that;
- *noisy validation*: the candidate that agrees best with the hold-out's noisy labels;
- *last layer*, *memory meter*, *intrinsic dimension*: the plain linear discriminant of the last
  hidden layer; of the one with the largest corrected agreement in `decoding.memory`; of the one
  with the lowest intrinsic dimension (TwoNN, Facco et al. 2017; of test inputs, no labels);
- *vote*: the plain linear discriminants of all hidden layers, one vote each.

What is finished in DIR is not run again.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn.functional import one_hot

import underscript as us
from underscript.data.source import Source
from underscript.selection.chosen_decoder import Chosen
from underscript.utils.files import write_text

from . import decoder, feature_noise, human
from .audit import work_at
from .watched import RUNS

RULES = (
    "decoded",
    "best by A*",
    "noisy validation",
    "last layer",
    "memory meter",
    "intrinsic dimension",
    "vote",
    "the network itself",
)
SOME = 2_000  # test inputs whose intrinsic dimension is measured


def intrinsic_dimension(rows: Tensor) -> float:
    """Return the TwoNN estimate of the intrinsic dimension of rows (n, width)."""
    distances, _ = NearestNeighbors(n_neighbors=3).fit(rows).kneighbors(rows)
    first, second = distances[:, 1], distances[:, 2]
    apart = first > 0
    if not apart.any():
        return 0.0
    return float(apart.sum() / np.log(second[apart] / first[apart]).sum())


def tried(chosen: Chosen, table: pd.DataFrame, test: Source, held: Source | None) -> dict[str, Any]:
    """Return what rules need: how candidates do on the test data and agree with the hold-out."""
    labels, predicted, rows = [], [], []
    for of_batch, said, layers in chosen.predictions(test):
        labels.append(of_batch)
        predicted.append(said)
        if sum(map(len, labels[:-1])) < SOME:
            rows.append({name: each.float() for name, each in layers.items()})
    truth, answers = torch.cat(labels), torch.cat(predicted, 1)
    fits, memory = chosen.fits, chosen.memory.set_index("layer")["corrected"]
    of_layer: dict[str, int] = {}
    for at, each in enumerate(fits.candidates):
        if not (each.layer == "input" or each.perturbed or each.n_features or each.round):
            of_layer.setdefault(each.layer, at)
    votes = one_hot(answers[[*of_layer.values()]], int(answers.max()) + 1).sum(0)
    found = {
        "right": (answers == truth).double().mean(1).tolist(),
        "by_criterion": int(table["criterion"].argmax()),
        "layers": of_layer,
        "dimensions": {
            name: intrinsic_dimension(torch.cat([each[name] for each in rows])[:SOME])
            for name in of_layer
        },
        "memory": {name: float(memory[name]) for name in of_layer},
        "vote": float((votes.argmax(1) == truth).double().mean()),
    }
    if held is not None:
        agree = [(said == given).sum(1) for given, said, _ in chosen.predictions(held)]
        found["by_holdout"] = int(torch.stack(agree).sum(0).argmax())
    return found


def accuracies(found: dict[str, Any]) -> dict[str, float]:
    """Return the test accuracy of what each rule chooses, and the oracle's."""
    right, layers = found["right"], found["layers"]
    dimensions, memory = found["dimensions"], found["memory"]
    last = right[[*layers.values()][-1]] if layers else np.nan
    reached = {
        "oracle": max(right),
        "decoded": found["decoded"],
        "best by A*": right[found["by_criterion"]],
        "last layer": last,
        "memory meter": right[layers[max(memory, key=memory.__getitem__)]],
        "intrinsic dimension": right[layers[min(dimensions, key=dimensions.__getitem__)]],
        "vote": found["vote"],
        "the network itself": found["own"],
    }
    if "by_holdout" in found:
        reached["noisy validation"] = right[found["by_holdout"]]
    return reached


def measure(model: nn.Module, train: Any, held: Any, test: Any) -> dict[str, Any]:
    """Decode a network, and try every candidate and rule on the test data."""
    found: dict[str, Any] = {}
    original = Chosen.candidates

    def instead(chosen: Chosen, source: Source) -> pd.DataFrame:
        validation = None if held is None else Source(held, "holdout")
        table = original(chosen, None)
        found.update(tried(chosen, table, source, validation))
        return table

    with (
        warnings.catch_warnings(),
        patch.object(Chosen, "candidates", autospec=True, side_effect=instead),
    ):
        warnings.simplefilter("ignore")
        decoding = us.decode(
            model,
            train,
            holdout=held,
            test=test,
            evaluate=("test", "candidates"),
            controls=False,
            progress=False,
        )
    summary = decoding.summary
    found["decoded"] = summary["selected"]["test_accuracy"]
    found["own"] = summary["model"]["accuracy"]["test"]
    return found


def read(name: str, root: Path, runs: Path, zoo: Path) -> tuple[nn.Module, Any, Any, Any]:
    """Return a network, and training data, hold-out and test data as `decode` takes them."""
    if "/" in name:
        work = work_at(Path(name), root, "cpu")
        data = work.data
        pairs = [(data.train.images, data.train.given), (data.test.images, data.test.given)]
        held = data.holdout and (data.holdout.images, data.holdout.given)
        return work.network(), pairs[0], held, pairs[1]
    watched = name in RUNS and (runs / name).exists()
    if watched or name in feature_noise.KINDS:
        case = human.read(name, root, runs if watched else zoo, runs)
        held = None if case.holdout is None else case.holdout[:2]
        return case.model, case.train[:2], held, case.test
    model, parts = decoder.load(name, root, zoo)
    held = decoder.source(parts["holdout"]) if "holdout" in parts else None
    return model, decoder.source(parts["train"]), held, decoder.source(parts["test"], 2)


def shown(found: pd.DataFrame) -> str:
    """Return the table of regrets, in points, and their means and worst by what was known."""
    regrets = found[["network", "hold-out", "oracle"]].copy()
    rules = [rule for rule in RULES if rule in found]
    for rule in rules:
        regrets[rule] = 100 * (found["oracle"] - found[rule])
    lines = [f"| network | oracle | {' | '.join(rules)} |", "|---" * (2 + len(rules)) + "|"]

    def cells(values: pd.Series) -> str:
        return " | ".join("" if pd.isna(each) else f"{each:.1f}" for each in values)

    for known, group in regrets.groupby("hold-out", sort=False):
        for row in group.to_dict("records"):
            name = f"{row['network']}, {'hold-out' if known else 'alone'}"
            told = cells(pd.Series(row)[rules])
            lines.append(f"| {name} | {100 * row['oracle']:.1f} | {told} |")
        for what, values in (("mean", group[rules].mean()), ("worst", group[rules].max())):
            kind = "with hold-outs" if known else "alone"
            lines.append(f"| **{what} of {len(group)} {kind}** | | {cells(values)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/watched"))
    parser.add_argument("--networks", type=Path, default=Path("runs/networks"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="of what is measured already")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in arguments.names:
        parts = None
        short = "-".join(Path(name).parts[-3::2]) if "/" in name else name
        for known in (True, False):
            path = arguments.out / f"{short}-{'holdout' if known else 'alone'}.json"
            if not path.exists() and not arguments.table:
                parts = parts or read(name, arguments.root, arguments.runs, arguments.networks)
                model, train, held, test = parts
                if known and held is None:
                    continue
                found = measure(model, train, held if known else None, test)
                write_text(path, json.dumps(found))
                print(path, flush=True)
            if path.exists():
                reached = accuracies(json.loads(path.read_text()))
                rows.append({"network": short, "hold-out": known, **reached})
    if not rows:
        raise SystemExit(f"{arguments.out}: nothing is measured yet")
    print(shown(pd.DataFrame(rows).sort_values("hold-out", ascending=False, kind="stable")))


if __name__ == "__main__":
    main()
