"""The command line: its arguments, and errors in one line."""

import _thread
import argparse
import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .._version import __version__
from ..errors import DataError, DistributedError, UnderscriptError
from ..experiments.catalogue import DEMOS, EXPERIMENTS, HUMAN_LABELS, NOISES, PAIRS, SETTINGS
from ..utils.memory_size import MEMORY, WHOLE_LAYERS, as_bytes
from ..utils.options import POOL_CHOICES, PROBE_NAMES
from . import help_texts
from .near_options import check_options
from .output import sound_streams, to_nowhere
from .repair import add_checkpoints, add_classes, add_repair, add_weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns
    -------
    int
        0 if all went well, 2 for bad input (one line on standard error), 1 for a failure inside,
        130 after Ctrl-C.
    """
    sound_streams()
    arguments = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in arguments
    try:
        options = _parser().parse_args(arguments)
        options.command_line = "underscript " + shlex.join(arguments)
        _set_up_messages(options)
        # This imports torch and scikit-learn, which takes seconds: not for --help or an error.
        from .commands import COMMANDS

        COMMANDS[options.command](options)
    except DistributedError as error:
        return _fail(1, f"failed: {error}")
    except UnderscriptError as error:
        if debug:
            raise
        # All processes have the same error: one of them reports it.
        return _fail(2, f"error: {error}") if _first() else 2
    except KeyboardInterrupt as interrupt:
        return _fail(130, str(interrupt) or "interrupted; nothing was written")
    except BrokenPipeError:  # of the help
        to_nowhere()
        return 0
    except Exception as error:
        if debug:
            raise
        message = (str(error).strip().splitlines() or [""])[0]
        return _fail(1, f"failed inside: {type(error).__name__}: {message} (--debug shows where)")
    return 0


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"underscript: {' '.join(message.split())}\n")
    return code


def _first() -> bool:
    """Return whether this process reports for all that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def _set_up_messages(options: argparse.Namespace) -> None:
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(
        stream=sys.stderr,
        level=level if _first() else logging.ERROR,
        format="underscript: %(message)s",
    )

    # Users need no messages about fonts that are missing.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)

    def one_line(message: Any, category: type[Warning], *_where: Any, **_more: Any) -> None:
        if _first():
            sys.stderr.write(f"underscript: warning: {message}\n")

    warnings.showwarning = one_line
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    # End as with Ctrl-C, so that half-written files are removed.
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _unraisable(about: Any) -> None:
    """Raise Ctrl-C once more where Python had to pass over it, as in a callback."""
    if isinstance(about.exc_value, KeyboardInterrupt):
        _thread.interrupt_main()
    else:
        sys.__unraisablehook__(about)


class _Parser(argparse.ArgumentParser):
    """One line for a bad argument, like every other error."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; refuse an option that does not exist before one that is missing."""
        if self._subparsers is None:
            check_options(args, self._option_string_actions, self.error)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="underscript",
        description="Find out what a trained network learned beneath the wrong labels that it "
        "memorised.",
    )
    parser.add_argument("--version", action="version", version=f"underscript {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )

    demo = _command(
        commands,
        "demo",
        "train a small network on wrong labels and decode it, to see how this works",
    )
    sets = "data set (default moved-digits)"
    demo.add_argument("--data", default="moved-digits", choices=tuple(DEMOS), help=sets)
    kinds = "kind of network (default: the one that suits the data)"
    demo.add_argument("--arch", choices=("mlp", "cnn", "small-cnn"), help=kinds)
    redrawn = "replace this share of the training labels by random classes (default 0.4)"
    demo.add_argument("--corruption", type=float, metavar="C", help=redrawn)
    people = "with --data cifar10: take the labels that people gave (CIFAR-10N) instead"
    demo.add_argument("--labels", choices=tuple(HUMAN_LABELS), help=people)
    most = "take at most so many training images (default: all; of cifar10 10,000)"
    demo.add_argument("--samples", type=_count, metavar="N", help=most)
    demo.add_argument("--seed", type=int, default=0, help=help_texts.SEED)
    demo.add_argument("--device", help="where to compute, such as cpu or cuda")
    demo.add_argument("--root", type=Path, metavar="DIR", help=help_texts.ROOT)
    out = "folder to write the result into (default underscript-demo)"
    demo.add_argument("--out", type=Path, metavar="DIR", help=out)
    demo.set_defaults(issues=False, keep_network=True)

    layers = _command(commands, "layers", "list the layers of your network that can be decoded")
    layers.add_argument("model", metavar="FILE.py:build", help=help_texts.MODEL)
    example = "data to take a few inputs from"
    layers.add_argument("--example", required=True, metavar="FILE.py:train", help=example)
    _add_pool(layers)

    for name, about, issues in (
        ("decode", "decode your trained network, layer by layer", False),
        ("audit", "like decode, and show first which labels look wrong", True),
    ):
        command = _command(commands, name, about)
        command.set_defaults(issues=issues)
        _add_decode_options(command)

    _add_trace(commands)
    _add_reproduce(commands)
    _add_study(commands)

    data = _command(commands, "data", "find a data set on this machine, or download it")
    names = "mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet, digits"
    data.add_argument("name", metavar="NAME", help=names)
    data.add_argument("--root", type=Path, metavar="DIR", help=help_texts.ROOT)

    about = "write the report of a finished run again, or compare several runs"
    report = _command(commands, "report", about)
    folders = (
        "folder of a run, a trace, a monitor or an experiment; several folders of runs are compared"
    )
    report.add_argument("folders", type=Path, metavar="DIR", nargs="+", help=folders)
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write (default DIR/report.html; comparison.html for several runs)",
    )
    add_repair(commands, _command)
    return parser


def _add_reproduce(commands: Any) -> None:
    about = "run the experiments of the paper; skip those that --out has already"
    command = _command(commands, "reproduce", about)
    add = command.add_argument
    add("experiment", metavar="EXPERIMENT", help=f"data set and network: {', '.join(PAIRS)}")
    add(
        "--corruption",
        type=_degrees,
        metavar="C,…",
        help="shares of labels to make wrong (default 0,0.2,0.4,0.6,0.8,1)",
    )
    add("--runs", type=int, default=3, help="networks to train for each share (default 3)")
    add("--preset", default="quick", help="how to train: quick (default) or paper, as in the paper")
    add(
        "--only",
        type=_names,
        default=("E1", "E2"),
        metavar="E,…",
        help="experiments to run (default E1,E2). "
        + "; ".join(f"{name}: {what}" for name, what in EXPERIMENTS.items()),
    )
    add(
        "--noise",
        default="symmetric",
        metavar="KIND",
        help=f"how labels are made wrong: {', '.join(NOISES)}, or a CSV file with a transition "
        "matrix (default symmetric)",
    )
    add("--variance", type=float, default=0.99, help=f"{help_texts.VARIANCE} (default 0.99)")
    add(
        "--samples",
        type=int,
        metavar="N",
        help="number of training samples (default: the preset's)",
    )
    add(
        "--width",
        type=float,
        metavar="SHARE",
        help="share of its channels that ResNet-18 has (default: the preset's; 1 is the paper's)",
    )
    add(
        "--holdout",
        type=int,
        default=0,
        metavar="N",
        help="keep this many noisy samples out of training, for A1 to choose with; each run then "
        "draws its own labels (default 0)",
    )
    add(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="CSV",
        help="file of published results to compare with; repeat the option for more",
    )
    add("--memory", type=_bytes, default=WHOLE_LAYERS, metavar="SIZE", help=help_texts.TABLE_MEMORY)
    add("--jobs", type=int, default=1, help="networks to work on at once (default 1)")
    add("--device", default="cpu", help="where to compute, such as cuda (default cpu)")
    add(
        "--compile",
        action="store_true",
        help="compile the training step first: takes a minute, then trains faster; on cuda it uses "
        "CUDA graphs",
    )
    add("--root", type=Path, metavar="DIR", help=help_texts.ROOT)
    add("--out", type=Path, required=True, metavar="DIR", help=help_texts.OUT)


def _add_study(commands: Any) -> None:
    about = "measure how well decoding works over many networks, data sets and kinds of noise"
    command = _command(commands, "study", about)
    add = command.add_argument
    add(
        "--settings",
        type=_names,
        default=tuple(SETTINGS),
        metavar="NAME,…",
        help=f"data sets and networks (default {','.join(SETTINGS)})",
    )
    add(
        "--runs",
        type=int,
        default=3,
        help="networks to train for each kind and share of noise (default 3)",
    )
    add(
        "--first-run",
        type=int,
        default=2,
        metavar="R",
        help="number of the first run (default 2, because run 1 was used for tuning)",
    )
    add("--jobs", type=int, default=1, help="networks to work on at once (default 1)")
    add("--device", default="cpu", help="where to compute, such as cuda (default cpu)")
    add("--root", type=Path, metavar="DIR", help=help_texts.ROOT)
    add("--out", type=Path, required=True, metavar="DIR", help=help_texts.OUT)


def _add_decode_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--model",
        metavar="FILE.py:build",
        help=f"{help_texts.MODEL}; leave it out to decode features without a network",
    )
    add_weights(command)
    add_checkpoints(command)
    _add_data(command)
    add(
        "--probes",
        type=_names,
        metavar="NAMES",
        help=f"the paper's decoders to show in the table, separated by commas: "
        f"{', '.join(PROBE_NAMES)} (default masc, at layers where it costs next to nothing)",
    )
    add(
        "--variance",
        type=_shares,
        default=(0.99,),
        metavar="SHARES",
        help=f"{help_texts.VARIANCE}, one or several, separated by commas (default 0.99)",
    )
    _add_perturbation(command)
    bare = "do not decode the raw input and an untrained network for comparison"
    add("--no-controls", dest="controls", action="store_false", help=bare)
    add(
        "--full-controls",
        dest="controls",
        action="store_const",
        const="full",
        default=True,
        help="decode the untrained network at all layers, with all decoders, on all samples",
    )
    add(
        "--evaluate",
        type=_names,
        metavar="NAMES",
        help="data on which to measure the decoders of the table, separated by commas: train, "
        "test; candidates also measures on test data everything that could have been chosen "
        "(default: test; train if there are no test data and no hold-out)",
    )
    _add_computing(command)
    bare = "do not keep the network in the run folder; to predict, give it again with --model"
    add("--no-network", dest="keep_network", action="store_false", help=bare)
    add("--out", type=Path, required=True, metavar="DIR", help=help_texts.OUT)


def _add_trace(commands: Any) -> None:
    about = "decode every checkpoint that a training run kept, and recommend one"
    command = _command(commands, "trace", about)
    add = command.add_argument
    add("--model", required=True, metavar="FILE.py:build", help=help_texts.MODEL)
    files = f"the checkpoints: {help_texts.CHECKPOINTS}"
    add("--weights", required=True, action="append", metavar="PATTERN", help=files)
    _add_data(command)
    _add_perturbation(command)
    _add_computing(command)
    again = f"{help_texts.OUT}; what is decoded there already is not decoded again"
    add("--out", type=Path, required=True, metavar="DIR", help=again)


def _add_data(command: argparse.ArgumentParser) -> None:
    """Add the options of the data and the layers to read."""
    add = command.add_argument
    add(
        "--train",
        required=True,
        metavar="FILE.py:train",
        help="the data that the network was trained on, with the same labels; or files: "
        "X.npy,Y.npy, TABLE.parquet:LABEL or TABLE.csv:LABEL",
    )
    add("--test", metavar="FILE.py:test", help="test data: they only measure, and choose nothing")
    unseen = (
        "data with noisy labels that the network was not trained on; they make the choice of the "
        "decoder and the estimates surer"
    )
    add("--holdout", metavar="FILE.py:val", help=unseen)
    add(
        "--labels",
        metavar="FILE.py:labels",
        help="training labels in the data set's order, in place of those in --train",
    )
    add("--true-labels", metavar="FILE.py:clean", help="the true labels, if you know them")
    add_classes(command)
    add(
        "--layers",
        action="append",
        metavar="NAMES",
        help="layers to decode, separated by commas; * stands for any part of a name without dots, "
        "** also across dots",
    )
    _add_pool(command)


def _add_perturbation(command: argparse.ArgumentParser) -> None:
    """Add the options of how inputs are changed."""
    add = command.add_argument
    add(
        "--perturb",
        default="auto",
        metavar="auto|overlays|none|FILE.py:fn",
        help="how to change inputs a little, so that what the network memorised breaks and what it "
        "learned stays: auto (default) chooses by the kind of input, overlays lets other images "
        "show through each (if training used shifts and flips), none changes nothing, "
        "FILE.py:fn is your own function from a batch of inputs to another of the same shape",
    )
    add(
        "--views",
        type=_views,
        default=3,
        metavar="N",
        help="changed copies of each training input (default 3); each costs one more run of the "
        "network over the data; with 1 less of the memory is noticed",
    )


def _add_computing(command: argparse.ArgumentParser) -> None:
    """Add the options of where and how to compute."""
    add = command.add_argument
    add("--device", help=help_texts.DEVICE)
    add(
        "--batch-size",
        type=int,
        default=512,
        help="inputs for each run of the network (default 512)",
    )
    add("--seed", type=int, default=0, help=help_texts.SEED)
    add(
        "--memory",
        type=_bytes,
        default=MEMORY,
        metavar="SIZE",
        help="memory to use beside the network and the data (default 2GiB); what does not fit goes "
        "to a temporary file, and a limit that is too low is an error",
    )


def _add_pool(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pool",
        type=_names,
        metavar="NAMES",
        help=f"how to shorten tokens and feature maps, separated by commas: {POOL_CHOICES} "
        "(default: 4x4 for maps, mean for tokens with an attention_mask, flatten for all else); "
        "for one layer write --layers NAME@mean",
    )


def _command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    alone = "print the result as JSON on standard output, everything else on standard error"
    command.add_argument("--json", action="store_true", help=alone)
    more = "print everything: all layers, controls and reasons, and what is being done"
    command.add_argument("--verbose", action="store_true", help=more)
    command.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return command


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _bytes(text: str) -> int:
    try:
        return as_bytes(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("memory: ")) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; found {text!r}")
    return int(text)


def _views(text: str) -> int:
    try:
        return _count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{error}. --perturb none leaves inputs as they are"
        ) from None


def _degrees(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected degrees from 0 to 1 such as 0,0.4; found {text!r}"
        ) from None


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected shares in (0, 1] such as 0.5,0.99; found {text!r}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
