"""What each command does. This imports torch: the command line does so after its arguments."""

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from .._decode import decode
from .._monitor import load_monitor
from .._trace import load_trace, trace
from ..activations.layers import list_layers
from ..activations.perturbation import WORDS
from ..decoding import Decoding, load
from ..errors import DataError, ModelError, OutputError
from ..repair.retraining import retrain
from ..repair.weights import write_weights

# Imported here, not where it is used: an import error must not come after minutes of work.
from ..report import print_brief, print_trace, terminal_report
from ..results.export import write_spreadsheet
from ..results.monitor.folder import is_monitor
from ..results.run_folder import is_run, results_of
from ..utils.class_names import read_names
from ..utils.distributed import joined
from ..utils.files import fresh_folder, whole_file, write_text
from . import audit as _audit
from .output import print_json, print_line, printed
from .user_objects import load_data, load_function, load_model

__all__ = ["COMMANDS"]

logger = logging.getLogger("underscript")


def _demo(options: argparse.Namespace) -> None:
    from ..experiments.demo import Demo, demo_files, demo_sources, run_demo

    if options.labels is not None and options.corruption is not None:
        raise DataError("--corruption redraws labels; people's (--labels) are taken as they are")
    out = options.out or Path("underscript-demo")
    demo = Demo(
        data=options.data,
        arch=options.arch,
        corruption=0.4 if options.corruption is None else options.corruption,
        labels=options.labels,
        samples=options.samples,
        seed=options.seed,
        root=None if options.root is None else str(options.root),
    )
    with fresh_folder(out, is_run) as work:
        decoding, model = run_demo(demo, device=options.device)
        demo_files(demo, model, work)
        decoding.summary["sources"] = demo_sources(out)
        _keep(decoding, options, work, out)
    _show(decoding, options, out)


def _reproduce(options: argparse.Namespace) -> None:
    from ..experiments.catalogue import CORRUPTIONS
    from ..experiments.plan import Plan
    from ..experiments.reproduce import reproduce

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
        width=options.width,
        memory=options.memory,
        holdout=options.holdout,
        # The paper has no hold-out; runs with one also differ in their labels.
        new_labels=options.holdout > 0,
    )
    results = reproduce(
        plan,
        options.out,
        published=options.compare,
        jobs=options.jobs,
        command=options.command_line,
    )
    _show_tables(results, options, "Tables and figures")


def _study(options: argparse.Namespace) -> None:
    from ..experiments.study import run_study

    results = run_study(
        options.out,
        settings=options.settings,
        runs=options.runs,
        first_run=options.first_run,
        root=options.root,
        device=options.device,
        jobs=options.jobs,
        command=options.command_line,
    )
    _show_tables(results, options, "Tables")


def _show_tables(results: Any, options: argparse.Namespace, what: str) -> None:
    """Print the tables of experiments and where they are kept."""
    with printed(str(options.out)):
        console = _console(stderr=options.json)
        for table in results.tables:
            console.print(table.rich())
        if "verdict" in results.about:
            console.print(results.about["verdict"], markup=False, highlight=False, soft_wrap=True)
        if options.json:
            print_json(results.as_dict())
        console.print(f"{what}: {options.out}", markup=False, highlight=False)


def _decode(options: argparse.Namespace) -> None:
    result: Decoding | None = None
    failed: OutputError | None = None
    try:
        with joined(options.device) as (processes, device), ExitStack() as stack:
            with processes.together():
                work = None
                if processes.rank == 0:
                    work = stack.enter_context(fresh_folder(options.out, is_run))
                model = None
                if options.model is not None:
                    model = load_model(options.model, options.weights)
                    if options.weights is None:
                        logger.warning(
                            "no --weights: the model is used as %s gives it", options.model
                        )
                elif options.weights is not None:
                    raise DataError("--weights: expected --model FILE.py:build to load them into")
                train = load_data(options.train, "--train")
                test = _optional(options.test, "--test")
                holdout = _optional(options.holdout, "--holdout")
                labels = _optional(options.labels, "--labels", column=True)
                true_labels = _optional(options.true_labels, "--true-labels", column=True)
                names = _class_names(options)
                perturb = _perturbation(options.perturb)
            decoded = decode(
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
                group=processes.group,
                class_names=names,
                perturb=perturb,
                views=options.views,
                checkpoints=_checkpoints(options.checkpoints),
            )
            if work is not None:
                result = decoded
                names_of = ("model", "weights", "checkpoints", "train", "test", "holdout")
                sources = {name: getattr(options, name) for name in names_of}
                result.summary["sources"] = {k: v for k, v in sources.items() if v is not None}
                _keep(result, options, work, options.out)
    except OutputError as error:
        if result is None:
            raise
        # The disk may be full by now: the result is shown all the same.
        failed = error
    except (DataError, ModelError) as error:
        # The option has another form than the argument.
        raise type(error)(_as_option(error, "--checkpoints")) from error
    if result is not None:
        _show(result, options, options.out, kept=failed is None)
    if failed is not None:
        raise failed


def _trace(options: argparse.Namespace) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError("trace runs in one process; start it without torchrun")
    try:
        traced = trace(
            load_model(options.model, None),
            _checkpoints(options.weights),
            load_data(options.train, "--train"),
            _optional(options.test, "--test"),
            _optional(options.holdout, "--holdout"),
            layers=options.layers,
            pool=options.pool,
            labels=_optional(options.labels, "--labels", column=True),
            true_labels=_optional(options.true_labels, "--true-labels", column=True),
            device=options.device,
            batch_size=options.batch_size,
            seed=options.seed,
            memory=options.memory,
            class_names=_class_names(options),
            perturb=_perturbation(options.perturb),
            views=options.views,
            out=options.out,
        )
    except (DataError, ModelError) as error:
        # The option has another name than the argument.
        raise type(error)(_as_option(error, "--weights")) from error
    except KeyboardInterrupt:
        kept = len(list(options.out.glob("steps/[0-9]*")))
        raise KeyboardInterrupt(
            f"interrupted; {kept} decoded checkpoints are kept in {options.out}: the same command "
            "goes on from there"
        ) from None
    names = ("model", "train", "test", "holdout", "labels", "true_labels", "classes", "layers")
    sources = {name: getattr(options, name) for name in names}
    sources["layers"] = None if options.layers is None else ",".join(options.layers)
    traced.summary["sources"] = {k: str(v) for k, v in sources.items() if v is not None}
    traced.summary["sources"]["checkpoints"] = options.weights
    traced.summary["command"] = options.command_line
    traced.save(options.out)
    with printed(str(options.out)):
        print_trace(_console(stderr=options.json), traced, report=str(options.out / "report.html"))
        if options.json:
            files = {"out": str(options.out), "trace_csv": str(options.out / "trace.csv")}
            print_json({**traced.summary, **files})


def _layers(options: argparse.Namespace) -> None:
    model = load_model(options.model, None)
    layers = list_layers(model, load_data(options.example, "--example"), options.pool)
    if options.json:
        with printed():
            print_json(layers.to_dict("records"))
        return
    # Folded, not cut, so that a name can be copied.
    name = Column("layer", overflow="fold")
    table = Table(name, "module", "shape of one sample", "width", "decoded by default")
    for row in layers.to_dict("records"):
        shape = " × ".join(map(str, row["shape"]))
        table.add_row(
            _plain(row["layer"]),
            row["module"],
            shape,
            f"{row['width']:,}",
            "yes" if row["default"] else "",
        )
    with printed():
        _console().print(table)


def _data(options: argparse.Namespace) -> None:
    from ..experiments.datasets import describe, load_dataset

    facts = describe(load_dataset(options.name, options.root))
    table = Table(show_header=False)
    for key in ("name", "source", "n_train", "n_test", "image_shape", "n_classes"):
        table.add_row(key, str(facts[key]))
    with printed():
        if options.json:
            print_json(facts)
        else:
            _console().print(table)


def _report(options: argparse.Namespace) -> None:
    from ..experiments.pages import remade
    from ..report import render_beside, write_page

    folder, *others = options.folders
    page = options.out or (Path("comparison.html") if others else folder / "report.html")
    if others:
        write_page(page, render_beside({str(path): load(path) for path in options.folders}))
    elif (again := remade(folder)) is not None:
        write_page(page, again)
    elif is_monitor(folder):
        load_monitor(folder).report(page)
    elif results_of(folder).get("kind") == "trace":
        load_trace(folder).report(page)
    else:
        load(folder).report(page)
    with printed(str(page)):
        if options.json:
            print_json({"report": str(page)})
        else:
            _console().print(f"{page}", markup=False, highlight=False)


def _predict(options: argparse.Namespace) -> None:
    model = None if options.model is None else load_model(options.model, options.weights)
    if model is None and options.weights is not None:
        raise DataError("--weights: expected --model FILE.py:build to load them into")
    decoding = load(options.folder, model, _checkpoints(options.checkpoints))
    predictions = decoding.predictions(load_data(options.inputs, "--inputs"))
    with whole_file(options.out) as work:
        write_spreadsheet(predictions, work)
    _print_result(
        options,
        {"out": str(options.out), "n": len(predictions)},
        f"{options.out}: the classes of {len(predictions):,} inputs",
    )


def _export(options: argparse.Namespace) -> None:
    model = load_model(options.model, options.weights)
    best = load(options.folder, model, _checkpoints(options.checkpoints)).best
    best.export(options.out, load_data(options.example, "--example"))
    _print_result(
        options,
        {"onnx": str(options.out), "layers": list(best.layers), "probe": best.probe},
        f"{options.out}: answers as torch does, for batches of any size",
    )


def _transfer(options: argparse.Namespace) -> None:
    decoding = load(options.folder, load_model(options.model, options.weights))
    repaired = decoding.transfer(options.weights_from, options.bias)
    write_weights(options.out, repaired)
    transfer = decoding.summary["transfer"]
    _print_result(
        options, {**transfer, "out": str(options.out)}, f"{options.out}: {transfer['reason']}"
    )


def _relabel(options: argparse.Namespace) -> None:
    cleaned = load(options.folder).relabel(options.review)
    write_text(options.out, cleaned.to_csv())
    changed = int(cleaned["changed"].sum())
    result = {"out": str(options.out), "n": len(cleaned), "changed": changed}
    line = f"{options.out}: {changed:,} of {len(cleaned):,} labels changed"
    if options.review is not None:
        result["reviewed"] = reviewed = int(cleaned["reviewed"].sum())
        line += f"; {reviewed:,} are as you decided"
    _print_result(options, result, line)


def _retrain(options: argparse.Namespace) -> None:
    retrained = retrain(
        load_model(options.model, options.weights),
        load_data(options.train, "--train"),
        load(options.folder),
        _optional(options.holdout, "--holdout"),
        _optional(options.test, "--test"),
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
        class_names=_class_names(options),
    )
    retrained.save(options.out)
    _print_result(
        options,
        {**retrained.summary, "out": str(options.out)},
        f"{options.out}: {retrained.verdict}",
    )


def _keep(decoding: Decoding, options: argparse.Namespace, work: Path, out: Path) -> None:
    """Write a result that will be in `out`, before anything of it is printed."""
    decoding.summary["command"] = options.command_line
    if options.issues:
        decoding.summary["kind"] = "audit"
    decoding.write_into(work, out, network=options.keep_network)


def _show(decoding: Decoding, options: argparse.Namespace, out: Path, *, kept: bool = True) -> None:
    """Print a result, and where it is kept."""
    with printed(str(out) if kept else ""):
        console = _console(stderr=options.json)
        page = str(out / "report.html") if kept else None
        if options.verbose:
            _show_all(console, decoding, audit=options.issues)
            if page is not None:
                console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
        else:
            print_brief(console, decoding, report=page)
        if options.json:
            rows = [
                {key: None if _is_nan(value) else value for key, value in row.items()}
                for row in decoding.table.to_dict("records")
            ]
            more = {"worst": _audit.worst(decoding)} if options.issues else {}
            files = {"out": str(out), "label_issues_csv": str(out / "label_issues.csv")}
            print_json({**decoding.summary, "table": rows, **more, **files})


def _show_all(console: Console, decoding: Decoding, *, audit: bool) -> None:
    console.print(Text(decoding.verdict, style="bold"), soft_wrap=True)
    parts: list[Any] = []
    if audit:
        parts = [*_audit.tables(decoding), Text(_audit.said(decoding)), Text()]
    console.print(terminal_report(decoding, parts))


def _console(stderr: bool = False) -> Console:
    """Return a terminal; where there is none, lines long enough for the table."""
    stream = sys.stderr if stderr else sys.stdout
    return _Terminal(file=stream, width=None if stream.isatty() else 120)


class _Terminal(Console):
    """A console that leaves a closed pipe to `printed`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _optional(spec: str | None, what: str, *, column: bool = False) -> Any:
    return None if spec is None else load_data(spec, what, column=column)


def _checkpoints(given: list[str] | None) -> list[str] | str | None:
    """Return checkpoints as `trace` and `decode` take them: one pattern, or several files."""
    return given[0] if given is not None and len(given) == 1 else given


def _as_option(error: Exception, option: str) -> str:
    """Return an error about the argument `checkpoints` as one about an option."""
    text, start = str(error), "checkpoints: "
    return f"{option}: {text.removeprefix(start)}" if text.startswith(start) else text


def _class_names(options: argparse.Namespace) -> list[Any] | None:
    return None if options.classes is None else read_names(options.classes)


def _perturbation(choice: str) -> str | Callable[[Any], Any]:
    """Return the value of ``--perturb``: a word, or the function that it names."""
    if choice in WORDS:
        return choice
    if ":" not in choice:
        words = ", ".join(WORDS)
        raise DataError(f"--perturb: expected {words} or FILE.py:name; found {choice!r}")
    return load_function(choice, "--perturb")


def _print_result(options: argparse.Namespace, result: dict[str, Any], line: str) -> None:
    """Write the result on standard output, as JSON where that is asked for."""
    with printed(str(options.out)):
        if options.json:
            print_json(result)
        else:
            print_line(line)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain(text: str) -> str:
    """Return text that rich does not read as markup: layer names have brackets."""
    return text.replace("[", r"\[")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "layers": _layers,
    "decode": _decode,
    "audit": _decode,
    "trace": _trace,
    "reproduce": _reproduce,
    "study": _study,
    "data": _data,
    "report": _report,
    "predict": _predict,
    "export": _export,
    "transfer": _transfer,
    "relabel": _relabel,
    "retrain": _retrain,
}
