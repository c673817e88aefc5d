"""The units of work of one cell; a unit is finished once its JSON file is in the cell's folder.

A unit reads files of earlier units (weights, tables) and writes its own, whole or not at all; its
JSON file comes last. So a killed grid resumes where it was, and nothing runs twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .._decode import decode
from ..noise.corruption import transition_matrix, wrong_share
from ..probes.subspace import PROBES
from ..utils.files import write_tensors
from .cell_data import LabelledImages
from .dynamics import readings_of, wanted
from .plan import Cell, Plan
from .training import TrainingRecord, measure_accuracy, train
from .work import Work

__all__ = [
    "BY_NAME",
    "ONE_COMPONENT",
    "SHARES",
    "TRAINING",
    "UNITS",
    "Unit",
    "oracle_layer",
    "units_of",
]

# So small a share that the paper's rule gives rank 1, its "one component".
ONE_COMPONENT = 1e-9
SHARES = (ONE_COMPONENT, 0.25, 0.5, 0.75, 0.99)
# What was read while a network was trained.
ALONG = "along.csv"
# The paper retrains for at most this many epochs.
RETRAINING_EPOCHS = 30


@dataclass(frozen=True)
class Unit:
    """A unit of work.

    Attributes
    ----------
    name : str
        Name of its files.
    run : callable
        Takes a `Work` and returns the record for its JSON file.
    needs : callable
        Returns, for a cell, the cells and unit names that must be finished first.
    """

    name: str
    run: Callable[["Work"], dict[str, Any]]
    needs: Callable[[Cell], list[tuple[Cell, str]]]


def _run_training(work: Work) -> dict[str, Any]:
    """Train the cell's network; keep its weights and record, and what S1 and S2 read."""
    along = work.folder / ALONG
    along.unlink(missing_ok=True)
    model = work.untrained()
    record = _train(work, model, "unfinished.safetensors", wanted(work.plan.only))
    write_tensors(work.folder / "model.safetensors", model.state_dict())
    work.write("history.csv", pd.DataFrame(record.history))
    if record.readings:
        work.write(ALONG, pd.DataFrame(record.readings))
    (work.folder / "unfinished.safetensors").unlink(missing_ok=True)
    data = work.data
    images, true = _tensors(data.train)
    return {
        **_summary(record, model, _tensors(data.test)),
        "true_accuracy": measure_accuracy(model, images, true),
        "wrong_labels": wrong_share(data.train.true, data.train.given),
        "transitions": transition_matrix(
            data.train.true, data.train.given, data.n_classes
        ).tolist(),
        "data": data.source,
    }


def _train(work: Work, model: nn.Module, checkpoint: str, reads: bool) -> TrainingRecord:
    """Train a cell's network, and perhaps read it on the way."""
    plan = work.plan
    data, preset = work.data, plan.recipe
    images, true = _tensors(data.train)
    test_set = _tensors(data.test)
    # Watching true labels costs a pass over the training images per epoch; `quick` saves it.
    watched = {"true": (images, true)} if preset.every_epoch else {}
    watched |= {"test": test_set} if preset.test_curve else {}
    return train(
        model,
        images,
        torch.from_numpy(data.train.given),
        preset,
        seed=work.cell.seed,
        device=plan.device,
        compiled=plan.compiled,
        eval_sets=watched,
        readings=readings_of(work) if reads else None,
        checkpoint=work.folder / checkpoint,
        progress=work.progress,
    )


def _run_dynamics(work: Work) -> dict[str, Any]:
    """S1 and S2: what was read while the network was trained.

    If that was not asked for then, it is trained again, with the same seed.
    """
    if again := not (work.folder / ALONG).is_file():
        checkpoint = "unfinished-along.safetensors"
        record = _train(work, work.untrained(), checkpoint, True)
        work.write(ALONG, pd.DataFrame(record.readings))
        (work.folder / checkpoint).unlink(missing_ok=True)
    work.write("dynamics.csv", pd.read_csv(work.folder / ALONG))
    return {"trained_again": again}


def _tensors(labelled: LabelledImages) -> tuple[Tensor, Tensor]:
    """Return images and their true labels."""
    return torch.from_numpy(labelled.images), torch.from_numpy(labelled.true)


def _summary(
    record: TrainingRecord, model: nn.Module, test_set: tuple[Tensor, Tensor]
) -> dict[str, Any]:
    tests = [row["test_accuracy"] for row in record.history if "test_accuracy" in row]
    best = int(np.argmax(tests)) if tests else None
    return {
        "epochs": record.epochs,
        "reached": record.reached,
        "train_accuracy": record.train_accuracy,
        "running_accuracy": record.history[-1]["train_accuracy"],
        # In float32; accuracies of epochs use the precision of training.
        "test_accuracy": measure_accuracy(model, *test_set),
        # An oracle, as clean test labels choose it: shown for comparison, used for nothing.
        "oracle_test_accuracy": None if best is None else tests[best],
        "oracle_epoch": None if best is None else best + 1,
        "seconds": record.seconds,
        "training": record.settings,
    }


def _decoded(work: Work, model: nn.Module, **settings: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Decode a network with the cell's labels."""
    train, test = work.data.train, work.data.test
    # The published tables are of whole layers.
    usual: dict[str, Any] = {"layers": work.plan.pair.layers, "controls": False, "auto": False}
    usual |= {"pool": "flatten", "evaluate": ("train", "test"), "memory": work.plan.memory}
    settings = {**usual, **settings}
    decoding = decode(
        model,
        (train.images, train.given),
        test=(test.images, test.true),
        true_labels=train.true,
        device=work.plan.device,
        seed=work.cell.seed,
        progress=work.progress,
        **settings,
    )
    keep = ("selected", "oracle", "noise", "settings", "seeds", "timing", "warnings", "versions")
    return decoding.table, {key: decoding.summary[key] for key in keep}


def _run_layers(work: Work) -> dict[str, Any]:
    """E1 and E2, with two controls: the input, and the network before training."""
    share = work.plan.variance
    table, record = _decoded(work, work.network(), variance=share)
    hidden = [layer for layer in work.plan.pair.layers if layer != "input"]
    control, about = _decoded(
        work, work.untrained(), variance=share, layers=hidden, evaluate=("test",)
    )
    control = control[(control["probe"] != "model") & (control["split"] == "test")]
    control = control.assign(model="random", selected=False)
    work.write("layers.csv", pd.concat([table, control], ignore_index=True))
    return {**record, "control": about["timing"]}


def _run_generalised(work: Work) -> dict[str, Any]:
    """E3: decode the network trained on true labels, with corrupted labels."""
    generalised = work.of(Cell(0.0, work.cell.run)).network()
    table, record = _decoded(
        work, generalised, variance=work.plan.variance, subspace_labels=("corrupted",)
    )
    work.write("generalised.csv", table)
    return record


def _run_shares(work: Work) -> dict[str, Any]:
    """E5: MASC at several variance shares."""
    table, record = _decoded(
        work, work.network(), variance=SHARES, evaluate=("test",), subspace_labels=("corrupted",)
    )
    work.write("shares.csv", table)
    return record


def oracle_layer(table: pd.DataFrame) -> str:
    """Return the layer with the best test accuracy, chosen with clean labels as in the paper."""
    rows = table[
        (table["split"] == "test")
        & (table["model"] == "trained")
        & (table["probe"] == "masc")
        & (table["subspace_labels"] == "corrupted")
        & (table["layer"] != "input")
    ]
    return str(rows["layer"].iloc[int(rows["accuracy"].argmax())])


def _run_auto(work: Work) -> dict[str, Any]:
    """A1: the decoder that chooses itself, with the hold-out (if there is one) and without."""
    data = work.data
    rows: list[dict[str, Any]] = []
    records: dict[str, Any] = {}
    network, holdout = work.network(), data.holdout
    # For comparison: subspaces of the same whole layers.
    table, _ = _decoded(
        work,
        network,
        probes=PROBES,
        variance=SHARES,
        evaluate=("test",),
        subspace_labels=("corrupted",),
    )
    test = table[table["split"] == "test"]
    work.write("subspaces.csv", test[test["probe"].isin(PROBES)])
    for held in (holdout, None) if holdout is not None else (None,):
        table, about = _decoded(
            work,
            network,
            holdout=None if held is None else (held.images, held.given),
            auto=True,
            evaluate=("test", "candidates"),
            subspace_labels=("corrupted",),
            probes=("velpic",),
            pool=None,
        )
        test = table[table["split"] == "test"].set_index("layer")
        tried = test[test["probe"] == "auto"]
        chosen, noise, oracle = about["selected"], about["noise"], about["oracle"]
        rows.append(
            {
                "chosen_by": chosen["criterion"],
                "layer": chosen["layer"],
                "model": test.loc["output", "accuracy"],
                "accuracy": chosen["test_accuracy"],
                "estimated": noise["accuracy"],
                "estimated_low": noise["accuracy_low"],
                "estimated_high": noise["accuracy_high"],
                "calibration_error": chosen["test_calibration_error"],
                "oracle": oracle["test_accuracy"],
                "oracle_layer": oracle["layer"],
                "input": tried.loc["input", "accuracy"],
                "rate": noise["rate"],
                "rate_low": noise["rate_low"],
                "rate_high": noise["rate_high"],
                "hopeless": noise["hopeless"],
                "nothing_wrong": noise["nothing_wrong"],
                "wrong_labels": wrong_share(data.train.true, data.train.given),
                "choose_s": about["timing"]["choose"],
                "fit_s": about["timing"]["fit"],
                "evaluate_s": about["timing"]["evaluate"],
            }
        )
        records[chosen["criterion"]] = about
    subspaces = work.table("subspaces")
    masc = subspaces[
        (subspaces["variance"] == work.plan.variance) & (subspaces["layer"] != "input")
    ]
    best = float(masc["accuracy"].max()) if len(masc) else None
    work.write("auto.csv", pd.DataFrame(rows).assign(masc_oracle=best))
    return records


def _run_retraining(work: Work) -> dict[str, Any]:
    """E4: retrain with labels that MASC re-assigned, at the oracle's layer and the chosen one."""
    layers = work.table("layers")
    chosen = str(layers.loc[layers["selected"].astype(bool), "layer"].iloc[0])
    oracle = oracle_layer(layers)
    tables: list[pd.DataFrame] = []
    records: dict[str, Any] = {}
    for layer in dict.fromkeys((oracle, chosen)):
        roles = [role for role, its in (("oracle", oracle), ("chosen", chosen)) if its == layer]
        records[layer] = {"layer_is": roles, **_retrained(work, layer, tables)}
    work.write("retraining.csv", pd.concat(tables, ignore_index=True))
    return {"layers": records}


def _retrained(work: Work, layer: str, tables: list[pd.DataFrame]) -> dict[str, Any]:
    plan, model = work.plan, work.network()
    data, test_set = work.data.train, _tensors(work.data.test)
    decoding = decode(
        model,
        (data.images, data.given),
        layers=[layer],
        controls=False,
        evaluate=(),
        auto=False,
        pool="flatten",
        memory=plan.memory,
        variance=plan.variance,
        device=plan.device,
        seed=work.cell.seed,
        progress=work.progress,
    )
    labels = decoding.label_issues()["predicted_label"].to_numpy(np.int64, copy=True)
    record = train(
        model,
        torch.from_numpy(data.images),
        torch.from_numpy(labels),
        replace(plan.recipe, max_epochs=RETRAINING_EPOCHS, warmup_epochs=0.0),
        seed=work.cell.seed,
        device=plan.device,
        compiled=plan.compiled,
        eval_sets={"test": test_set},
        progress=work.progress,
    )
    tables.append(pd.DataFrame(record.history).assign(layer=layer))
    changed = labels != data.given
    return {
        "before": work.record("training")["test_accuracy"],
        "changed_to_right": float((changed & (labels == data.true)).mean()),
        "changed_to_wrong": float((changed & (labels != data.true)).mean()),
        "wrong_before": wrong_share(data.true, data.given),
        "wrong_after": wrong_share(data.true, labels),
        **_summary(record, model, test_set),
    }


def _run_probes(work: Work) -> dict[str, Any]:
    """E6: other probes on the same layers, and the geometry of the classes there."""
    from .probes import probe_layers  # scikit-learn's probes take a while to import

    kinds = {"corrupted": work.data.train.given}
    if work.cell.corruption > 0:
        kinds["true"] = work.data.train.true
    probes, geometry, record = probe_layers(work, kinds)
    work.write("geometry.csv", geometry)
    work.write("probes.csv", probes)
    return record


def _run_rivals(work: Work) -> dict[str, Any]:
    """A2: the probes of E6, fitted to the given labels, which are all that a user has."""
    from .probes import probe_layers

    rivals, _, record = probe_layers(work, {"corrupted": work.data.train.given}, shapes=False)
    work.write("rivals.csv", rivals)
    return record


def _run_detection(work: Work) -> dict[str, Any]:
    """D1: find wrong labels with A1's decoder, in other ways, and by retraining."""
    from .detection import run_detection  # scikit-learn's parts take a while to import

    return run_detection(work)


def _run_folds(work: Work) -> dict[str, Any]:
    """Retrain, for D1's most expensive way."""
    from .folds import run_folds

    return run_folds(work)


def _trained(cell: Cell) -> list[tuple[Cell, str]]:
    return [(cell, "training")]


def _retrained_if_noisy(cell: Cell) -> list[tuple[Cell, str]]:
    return [*_trained(cell), *([(cell, "folds")] if cell.corruption > 0 else [])]


TRAINING = Unit("training", _run_training, lambda _cell: [])
FOLDS = Unit("folds", _run_folds, lambda _cell: [])
UNITS: dict[str, Unit] = {
    "E1": Unit("layers", _run_layers, _trained),
    "E3": Unit("generalised", _run_generalised, lambda cell: _trained(Cell(0.0, cell.run))),
    "E4": Unit("retraining", _run_retraining, lambda cell: [*_trained(cell), (cell, "layers")]),
    "E5": Unit("shares", _run_shares, _trained),
    "E6": Unit("probes", _run_probes, _trained),
    "A1": Unit("auto", _run_auto, _trained),
    "A2": Unit("rivals", _run_rivals, _trained),
    "D1": Unit("detection", _run_detection, _retrained_if_noisy),
    "S1": Unit("dynamics", _run_dynamics, _trained),
}
# E2 and E7 are rows of E1's table, and S2 of S1's.
UNITS["E2"] = UNITS["E7"] = UNITS["E1"]
UNITS["S2"] = UNITS["S1"]


def units_of(plan: Plan) -> list[tuple[Cell, Unit]]:
    """Return a plan's units, each after the units that it needs.

    E3 also trains the networks of degree 0, and E4 also runs E1. E3 of degree 0 is E1.
    """
    order: dict[tuple[Cell, str], Unit] = {}

    def add(cell: Cell, unit: Unit) -> None:
        for needed, name in unit.needs(cell):
            add(needed, BY_NAME[name])
        order.setdefault((cell, unit.name), unit)

    for cell in plan.cells:
        for name in plan.only:
            if name == "E3" and cell.corruption == 0:
                add(cell, TRAINING)
            else:
                add(cell, UNITS[name])
    return [(cell, unit) for (cell, _), unit in order.items()]


BY_NAME = {unit.name: unit for unit in (TRAINING, FOLDS, *UNITS.values())}
