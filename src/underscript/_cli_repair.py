"""The commands that go on from a run folder: what is repaired, in files to use elsewhere."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._files import write_text
from ._user import load_model, load_object
from ._weights import write_weights
from .decoding import load
from .repair import BIASES, WEIGHTS
from .retrain import retrain

__all__ = ["add_repair", "add_weights"]

AddCommand = Callable[[Any, str, Any, str], argparse.ArgumentParser]


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", required=True, metavar="FILE.py:build", help="a callable or nn.Module"
    )
    add_weights(command)


def add_weights(command: argparse.ArgumentParser) -> None:
    """Add the option that names a file of weights."""
    command.add_argument("--weights", metavar="FILE",
        help="safetensors, a state dict or a checkpoint with one, such as Lightning's; FILE:PART "
        "where it holds several models")  # fmt: skip


def add_repair(commands: Any, add_command: AddCommand) -> None:
    """Add the commands."""
    about = "write a run's decoder with its network as an ONNX file"
    export = add_command(commands, "export", _export, about)
    _add_run(export)
    _add_model(export)
    export.add_argument("--example", required=True, metavar="FILE.py:train",
                        help="where to take a few inputs from")  # fmt: skip
    export.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")

    about = "write the model's weights with its last linear layer rewritten"
    transfer = add_command(commands, "transfer", _transfer, about)
    _add_run(transfer)
    _add_model(transfer)
    transfer.add_argument("--weights-from", choices=WEIGHTS,
                          help="default: what noisy labels prefer")  # fmt: skip
    transfer.add_argument("--bias", choices=BIASES, help="default: what noisy labels prefer")
    transfer.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")

    relabel = add_command(commands, "relabel", _relabel, "write a run's cleaned labels as CSV")
    _add_run(relabel)
    relabel.add_argument("--out", type=Path, required=True, metavar="FILE.csv")

    about = "train the model on for a few epochs on a run's cleaned labels"
    again = add_command(commands, "retrain", _retrain, about)
    _add_run(again)
    _add_model(again)
    add = again.add_argument
    add("--train", required=True, metavar="FILE.py:train", help="what the run decoded")
    add("--holdout", metavar="FILE.py:val", help="noisy labels, not trained on: says when to stop")
    add("--test", metavar="FILE.py:test", help="chooses nothing")
    add("--epochs", type=int, default=10, help="at most (default 10)")
    add("--learning-rate", type=float, default=1e-3, help="Adam's at the start (default 1e-3)")
    add("--batch-size", type=int, default=128)
    add("--seed", type=int, default=0)
    add("--device", help="such as cpu or cuda; default: where the model is")
    add("--out", type=Path, required=True, metavar="FILE.safetensors")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="RUN", help="a run folder")


def _export(options: argparse.Namespace) -> None:
    best = load(options.folder, load_model(options.model, options.weights)).best
    best.export(options.out, load_object(options.example, "--example"))
    _tell(options, {"onnx": str(options.out), "layers": list(best.layers), "probe": best.probe},
          f"{options.out}: answers as torch does, for batches of any size")  # fmt: skip


def _transfer(options: argparse.Namespace) -> None:
    found = load(options.folder, load_model(options.model, options.weights))
    repaired = found.transfer(options.weights_from, options.bias)
    write_weights(options.out, repaired)
    told = found.summary["transfer"]
    _tell(options, {**told, "out": str(options.out)}, f"{options.out}: {told['reason']}")


def _relabel(options: argparse.Namespace) -> None:
    cleaned = load(options.folder).relabel()
    write_text(options.out, cleaned.to_csv())
    changed = int(cleaned["changed"].sum())
    _tell(options, {"out": str(options.out), "n": len(cleaned), "changed": changed},
          f"{options.out}: {changed:,} of {len(cleaned):,} labels changed")  # fmt: skip


def _retrain(options: argparse.Namespace) -> None:
    found = retrain(
        load_model(options.model, options.weights),
        load_object(options.train, "--train"),
        load(options.folder),
        _optional(options.holdout, "--holdout"),
        _optional(options.test, "--test"),
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
    )
    found.save(options.out)
    _tell(options, {**found.summary, "out": str(options.out)}, f"{options.out}: {found.verdict}")


def _optional(spec: str | None, what: str) -> Any:
    return None if spec is None else load_object(spec, what)


def _tell(options: argparse.Namespace, found: dict[str, Any], line: str) -> None:
    """Write the result on standard output, as JSON where that is asked for."""
    text = json.dumps(found, ensure_ascii=False, allow_nan=False) if options.json else line
    sys.stdout.write(text + "\n")
