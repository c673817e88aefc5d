"""Options of the commands that repair a model or its labels from a run folder."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..utils.options import BIASES, WEIGHTS
from . import help_texts

__all__ = ["add_checkpoints", "add_classes", "add_repair", "add_weights"]

_WRITTEN = "file to write"
_HELD = "data with noisy labels that the network was not trained on; they choose the epoch"

AddCommand = Callable[[Any, str, str], argparse.ArgumentParser]


def _add_model(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    add = command.add_argument
    add("--model", required=required, metavar="FILE.py:build", help=help_texts.MODEL)
    add_weights(command)


def add_weights(command: argparse.ArgumentParser) -> None:
    """Add the option that names a file of weights."""
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="weights to load into the network: a safetensors file, a state dict, or a checkpoint "
        "such as Lightning's; FILE:PART if it holds several networks",
    )


def add_checkpoints(command: argparse.ArgumentParser) -> None:
    """Add the option that names earlier checkpoints of the network."""
    what = f"earlier checkpoints, decoded together with the network: {help_texts.CHECKPOINTS}"
    command.add_argument("--checkpoints", action="append", metavar="PATTERN", help=what)


def add_classes(command: argparse.ArgumentParser) -> None:
    """Add the option that names the classes, to every command that reads labels."""
    names = "file of class names in the order of the network's outputs: one a line, or a JSON list"
    command.add_argument("--classes", type=Path, metavar="FILE", help=names)


def add_repair(commands: Any, add_command: AddCommand) -> None:
    """Add the commands."""
    about = "classify inputs with a run's decoder, and write their classes as CSV"
    predict = add_command(commands, "predict", about)
    _add_run(predict)
    predict.add_argument(
        "--inputs",
        required=True,
        metavar="FILE.py:data",
        help="inputs as the network takes them; or files, as decode takes them. Labels are ignored",
    )
    _add_model(predict, required=False)
    add_checkpoints(predict)
    predict.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help=_WRITTEN)

    about = "write the decoder and its network as one ONNX file"
    export = add_command(commands, "export", about)
    _add_run(export)
    _add_model(export)
    add_checkpoints(export)
    export.add_argument(
        "--example", required=True, metavar="FILE.py:train", help="data to take a few inputs from"
    )
    export.add_argument("--out", type=Path, required=True, metavar="FILE.onnx", help=_WRITTEN)

    about = "rewrite the last linear layer of your network, and write its weights"
    transfer = add_command(commands, "transfer", about)
    _add_run(transfer)
    _add_model(transfer)
    transfer.add_argument(
        "--weights-from",
        choices=WEIGHTS,
        help="where the new weights come from (default: chosen with the noisy labels)",
    )
    transfer.add_argument(
        "--bias",
        choices=BIASES,
        help="what becomes of the bias (default: chosen with the noisy labels)",
    )
    transfer.add_argument(
        "--out", type=Path, required=True, metavar="FILE.safetensors", help=_WRITTEN
    )

    relabel = add_command(
        commands, "relabel", "write the labels with the wrong ones replaced, as CSV"
    )
    _add_run(relabel)
    relabel.add_argument(
        "--review",
        type=Path,
        metavar="FILE.csv",
        help="what you decided about single labels, as the report exports it: kept and changed "
        "labels are yours, all others the decoder's",
    )
    relabel.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help=_WRITTEN)

    about = "train your network for some more epochs, on the cleaned labels"
    again = add_command(commands, "retrain", about)
    _add_run(again)
    _add_model(again)
    add = again.add_argument
    add(
        "--train",
        required=True,
        metavar="FILE.py:train",
        help="the training data that were decoded",
    )
    add("--holdout", metavar="FILE.py:val", help=_HELD)
    add("--test", metavar="FILE.py:test", help="test data: they only measure, and choose nothing")
    add_classes(again)
    add("--epochs", type=int, default=10, help="largest number of epochs (default 10)")
    add("--learning-rate", type=float, default=1e-3, help="of Adam, at the start (default 1e-3)")
    add("--batch-size", type=int, default=128, help="samples for each step (default 128)")
    add("--seed", type=int, default=0, help=help_texts.SEED)
    add("--device", help=help_texts.DEVICE)
    add("--out", type=Path, required=True, metavar="FILE.safetensors", help=_WRITTEN)


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder", type=Path, metavar="RUN", help="folder that decode or audit wrote"
    )
