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
from ..experiments.catalogue import EXPERIMENTS, NOISES, PAIRS, SETTINGS
from ..utils.memory_size import MEMORY, as_bytes
from ..utils.options import POOL_CHOICES, PROBE_NAMES
from .near_options import check_options
from .output import sound_streams, to_nowhere
from .repair import add_classes, add_repair, add_weights


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
        description="Read the generalization that a trained network hides under what it memorised.",
    )
    parser.add_argument("--version", action="version", version=f"underscript {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )

    demo = _command(commands, "demo", "train a network on wrong labels, then decode it")
    demo.add_argument("--data", default="digits", choices=("digits", "mnist", "fashion-mnist"))
    demo.add_argument("--arch", default="mlp", choices=("mlp", "cnn"))
    redrawn = "share of training labels redrawn from all classes (default 0.4)"
    demo.add_argument("--corruption", type=float, default=0.4, metavar="C", help=redrawn)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--device", help="such as cpu or cuda")
    demo.add_argument("--root", type=Path, help="where the data sets are")
    demo.add_argument("--out", type=Path, metavar="DIR", help="default: underscript-demo")
    demo.set_defaults(issues=False)

    layers = _command(commands, "layers", "list the layers of a model")
    layers.add_argument("model", metavar="FILE.py:build")
    layers.add_argument("--example", required=True, metavar="FILE.py:train")
    _add_pool(layers)

    for name, about, issues in (
        ("decode", "decode a trained model, layer by layer", False),
        ("audit", "the same, and say which labels are wrong and what they should be", True),
    ):
        command = _command(commands, name, about)
        command.set_defaults(issues=issues)
        _add_decode_options(command)

    _add_reproduce(commands)
    _add_study(commands)

    data = _command(commands, "data", "find or download a data set")
    names = "mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet, digits"
    data.add_argument("name", metavar="NAME", help=names)
    data.add_argument("--root", type=Path, metavar="DIR")

    about = "make the report of a run, grid or study again, or put runs side by side"
    report = _command(commands, "report", about)
    report.add_argument("folders", type=Path, metavar="DIR", nargs="+")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: DIR/report.html, of several runs comparison.html",
    )
    add_repair(commands, _command)
    return parser


def _add_reproduce(commands: Any) -> None:
    about = "run experiments of the paper; what is finished in --out is not run again"
    command = _command(commands, "reproduce", about)
    add = command.add_argument
    add("experiment", metavar="EXPERIMENT", help=", ".join(PAIRS))
    add("--corruption", type=_degrees, metavar="C,…", help="default: 0,0.2,0.4,0.6,0.8,1")
    add("--runs", type=int, default=3, help="networks for each degree (default 3)")
    add("--preset", default="quick", help="quick (default) or paper: how networks are trained")
    add(
        "--only",
        type=_names,
        default=("E1", "E2"),
        metavar="E,…",
        help="; ".join(f"{name}: {what}" for name, what in EXPERIMENTS.items())
        + " (default E1,E2)",
    )
    add(
        "--noise",
        default="symmetric",
        metavar="KIND",
        help=f"{', '.join(NOISES)}, or a CSV file of a transition matrix",
    )
    add("--variance", type=float, default=0.99, help="variance share of MASC (default 0.99)")
    add("--samples", type=int, metavar="N", help="training samples, in place of the preset's")
    add(
        "--holdout",
        type=int,
        default=0,
        metavar="N",
        help="so many of them are not trained on and have noisy labels: A1 chooses with them; "
        "each run then draws labels of its own",
    )
    add(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="CSV",
        help="published tables to compare with; may be repeated",
    )
    add("--jobs", type=int, default=1, help="cells to run at once (default 1)")
    add("--device", default="cpu", help="such as cpu (default) or cuda")
    add(
        "--compile",
        action="store_true",
        help="compile the training step first, on cuda into graphs; takes a minute",
    )
    add("--root", type=Path, metavar="DIR", help="where the data sets are")
    add("--out", type=Path, required=True, metavar="DIR")


def _add_study(commands: Any) -> None:
    about = "measure the decoder that chooses itself over data, networks, noise and seeds"
    command = _command(commands, "study", about)
    add = command.add_argument
    add(
        "--settings",
        type=_names,
        default=tuple(SETTINGS),
        metavar="NAME,…",
        help=f"default: {','.join(SETTINGS)}",
    )
    add("--runs", type=int, default=3, help="networks for each cell (default 3)")
    add(
        "--first-run",
        type=int,
        default=2,
        metavar="R",
        help="number of the first (default 2: run 1 is what choices were tuned on)",
    )
    add("--jobs", type=int, default=1, help="cells to run at once (default 1)")
    add("--device", default="cpu", help="such as cpu (default) or cuda")
    add("--root", type=Path, metavar="DIR", help="where the data sets are")
    add("--out", type=Path, required=True, metavar="DIR")


def _add_decode_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--model",
        metavar="FILE.py:build",
        help="a callable or nn.Module; without one, --train holds features to decode",
    )
    add_weights(command)
    add(
        "--train",
        required=True,
        metavar="FILE.py:train",
        help="what it was trained on; or features and labels from files: X.npy,Y.npy, "
        "TABLE.parquet:LABEL or TABLE.csv:LABEL",
    )
    add("--test", metavar="FILE.py:test", help="chooses nothing")
    unseen = "noisy labels that the network was not trained on: they choose the decoder"
    add("--holdout", metavar="FILE.py:val", help=unseen)
    add("--labels", metavar="FILE.py:labels", help="training labels by index, if not in --train")
    add("--true-labels", metavar="FILE.py:clean", help="labels before corruption, where known")
    add_classes(command)
    add(
        "--layers",
        action="append",
        metavar="NAMES",
        help="names or globs, comma-separated; * within a component, ** across dots",
    )
    _add_pool(command)
    add(
        "--probes",
        type=_names,
        metavar="NAMES",
        help=f"comma-separated: {', '.join(PROBE_NAMES)} (default masc, at layers where that costs "
        "next to nothing)",
    )
    add(
        "--variance",
        type=_shares,
        default=(0.99,),
        metavar="SHARES",
        help="variance shares of MASC, comma-separated (default 0.99)",
    )
    add(
        "--perturb",
        default="auto",
        metavar="auto|none|FILE.py:fn",
        help="how inputs are changed so that they still mean the same, which tells memory from "
        "knowledge: by their kind (auto, the default), not at all (none), or by a function of "
        "yours that takes and returns what the model takes",
    )
    add(
        "--views",
        type=_count,
        default=3,
        metavar="N",
        help="perturbed copies of each training input (default 3); each costs a run of the network",
    )
    add("--no-controls", dest="controls", action="store_false", help="no random twin, no input")
    add(
        "--full-controls",
        dest="controls",
        action="store_const",
        const="full",
        default=True,
        help="the random twin at all layers, by all decoders, on all samples",
    )
    add(
        "--evaluate",
        type=_names,
        metavar="NAMES",
        help="where all decoders of the table are tried, comma-separated: train, test, and "
        "candidates, to try on test data all that could have been chosen (default: test; train "
        "without test data and hold-out)",
    )
    add("--device", help="such as cpu or cuda; default: where the model is")
    add("--batch-size", type=int, default=512)
    add("--seed", type=int, default=0)
    add(
        "--memory",
        type=_bytes,
        default=MEMORY,
        metavar="SIZE",
        help="what a process may take beside the model and the data, such as 2GiB (the default); "
        "rows beyond it go to a temporary file, and too little of it is refused",
    )
    add("--out", type=Path, required=True, metavar="DIR")


def _add_pool(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pool",
        type=_names,
        metavar="NAMES",
        help=f"how tokens and feature maps are read, comma-separated: {POOL_CHOICES} (default: "
        "maps as 4x4, tokens with an attention_mask as mean, all else as flatten); for one layer: "
        "--layers NAME@mean",
    )


def _command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    alone = "the result as JSON on standard output, all else on standard error"
    command.add_argument("--json", action="store_true", help=alone)
    command.add_argument("--verbose", action="store_true")
    command.add_argument("--debug", action="store_true", help="show where a failure came from")
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
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least 1; found {text!r}. --perturb none leaves inputs "
            "as they are"
        )
    return int(text)


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
