"""Measure the repaired networks of docs/repair.md: what each is right for on test data.

Takes the cells that ``underscript reproduce mnist-mlp --only A1 --samples 60000 --holdout 5000
--corruption 0.4,0.8 --runs 1 --out RUNS`` left:

    python tools/repair.py RUNS --corruption 0.4,0.8
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import underscript as us
from underscript.data.source import Source
from underscript.experiments.plan import Cell, Plan
from underscript.experiments.work import Work
from underscript.probes.baselines import LinearDiscriminant
from underscript.repair.onnx import OnnxClassifier


def main() -> None:
    """Print one table a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--corruption", default="0.4,0.8")
    parser.add_argument("--samples", type=int, default=60000)
    parser.add_argument("--holdout", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3, help="of retraining; 0: none")
    options = parser.parse_args()
    for degree in map(float, options.corruption.split(",")):
        plan = Plan(
            "mnist-mlp",
            corruptions=(degree,),
            runs=1,
            samples=options.samples,
            holdout=options.holdout,
            new_labels=options.holdout > 0,
        )
        measure(Work(plan, Cell(degree, 1), options.runs), options.epochs)


def measure(work: Work, epochs: int) -> None:
    """Print what each repaired network of a cell is right for."""
    model, data = work.network(), work.data
    train = (data.train.images, data.train.given)
    holdout = None if data.holdout is None else (data.holdout.images, data.holdout.given)
    x, true = torch.from_numpy(data.test.images), data.test.true

    def accuracy(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network(x).argmax(1).numpy() == true).mean())

    started = time.perf_counter()
    found = us.decode(
        model,
        train,
        holdout=holdout,
        layers=work.plan.pair.layers,
        controls=False,
        evaluate=("test",),
        pool="flatten",
        seed=work.cell.seed,
    )
    tell(f"c = {work.cell.corruption:g}: seconds to decode", time.perf_counter() - started, ".0f")
    tell("the network itself", accuracy(model))
    with torch.no_grad():
        # The last hidden layer, read by a linear probe fitted to the same noisy labels.
        below = nn.Sequential(*list(model.children())[:-1])
        rows = [below(torch.from_numpy(part)) for part in np.array_split(train[0], 20)]
        probe = LinearDiscriminant(shrinkage=0.01).fit(torch.cat(rows).numpy(), train[1])
        said = probe.predict(below(x).numpy())
    tell("linear probe of its last hidden layer", (said == true).mean())
    tell("decoded", (found.best.predict(x.numpy()) == true).mean())
    for each in found.summary["transfer"]["tried"]:
        what = f"transfer: {each['weights']}, bias {each['bias']}"
        tell(what, accuracy(found.transfer(each["weights"], each["bias"])))
    tell("transfer, as chosen", accuracy(found.transfer()))
    print(found.summary["transfer"]["reason"])
    cleaned = found.relabel()
    right = cleaned["label"].to_numpy() == data.train.true
    tell("given labels that are right", (data.train.given == data.train.true).mean())
    tell("cleaned labels that are right", right.mean())
    tell("mean confidence in them", cleaned["confidence"].mean())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "decoder.onnx"
        found.best.export(file)
        batches = Source(x, "test").batches()
        values = np.concatenate([OnnxClassifier(file).decide(batch).numpy() for batch in batches])
        same = values.argmax(1) == found.best.predict(x.numpy())
        print(f"onnxruntime predicts the same for {same.sum():,} of {len(same):,} test images")
    if not epochs:
        return
    again = us.retrain(model, train, found, holdout, (x, true), epochs=epochs)
    print(again.verdict)
    print(again.history.to_string(index=False), flush=True)


def tell(what: str, value: float, form: str = ".1%") -> None:
    """Print one number."""
    print(f"{what:50} {value:{form}}", flush=True)


if __name__ == "__main__":
    main()
