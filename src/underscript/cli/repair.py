"""Options of the commands that repair a model or its labels from a run folder."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..utils.options import BIASES, WEIGHTS

__all__ = ["add_classes", "add_repair", "add_weights"]

AddCommand = Callable[[Any, str, str], argparse.ArgumentParser]


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", required=True, metavar="FILE.py:build", help="a callable or nn.Module"
    )
    add_weights(command)


def add_weights(command: argparse.ArgumentParser) -> None:
    """Add the option that names a file of weights."""
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="safetensors, a state dict or a checkpoint with one, such as Lightning's; FILE:PART "
        "where it holds several models",
    )


def add_classes(command: argparse.ArgumentParser) -> None:
    """Add the option that names the classes, to every command that reads labels."""
    names = "names of the classes in the read-out's order, one a line or a JSON list"
    command.add_argument("--classes", type=Path, metavar="FILE", help=names)


def add_repair(commands: Any, add_command: AddCommand) -> None:
    """Add the commands."""
    about = "write a run's decoder with its network as an ONNX file"
    export = add_command(commands, "export", about)
    _add_run(export)
    _add_model(export)
    export.add_argument(
        "--example", required=True, metavar="FILE.py:train", help="where to take a few inputs from"
    )
    export.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")

    about = "write the model's weights with its last linear layer rewritten"
    transfer = add_command(commands, "transfer", about)
    _add_run(transfer)
    _add_model(transfer)
    transfer.add_argument(
        "--weights-from", choices=WEIGHTS, help="default: what noisy labels prefer"
    )
    transfer.add_argument("--bias", choices=BIASES, help="default: what noisy labels prefer")
    transfer.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")

    relabel = add_command(commands, "relabel", "write a run's cleaned labels as CSV")
    _add_run(relabel)
    relabel.add_argument("--out", type=Path, required=True, metavar="FILE.csv")

    about = "train the model on for a few epochs on a run's cleaned labels"
    again = add_command(commands, "retrain", about)
    _add_run(again)
    _add_model(again)
    add = again.add_argument
    add("--train", required=True, metavar="FILE.py:train", help="what the run decoded")
    add("--holdout", metavar="FILE.py:val", help="noisy labels, not trained on: says when to stop")
    add("--test", metavar="FILE.py:test", help="chooses nothing")
    add_classes(again)
    add("--epochs", type=int, default=10, help="at most (default 10)")
    add("--learning-rate", type=float, default=1e-3, help="Adam's at the start (default 1e-3)")
    add("--batch-size", type=int, default=128)
    add("--seed", type=int, default=0)
    add("--device", help="such as cpu or cuda; default: where the model is")
    add("--out", type=Path, required=True, metavar="FILE.safetensors")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
