"""What to do next with a run: commands with the run's own paths, and what would make it surer."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..results.run import Run
from ..results.verdict import needless, reads_only_input
from .words import percent

__all__ = ["Step", "cautions", "next_steps", "no_need"]

# Fewer hold-out labels say little; so many give the accuracy to some two points.
FEW_LABELS = 1_000
_FEATURES_ONLY = "Use features only: you do not need this network."
_ON_FEATURES = "underscript decode --train X.npy,Y.npy --out DIR"


@dataclass(frozen=True)
class Step:
    """Something to do next, and the command or the Python code that does it, if there is one."""

    text: str
    code: str | None = None


def next_steps(d: Run) -> list[Step]:
    """Return at most three things to do next.

    Where the run was written by a command, each comes with a command that runs as it is printed,
    from the folder where that command ran; otherwise with Python code.
    """
    summary, noise = d.summary, d.summary["noise"]
    if noise is not None and noise["hopeless"]:
        return [
            Step(
                "Do not use this decoder. Check that the labels belong to these inputs and are in "
                "the same order: they agree with the data no more than by chance."
            )
        ]
    steps = [_classify(d)]
    if d.label_issues()["is_label_issue"].any():
        steps.append(_clean_labels(summary))
    if (repair := _repair(summary)) is not None:
        steps.append(repair)
    return steps


def no_need(d: Run) -> Step | None:
    """Return in plain words that the network, or its training, is of no use here, if so.

    See `needless`. Without test data it is so only if the decoder reads nothing but the input.

    Returns
    -------
    Step or None
        What was measured and what follows, and the command to go on with.
    """
    noise, own = d.summary["noise"], d.summary["model"]["accuracy"]
    if noise is not None and noise["hopeless"]:
        return None
    if reads_only_input(d.summary) and own["test"] is None:
        read = "The decoder that was chosen reads the raw input alone, and no layer."
        return Step(f"{read} {_FEATURES_ONLY}", _ON_FEATURES)
    control = needless(d.summary, d.table)
    if control is None:
        return None
    who = "decoded" if control.by_decoder else "by the network itself"
    numbers = (
        f"{percent(control.accuracy)}% of the test labels, against {percent(control.best)}% {who}"
    )
    beside = (
        f"better: {numbers}."
        if control.better
        else f"as well: {numbers}, no clear difference on {control.n:,} examples."
    )
    if control.model == "trained":
        return Step(f"The raw input alone does {beside} {_FEATURES_ONLY}", _ON_FEATURES)
    return Step(
        f"The same network, never trained, does {beside} You do not need what this one learned: "
        "decode features of another network, if you have one.",
        _ON_FEATURES,
    )


def cautions(d: Run) -> list[str]:
    """Return what would make the run's numbers surer, and what its reader should know."""
    summary, noise = d.summary, d.summary["noise"]
    selected = summary["selected"]
    if noise is not None and noise["hopeless"]:
        return []
    lines = []
    network = summary["model"]["accuracy"]["train_given"] is not None
    if reads_only_input(summary):
        lines.append("The decoder reads the input and not the network: you can do without it.")
    if network and summary.get("recorded"):
        lines.append(f"To predict, the run needs its network: {summary['recorded']}.")
    if selected["criterion"] != "holdout":
        lines.append(
            "To be surer, keep some thousand samples with their noisy labels from training, and "
            "give them as the hold-out."
        )
    elif selected["n"] < FEW_LABELS and noise is not None and not noise["nothing_wrong"]:
        lines.append(
            f"The estimates rest on {selected['n']:,} held-out labels; some thousand would narrow "
            "them."
        )
    return lines


def _folder(summary: Mapping[str, Any]) -> str:
    return str(summary.get("written_to") or "RUN")


def _command(summary: Mapping[str, Any], *words: str) -> str:
    return shlex.join(["underscript", words[0], _folder(summary), *words[1:]])


def _beside(summary: Mapping[str, Any], ending: str) -> str:
    """Return a path beside the run folder: files inside would be lost with the next run."""
    return _folder(summary).rstrip("/\\") + ending


def _network_options(sources: Mapping[str, Any], *, earlier: bool = False) -> list[str]:
    """Return the options that give the network again; `earlier`: with its checkpoints."""
    options = []
    for name in ("model", "weights"):
        if sources.get(name):
            options += [f"--{name}", str(sources[name])]
    for pattern in (sources.get("checkpoints") or ()) if earlier else ():
        options += ["--checkpoints", pattern]
    return options


def _classify(d: Run) -> Step:
    summary, noise, gain = d.summary, d.summary["noise"], d.summary["gain_points"]
    network = summary["model"]["accuracy"]["train_given"] is not None
    if noise is not None and noise["nothing_wrong"]:
        keep = "Keep the network: so few" if network else "So few"
        return Step(f"{keep} labels are wrong that nothing needs repair.")
    if gain is not None and gain < 0:
        return Step("Keep the network: on the test data the decoder is behind it.")
    sources: Mapping[str, Any] = summary.get("sources") or {}
    name = next((n for n in ("test", "holdout", "train") if sources.get(n)), None)
    if name is None:
        alone = not network or not summary.get("recorded")
        model = "" if alone else ", model=network"
        if model and d.best.steps:
            model += ", checkpoints=checkpoints"
        code = f"underscript.load({_folder(summary)!r}{model}).best.predict(inputs)"
        return Step("Classify new inputs with the decoder:", code)
    needs = []
    if summary.get("recorded"):
        needs = _network_options(sources, earlier=bool(d.best.steps))
    words = ["predict", "--inputs", sources[name], *needs]
    out = _beside(summary, "-predictions.csv")
    what = {"test": "test data", "holdout": "held-out data", "train": "training data"}[name]
    text = f"Classify new inputs with the decoder; here, the {what}:"
    return Step(text, _command(summary, *words, "--out", out))


def _clean_labels(summary: Mapping[str, Any]) -> Step:
    where = f"{_folder(summary)}/label_issues.csv"
    text = f"Write cleaned labels (the worst first: {where}):"
    if not summary.get("written_to"):
        return Step(text, "decoding.relabel().to_csv('labels.csv')")
    return Step(text, _command(summary, "relabel", "--out", _beside(summary, "-labels.csv")))


def _repair(summary: Mapping[str, Any]) -> Step | None:
    """Return the step that rewrites the network's read-out, if that is possible and helps."""
    sources = summary.get("sources") or {}
    noise, stored = summary["noise"], summary.get("transfer") or {}
    chosen = stored.get("chosen") or {"weights": "own"}
    nothing = noise is not None and noise["nothing_wrong"]
    if not sources.get("model") or chosen["weights"] == "own" or nothing:
        return None
    out = _beside(summary, "-repaired.safetensors")
    words = ["transfer", *_network_options(sources), "--out", out]
    text = "Repair the network itself (it keeps its weights but for the read-out):"
    return Step(text, _command(summary, *words))
