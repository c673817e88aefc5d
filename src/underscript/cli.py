"""The command line: arguments in, the library's answers out, no logic of its own."""

import argparse
import json
import logging
import math
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from . import __version__, _audit
from ._class_names import read_names
from ._cli_repair import add_repair, add_weights
from ._device import as_bytes
from ._files import fresh_folder
from ._pooling import CHOICES
from ._run_folder import is_run
from ._team import joined
from ._user import load_data, load_function, load_model
from .decode import decode
from .decoding import Decoding, load
from .errors import DataError, TeamError, UnderscriptError
from .layers import list_layers

# Here, not where it is used: after minutes of work is no time to find that it cannot be imported.
from .report import terminal_report
from .rows import MEMORY
from .subspace import PROBES

logger = logging.getLogger("underscript")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns
    -------
    int
        0 if all went well, 2 for bad input (one line on standard error), 1 for a failure inside,
        130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in arguments
    try:
        options = _parser().parse_args(arguments)
        options.command_line = "underscript " + shlex.join(arguments)
        _set_up_messages(options)
        options.run(options)
    except TeamError as error:
        return _fail(1, f"failed: {error}")
    except UnderscriptError as error:
        if debug:
            raise
        # All processes of a team have the same error: one of them says it.
        return _fail(2, f"error: {error}") if _first() else 2
    except KeyboardInterrupt as interrupt:
        return _fail(130, str(interrupt) or "interrupted; nothing was written")
    except BrokenPipeError:
        # Who reads our output has stopped; Python would complain once more at exit.
        sys.stdout = None
        return 0
    except Exception as error:
        if debug:
            raise
        message = (str(error).strip().splitlines() or [""])[0]
        return _fail(1, f"failed inside: {type(error).__name__}: {message} (--debug shows where)")
    return 0


def _demo(options: argparse.Namespace) -> None:
    from .experiments.demo import run_demo

    out = options.out or Path("underscript-demo")
    with fresh_folder(out, is_run) as work:
        found = run_demo(
            data=options.data,
            arch=options.arch,
            corruption=options.corruption,
            seed=options.seed,
            device=options.device,
            root=options.root,
        )
        _finish(found, options, out, work)


def _reproduce(options: argparse.Namespace) -> None:
    from .experiments.plan import CORRUPTIONS, Plan
    from .experiments.reproduce import reproduce

    plan = Plan(
        options.experiment,
        preset=options.preset,
        noise=options.noise,
        corruptions=options.corruption or CORRUPTIONS,
        runs=options.runs,
        only=options.only,
        variance=options.variance,
        device=options.device,
        compiled=options.compile,
        root=options.root,
        samples=options.samples,
        holdout=options.holdout,
        # A hold-out is ours, not the paper's, and its runs are to differ in their labels too.
        new_labels=options.holdout > 0,
    )
    found = reproduce(
        plan, options.out, published=options.compare, jobs=options.jobs,
        command=options.command_line,
    )  # fmt: skip
    console = _console(stderr=options.json)
    for table in found.tables:
        console.print(table.rich())
    if "verdict" in found.about:
        console.print(found.about["verdict"], markup=False, highlight=False, soft_wrap=True)
    if options.json:
        _print_json(found.as_dict())
    console.print(f"Tables and figures: {options.out}", markup=False, highlight=False)


def _study(options: argparse.Namespace) -> None:
    from .experiments.study import run_study

    found = run_study(
        options.out, settings=options.settings, runs=options.runs, first_run=options.first_run,
        root=options.root, device=options.device, jobs=options.jobs, command=options.command_line,
    )  # fmt: skip
    console = _console(stderr=options.json)
    for table in found.tables:
        console.print(table.rich())
    if options.json:
        _print_json(found.as_dict())
    console.print(f"Tables: {options.out}", markup=False, highlight=False)


def _decode(options: argparse.Namespace) -> None:
    with joined(options.device) as (team, device), ExitStack() as stack:
        with team.together():
            work = None
            if team.rank == 0:
                work = stack.enter_context(fresh_folder(options.out, is_run))
            model = None
            if options.model is not None:
                model = load_model(options.model, options.weights)
                if options.weights is None:
                    logger.warning("no --weights: the model is used as %s gives it", options.model)
            elif options.weights is not None:
                raise DataError("--weights: expected --model FILE.py:build to load them into")
            train = load_data(options.train, "--train")
            test = _optional(options.test, "--test")
            holdout = _optional(options.holdout, "--holdout")
            labels = _optional(options.labels, "--labels", column=True)
            true_labels = _optional(options.true_labels, "--true-labels", column=True)
            names = None if options.classes is None else read_names(options.classes)
            perturb = _perturbation(options.perturb)
        found = decode(
            model,
            train,
            test,
            holdout,
            layers=options.layers,
            pool=options.pool,
            probes=options.probes,
            variance=options.variance,
            labels=labels,
            true_labels=true_labels,
            controls=options.controls,
            evaluate=options.evaluate,
            device=device,
            batch_size=options.batch_size,
            seed=options.seed,
            memory=options.memory,
            group=team.group,
            class_names=names,
            perturb=perturb,
            views=options.views,
        )
        if work is not None:
            _finish(found, options, options.out, work)


def _layers(options: argparse.Namespace) -> None:
    model = load_model(options.model, None)
    found = list_layers(model, load_data(options.example, "--example"), options.pool)
    if options.json:
        _print_json(found.to_dict("records"))
        return
    # Folded, not cut: a name is there to be copied.
    name = Column("layer", overflow="fold")
    table = Table(name, "module", "shape of one sample", "width", "decoded by default")
    for row in found.to_dict("records"):
        shape = " × ".join(map(str, row["shape"]))
        table.add_row(
            _plain(row["layer"]), row["module"], shape, f"{row['width']:,}",
            "yes" if row["default"] else "",
        )  # fmt: skip
    _console().print(table)


def _data(options: argparse.Namespace) -> None:
    from .datasets import describe, load_dataset

    found = describe(load_dataset(options.name, options.root))
    if options.json:
        _print_json(found)
        return
    table = Table(show_header=False)
    for key in ("name", "source", "n_train", "n_test", "image_shape", "n_classes"):
        table.add_row(key, str(found[key]))
    _console().print(table)


def _report(options: argparse.Namespace) -> None:
    from .experiments.pages import remade
    from .report import render_beside, write_page

    folder, *others = options.folders
    page = options.out or (Path("comparison.html") if others else folder / "report.html")
    if others:
        write_page(page, render_beside({str(each): load(each) for each in options.folders}))
    elif (again := remade(folder)) is not None:
        write_page(page, again)
    else:
        load(folder).report(page)
    if options.json:
        _print_json({"report": str(page)})
    else:
        _console().print(f"{page}", markup=False, highlight=False)


def _finish(found: Decoding, options: argparse.Namespace, out: Path, work: Path) -> None:
    """Show the result, then keep it: a disk that is full by now must not lose it."""
    found.summary["command"] = options.command_line
    console = _console(stderr=options.json)
    console.print(Text(found.verdict, style="bold"), soft_wrap=True)
    if options.issues:
        found.summary["kind"] = "audit"
        audit: list[Any] = [*_audit.tables(found), Text(_audit.said(found)), Text()]
        console.print(terminal_report(found, audit))
    else:
        console.print(terminal_report(found))
    if options.json:
        rows = [
            {key: None if _is_nan(value) else value for key, value in row.items()}
            for row in found.table.to_dict("records")
        ]
        more = {"worst": _audit.worst(found)} if options.issues else {}
        files = {"out": str(out), "label_issues_csv": str(out / "label_issues.csv")}
        _print_json({**found.summary, "table": rows, **more, **files})
    found.write_into(work)
    if options.issues:
        console.print(f"Label issues: {out / 'label_issues.csv'}", markup=False, highlight=False)
    console.print(f"Report: {out / 'report.html'}", markup=False, highlight=False)


def _console(stderr: bool = False) -> Console:
    """Return a terminal; where there is none, lines long enough for the table."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 120)


def _optional(spec: str | None, what: str, *, column: bool = False) -> Any:
    return None if spec is None else load_data(spec, what, column=column)


def _perturbation(choice: str) -> str | Callable[[Any], Any]:
    """Return what ``--perturb`` says: a word as it is, or the function that is named."""
    if choice in ("auto", "none"):
        return choice
    if ":" not in choice:
        raise DataError(f"--perturb: expected auto, none or FILE.py:name; found {choice!r}")
    return load_function(choice, "--perturb")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain(text: str) -> str:
    """Return text that rich does not read as markup: layer names have brackets."""
    return text.replace("[", r"\[")


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"underscript: {' '.join(message.split())}\n")
    return code


def _first() -> bool:
    """Say whether this process speaks for those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def _set_up_messages(options: argparse.Namespace) -> None:
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(
        stream=sys.stderr, level=level if _first() else logging.ERROR,
        format="underscript: %(message)s",
    )  # fmt: skip

    def one_line(message: Any, category: type[Warning], *_where: Any, **_more: Any) -> None:
        if _first():
            sys.stderr.write(f"underscript: warning: {message}\n")

    warnings.showwarning = one_line
    # Ends like Ctrl-C, so that what is half-written is taken away.
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    """One line for a bad argument, like every other error."""

    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="underscript",
        description="Read the generalization that a trained network hides under what it memorised.",
    )
    parser.add_argument("--version", action="version", version=f"underscript {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "train a network on wrong labels, then decode it")
    demo.add_argument("--data", default="digits", choices=("digits", "mnist", "fashion-mnist"))
    demo.add_argument("--arch", default="mlp", choices=("mlp", "cnn"))
    redrawn = "share of training labels redrawn from all classes (default 0.4)"
    demo.add_argument("--corruption", type=float, default=0.4, metavar="C", help=redrawn)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--device", help="such as cpu or cuda")
    demo.add_argument("--root", type=Path, help="where the data sets are")
    demo.add_argument("--out", type=Path, metavar="DIR", help="default: underscript-demo")
    demo.set_defaults(issues=False)

    layers = _command(commands, "layers", _layers, "list the layers of a model")
    layers.add_argument("model", metavar="FILE.py:build")
    layers.add_argument("--example", required=True, metavar="FILE.py:train")
    _add_pool(layers)

    for name, about, issues in (
        ("decode", "decode a trained model, layer by layer", False),
        ("audit", "the same, and say which labels are wrong and what they should be", True),
    ):
        command = _command(commands, name, _decode, about)
        command.set_defaults(issues=issues)
        _add_decode_options(command)

    _add_reproduce(commands)
    _add_study(commands)

    data = _command(commands, "data", _data, "find or download a data set")
    names = "mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet, digits"
    data.add_argument("name", metavar="NAME", help=names)
    data.add_argument("--root", type=Path, metavar="DIR")

    about = "make the report of a run, grid or study again, or put runs side by side"
    report = _command(commands, "report", _report, about)
    report.add_argument("folders", type=Path, metavar="DIR", nargs="+")
    report.add_argument("--out", type=Path, metavar="FILE",
        help="default: DIR/report.html, of several runs comparison.html")  # fmt: skip
    add_repair(commands, _command)
    return parser


def _add_reproduce(commands: Any) -> None:
    from .experiments.plan import EXPERIMENTS, NOISES, PAIRS

    about = "run experiments of the paper; what is finished in --out is not run again"
    command = _command(commands, "reproduce", _reproduce, about)
    add = command.add_argument
    add("experiment", metavar="EXPERIMENT", help=", ".join(PAIRS))
    add("--corruption", type=_degrees, metavar="C,…", help="default: 0,0.2,0.4,0.6,0.8,1")
    add("--runs", type=int, default=3, help="networks for each degree (default 3)")
    add("--preset", default="quick", help="quick (default) or paper: how networks are trained")
    add("--only", type=_names, default=("E1", "E2"), metavar="E,…",
        help="; ".join(f"{name}: {what}" for name, what in EXPERIMENTS.items())
        + " (default E1,E2)")  # fmt: skip
    add("--noise", default="symmetric", metavar="KIND",
        help=f"{', '.join(NOISES)}, or a CSV file of a transition matrix")  # fmt: skip
    add("--variance", type=float, default=0.99, help="variance share of MASC (default 0.99)")
    add("--samples", type=int, metavar="N", help="training samples, in place of the preset's")
    add("--holdout", type=int, default=0, metavar="N",
        help="so many of them are not trained on and have noisy labels: A1 chooses with them; "
        "each run then draws labels of its own")  # fmt: skip
    add("--compare", type=Path, action="append", default=[], metavar="CSV",
        help="published tables to compare with; may be repeated")  # fmt: skip
    add("--jobs", type=int, default=1, help="cells to run at once (default 1)")
    add("--device", default="cpu", help="such as cpu (default) or cuda")
    add("--compile", action="store_true",
        help="compile the training step first, on cuda into graphs; takes a minute")  # fmt: skip
    add("--root", type=Path, metavar="DIR", help="where the data sets are")
    add("--out", type=Path, required=True, metavar="DIR")


def _add_study(commands: Any) -> None:
    from .experiments.study import SETTINGS

    about = "measure the decoder that chooses itself over data, networks, noise and seeds"
    command = _command(commands, "study", _study, about)
    add = command.add_argument
    add("--settings", type=_names, default=tuple(SETTINGS), metavar="NAME,…",
        help=f"default: {','.join(SETTINGS)}")  # fmt: skip
    add("--runs", type=int, default=3, help="networks for each cell (default 3)")
    add("--first-run", type=int, default=2, metavar="R",
        help="number of the first (default 2: run 1 is what choices were tuned on)")  # fmt: skip
    add("--jobs", type=int, default=1, help="cells to run at once (default 1)")
    add("--device", default="cpu", help="such as cpu (default) or cuda")
    add("--root", type=Path, metavar="DIR", help="where the data sets are")
    add("--out", type=Path, required=True, metavar="DIR")


def _add_decode_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", metavar="FILE.py:build",
        help="a callable or nn.Module; without one, --train holds features to decode")  # fmt: skip
    add_weights(command)
    add("--train", required=True, metavar="FILE.py:train",
        help="what it was trained on; or features and labels from files: X.npy,Y.npy, "
        "TABLE.parquet:LABEL or TABLE.csv:LABEL")  # fmt: skip
    add("--test", metavar="FILE.py:test", help="chooses nothing")
    unseen = "noisy labels that the network was not trained on: they choose the decoder"
    add("--holdout", metavar="FILE.py:val", help=unseen)
    add("--labels", metavar="FILE.py:labels", help="training labels by index, if not in --train")
    add("--true-labels", metavar="FILE.py:clean", help="labels before corruption, where known")
    names = "names of the classes in the read-out's order, one a line or a JSON list"
    add("--classes", type=Path, metavar="FILE", help=names)
    add("--layers", action="append", metavar="NAMES",
        help="names or globs, comma-separated; * within a component, ** across dots")  # fmt: skip
    _add_pool(command)
    add("--probes", type=_names, metavar="NAMES",
        help=f"comma-separated: {', '.join(PROBES)} (default masc, at layers where that costs "
        "next to nothing)")  # fmt: skip
    add("--variance", type=_shares, default=(0.99,), metavar="SHARES",
        help="variance shares of MASC, comma-separated (default 0.99)")  # fmt: skip
    add("--perturb", default="auto", metavar="auto|none|FILE.py:fn",
        help="how inputs are changed so that they still mean the same, which tells memory from "
        "knowledge: by their kind (auto, the default), not at all (none), or by a function of "
        "yours that takes and returns what the model takes")  # fmt: skip
    add("--views", type=_count, default=3, metavar="N",
        help="perturbed copies of each training input (default 3); each costs a run of the "
        "network")  # fmt: skip
    add("--no-controls", dest="controls", action="store_false", help="no random twin, no input")
    add("--full-controls", dest="controls", action="store_const", const="full", default=True,
        help="the random twin at all layers, by all decoders, on all samples")  # fmt: skip
    add("--evaluate", type=_names, metavar="NAMES",
        help="where all decoders of the table are tried, comma-separated: train, test, and "
        "candidates, to try on test data all that could have been chosen (default: test; train "
        "without test data and hold-out)")  # fmt: skip
    add("--device", help="such as cpu or cuda; default: where the model is")
    add("--batch-size", type=int, default=512)
    add("--seed", type=int, default=0)
    add("--memory", type=_bytes, default=MEMORY, metavar="SIZE",
        help="what a process may take beside the model and the data, such as 2GiB (the default); "
        "rows beyond it go to a temporary file, and too little of it is refused")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR")


def _add_pool(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pool", type=_names, metavar="NAMES",
        help=f"how tokens and feature maps are read, comma-separated: {CHOICES} (default: maps "
        "as 4x4, tokens with an attention_mask as mean, all else as flatten); for one layer: "
        "--layers NAME@mean",
    )  # fmt: skip


def _command(commands: Any, name: str, run: Any, about: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    command.set_defaults(run=run)
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
