"""What one memorised network tells of wrong labels, beside its rivals.

    python -m benchmarks.watched worse-50k --root ROOT --out runs/watched
    python -m benchmarks.folds worse-50k --root ROOT --out runs/folds
    python -m benchmarks.human worse-50k --root ROOT --runs runs/watched --folds runs/folds \
        --out runs/human
    python -m benchmarks.human pmd-1 cluster --root ROOT --runs runs/feature-noise --out runs/human

The last network of a run that `benchmarks.watched` kept, or one of `benchmarks.feature_noise`, is
asked in every way. A way answers with test predictions, a quality of each training label, flags and
proposed labels. None sees a clean label, unless it is called an oracle. Costs are processor
seconds, told in epochs of training the same network, which are timed in the same process. Answers
are kept in DIR/NAME/WAY.npz and are not computed again; `benchmarks.human_tables` prints them.
"""

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cleanlab.count import estimate_joint
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray
from torch import Tensor, nn

import underscript as us
from underscript.experiments.detection import NEIGHBOURS, by_alignment, by_neighbours
from underscript.probes.baselines import AlignmentClassifier, NearestNeighbours
from underscript.repair.sap import sap
from underscript.utils.versions import versions

from . import decoder, feature_noise, folds, networks
from .rivals import PerturbedReadOut, Rog, layers_of, rows_of, shifted
from .watched import RUNS, Kept, load_last

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NAMES = (*RUNS, *feature_noise.KINDS)
COPIES = 4  # perturbed copies whose answers are summed
READINGS = 15  # about so many epochs of a training run are read when it is watched
TIMED = 5_120  # samples of the epoch that is timed


class Answer(NamedTuple):
    """What a way says; `quality` is low where a label looks wrong.

    `predicted` (n_test,) and `proposed` (n,) are labels, `quality` and `flags` have shape (n,).
    What a way does not say is None. `seconds` are of the processor, `trained` are epochs of
    training that a way needs besides.
    """

    way: str
    predicted: Ints | None
    quality: Floats | None = None
    flags: NDArray[np.bool_] | None = None
    proposed: Ints | None = None
    seconds: float = 0.0
    trained: float = 0.0
    rate: float | None = None
    transitions: Floats | None = None
    chosen: str = ""


@dataclass(frozen=True)
class Case:
    """A memorised network and its data; parts are inputs, given and true labels.

    `recipe` says how it was trained, `lines` are of its epochs; `run` and `folds` are folders.
    """

    name: str
    recipe: networks.Recipe
    lines: list[dict[str, Any]]
    model: nn.Module
    train: tuple[Tensor, Tensor, Tensor]
    holdout: tuple[Tensor, Tensor, Tensor] | None
    test: tuple[Tensor, Tensor]
    run: Path
    folds: Path

    @property
    def given(self) -> Ints:
        """The given labels."""
        return self.train[1].numpy()

    @property
    def pairs(self) -> list[Any]:
        """Inputs with noisy labels of training and hold-out, with clean ones of the test data."""
        held = None if self.holdout is None else (self.holdout[0], self.holdout[1].numpy())
        return [(self.train[0], self.given), held, (self.test[0], self.test[1].numpy())]

    @property
    def retrainings(self) -> Path:
        """The file of `benchmarks.folds`; flips and crops are always used there."""
        return self.folds / f"{self.name.removesuffix('-augmented')}.npz"


def read(name: str, root: Path, runs: Path, of_folds: Path) -> Case:
    """Return the last network of a run, and its data."""
    if name in feature_noise.KINDS:
        sizes = feature_noise.sizes_of(name, runs)
        recipe, data = sizes.recipe(name), feature_noise.load(name, sizes, root, runs)
        model = decoder.trained(networks.network(recipe), runs / f"{name}.pt")
        lines = json.loads((runs / f"{name}.json").read_text())["epochs"]
    else:
        recipe, lines = RUNS[name], Kept(runs / name).lines
        model, data = load_last(name, root, runs)
    held = data.holdout if len(data.holdout[0]) else None
    model.eval().to(memory_format=torch.channels_last)  # faster on a CPU
    return Case(name, recipe, lines, model, data.train, held, data.test, runs / name, of_folds)


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits (n, K), with products in bfloat16, as in training."""
    return networks.predictions(model, x, fast=True)


def of_chances(way: str, case: Case, chances: Tensor, tested: Tensor, **more: Any) -> Answer:
    """Answer with probabilities: the quality of a label is its probability."""
    found = chances.double().numpy()
    proposed = found.argmax(1)
    quality = get_label_quality_scores(case.given, found)
    return Answer(way, tested.argmax(1).numpy(), quality, proposed != case.given, proposed, **more)


def in_sample(case: Case) -> Iterator[Answer]:
    """Ask the network itself."""
    began = time.process_time()
    chances, tested = (predictions(case.model, x) for x in (case.train[0], case.test[0]))
    seconds = time.process_time() - began
    yield of_chances("in-sample softmax", case, chances.softmax(1), tested, seconds=seconds)


def on_perturbed(case: Case) -> Iterator[Answer]:
    """Ask the network for shifted and flipped copies; nothing is fitted."""
    began, generator = time.process_time(), torch.Generator().manual_seed(0)
    chances, tested = (
        sum(predictions(case.model, shifted(x, generator)) for _ in range(COPIES)) / COPIES
        for x in (case.train[0], case.test[0])
    )
    seconds = time.process_time() - began
    way = f"softmax on {COPIES} perturbed copies"
    yield of_chances(way, case, chances.softmax(1), tested, seconds=seconds)


def read_out(case: Case) -> Iterator[Answer]:
    """Fit the read-out to perturbed rows; labels are judged on fresh perturbed copies."""
    began, generator = time.process_time(), torch.Generator().manual_seed(1)
    train, held, test = case.pairs
    fitted = PerturbedReadOut(case.model, train, held, None, seed=0)
    scores = sum(fitted.scores(shifted(train[0], generator)) for _ in range(COPIES)) / COPIES
    tested = fitted.scores(test[0])
    seconds = time.process_time() - began
    way, more = "read-out fitted to perturbed rows", {"chosen": f"ridge {fitted.ridge:g}"}
    yield of_chances(way, case, scores.softmax(1), tested, seconds=seconds, **more)


def layers(case: Case) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each hidden layer's rows of training and test inputs, maps as means of quarters."""
    places = layers_of(case.model, (case.train[0], case.given))
    of_train, of_test = (
        rows_of(case.model, x, places, None) for x in (case.train[0], case.test[0])
    )
    for name, rows in of_train.items():
        yield name, rows, of_test[name]


def neighbours(case: Case) -> Iterator[Answer]:
    """k-NN on each layer."""
    for name, rows, tests in layers(case):
        found = by_neighbours(name, rows, case.given)
        predicted = NearestNeighbours(k=NEIGHBOURS).fit(rows, case.given).predict(tests)
        yield Answer(found.name, predicted, *found[1:4], found.cpu_seconds)


def alignment(case: Case) -> Iterator[Answer]:
    """FINE on each layer."""
    for name, rows, tests in layers(case):
        found = by_alignment(name, rows, case.given, 0)
        predicted = AlignmentClassifier().fit(rows, case.given).predict(tests)
        yield Answer(found.name, predicted, *found[1:4], found.cpu_seconds)


def by_sap(case: Case) -> Iterator[Answer]:
    """SAP, its alpha chosen by the hold-out, or by an oracle."""
    train, held, test = case.pairs
    for chooser, way in ((held, "SAP"), (test, "SAP, alpha by test labels (oracle)")):
        if chooser is None:
            continue
        began = time.process_time()
        repaired, report = sap(case.model, train, chooser, n_trusted=1_000, progress=False)
        chances, tested = (predictions(repaired, x) for x in (train[0], test[0]))
        seconds = time.process_time() - began
        more = {"seconds": seconds, "chosen": f"alpha {report.alpha:g}"}
        yield of_chances(way, case, chances.softmax(1), tested, **more)


def by_rog(case: Case) -> Iterator[Answer]:
    """RoG on all layers."""
    began = time.process_time()
    train, held, test = case.pairs
    fitted = Rog(case.model, train, held, None)
    chances, tested = (torch.from_numpy(fitted.chances(x)) for x in (train[0], test[0]))
    seconds = time.process_time() - began
    yield of_chances("RoG, all layers", case, chances, tested, seconds=seconds)


def retrained(case: Case) -> Iterator[Answer]:
    """Ask cleanlab with five retrainings that were stopped early."""
    kept = np.load(case.retrainings)
    began, given = time.process_time(), case.given
    chances = kept["out_of_fold"].astype(np.float64)
    chances /= chances.sum(1, keepdims=True)
    joint = estimate_joint(given, chances)
    yield Answer(
        "cleanlab, five retrainings stopped early",
        kept["test"].argmax(1),
        get_label_quality_scores(given, chances),
        find_label_issues(given, chances, n_jobs=1),
        chances.argmax(1),
        time.process_time() - began,
        folds.COST,
        1 - float(joint.trace()),
        (joint / joint.sum(0)).T,
    )


def decoded(case: Case) -> Iterator[Answer]:
    """Decode from the training data alone; join that with the margins of the training run."""
    found, answer = _decode(case, None)
    yield answer
    yield _over_copies(case, found, answer)
    began = time.process_time()
    transferred = predictions(found.transfer(), case.test[0]).argmax(1).numpy()
    yield Answer(
        "decoded alone, written into the read-out",
        transferred,
        seconds=answer.seconds + time.process_time() - began,
    )
    if not case.run.exists():  # Only the last weights were kept.
        return
    watched = monitor(case)
    for way, issues in (
        ("margins of the training run (AUM)", watched.label_issues()),
        ("decoded alone, with these margins", watched.label_issues(decoding=found)),
    ):
        issues = issues.reindex(range(len(case.given)))
        flags = issues["is_label_issue"].fillna(False).to_numpy(bool)
        proposed = issues.get("predicted_label")
        yield Answer(
            way,
            None,
            issues["label_quality"].fillna(1.0).to_numpy(float),
            flags,
            case.given if proposed is None else proposed.fillna(-1).to_numpy(int),
            answer.seconds if "decoded" in way else 0.0,
            rate=float(flags.mean()),
        )


def with_holdout(case: Case) -> Iterator[Answer]:
    """Decode with held-out noisy labels."""
    if case.holdout is not None:
        found, answer = _decode(case, case.holdout[:2])
        yield answer
        yield _over_copies(case, found, answer)


def _over_copies(case: Case, found: us.Decoding, answer: Answer) -> Answer:
    """Answer for new inputs over perturbed copies, as the network on perturbed copies does."""
    began = time.process_time()
    predicted = found.best.predict(case.test[0], views=COPIES)
    seconds = answer.seconds + time.process_time() - began
    return Answer(f"{answer.way}, {COPIES} perturbed copies too", predicted, seconds=seconds)


def _decode(case: Case, holdout: Any) -> tuple[Any, Answer]:
    began = time.process_time()
    found = us.decode(case.model, case.train[:2], holdout=holdout, controls=False, progress=False)
    issues = found.label_issues()
    predicted = found.best.predict(case.test[0])
    noise = found.summary["noise"]
    return found, Answer(
        "decoded alone" if holdout is None else "decoded with the hold-out",
        predicted,
        issues["label_quality"].to_numpy(),
        issues["is_label_issue"].to_numpy(),
        issues["predicted_label"].to_numpy(),
        time.process_time() - began,
        0.0,
        noise["rate"],
        np.array(noise["transitions"]),
        found.summary["selected"]["reason"],
    )


def monitor(case: Case) -> us.Monitor:
    """Replay the training run: a monitor sees all its logits, and the weights of some epochs."""
    folder = case.run / "monitor"
    if not folder.exists():
        x, given, _ = case.train
        watching = us.Monitor((x, given), every=max(1, len(case.lines) // READINGS))
        for _ in Kept(case.run).replay(copy.deepcopy(case.model), given, watching):
            pass
        watching.save(folder)
    return us.load_monitor(folder)


WAYS: dict[str, Callable[[Case], Iterator[Answer]]] = {
    "in-sample": in_sample,
    "perturbed": on_perturbed,
    "read-out": read_out,
    "neighbours": neighbours,
    "alignment": alignment,
    "sap": by_sap,
    "rog": by_rog,
    "retrained": retrained,
    "decoded": decoded,
    "with-holdout": with_holdout,
}


def epoch_seconds(case: Case) -> float:
    """Return processor seconds of an epoch of training, from a part of one."""
    model, recipe = copy.deepcopy(case.model), case.recipe
    some = [part[:TIMED] for part in case.train[:2]]
    for _ in range(2):  # the first also makes memory ready
        began = time.process_time()
        networks.train(model, *some, recipe, epochs=1, fast=True)
        seconds = time.process_time() - began
    return seconds * len(case.given) / len(some[1])


def write(path: Path, answers: list[Answer], epoch: float) -> None:
    """Write answers as one file of arrays."""
    arrays: dict[str, Any] = {}
    facts = []
    for number, answer in enumerate(answers):
        said = answer._asdict()
        for key in ("predicted", "quality", "flags", "proposed", "transitions"):
            if said[key] is not None:
                arrays[f"{number}-{key}"] = np.asarray(said.pop(key))
        facts.append({key: value for key, value in said.items() if value is not None})
    told = {"answers": facts, "epoch_seconds": epoch, "versions": versions()}
    work = path.with_suffix(".tmp.npz")
    np.savez_compressed(work, facts=json.dumps(told), **arrays)
    work.rename(path)


def answers(path: Path) -> tuple[list[Answer], float]:
    """Return what `write` wrote: answers, and processor seconds of an epoch."""
    kept = np.load(path)
    told = json.loads(str(kept["facts"]))
    found = [{"predicted": None, **facts} for facts in told["answers"]]
    for key in kept.files:
        number, _, name = key.partition("-")
        if name:
            found[int(number)][name] = kept[key]
    return [Answer(**each) for each in found], told["epoch_seconds"]


def main() -> None:
    """Ask what is not answered yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--folds", type=Path, default=Path("runs/folds"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", default=",".join(WAYS), help="some of: %(default)s")
    arguments = parser.parse_args()
    for name in arguments.names:
        case = read(name, arguments.root, arguments.runs, arguments.folds)
        out = arguments.out / name
        out.mkdir(parents=True, exist_ok=True)
        epoch = None
        for way in arguments.ways.split(","):
            path = out / f"{way}.npz"
            if path.exists():
                continue
            if way == "retrained" and not case.retrainings.exists():
                print(f"{name}: not retrained yet (benchmarks.folds)", flush=True)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = [*WAYS[way](case)]
                epoch = epoch or epoch_seconds(case)
                write(path, found, epoch)
            print(f"{name}: {', '.join(each.way for each in found) or way}", flush=True)


if __name__ == "__main__":
    main()
