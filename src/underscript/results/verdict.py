"""The verdict: the result in one sentence with its numbers."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..utils.intervals import of_share

__all__ = ["of_what", "verdict"]


def verdict(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return the result in one sentence with numbers, and each contradiction in another."""
    lines = [f"But {line}." for line in summary.get("contradictions") or ()]
    return " ".join([_verdict(summary, table), *lines])


def _verdict(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    own, chosen = summary["model"]["accuracy"], summary["selected"]
    wrong = summary["wrong_label_share"]
    labels = f", of which {wrong:.1%} are wrong," if wrong is not None else ""
    what = {"auto": "the decoded ensemble"}.get(chosen["probe"], chosen["probe"].upper())
    *others, last = chosen["layers"]
    name = f"{what} on {', '.join(others)}{' and ' if others else ''}{last}"
    if own["train_given"] is None:
        return _verdict_on_features(summary, what)
    start = f"The network fits {own['train_given']:.1%} of its training labels{labels}"
    noise = summary["noise"]
    if own["test"] is None:
        start = f"{start.rstrip(',')}; {name}, chosen without clean labels,"
        if noise is None or noise["hopeless"]:
            return (
                f"{start} agrees with {chosen['criterion_accuracy']:.1%} of {chosen['n']:,} noisy "
                "labels that it was not fitted to"
                + ("; the labels say no more than chance." if noise is not None else ".")
            )
        return (
            f"{start} is estimated to be right for {noise['accuracy']:.1%} "
            f"({noise['accuracy_low']:.1%} to {noise['accuracy_high']:.1%}) of {of_what(chosen)}."
        )
    gain = summary["gain_points"]
    tested = table[table["selected"] & (table["split"] == "test") & (table["labels"] == "given")]
    low, high = of_share(chosen["test_accuracy"], int(tested["n"].iloc[0]))
    but = "but only" if own["test"] < own["train_given"] else "and"
    middle = (
        f"{start} {but} {own['test']:.1%} of the test labels; {name}, chosen without "
        f"clean labels, gets {chosen['test_accuracy']:.1%} ({low:.1%} to {high:.1%}): "
        f"{abs(gain):.1f} points {'more' if gain >= 0 else 'less'}"
    )
    beside = []
    # The same kind of decoder on the controls: no other comparison is fair.
    control = table[
        (table["split"] == "test")
        & (table["subspace_labels"] == "corrupted")
        & (table["probe"] == chosen["probe"])
    ]
    alone = control[control["layer"] == "input"]["accuracy"]
    if len(alone) and chosen["layer"] != "input":
        beside.append(f"the input alone gives {alone.max():.1%}")
    twin = control[(control["model"] == "random")]["accuracy"]
    if len(twin):
        beside.append(f"an untrained twin's best layer {twin.max():.1%}")
    layers = control[(control["model"] == "trained") & (control["layer"] != "input")]
    if chosen["layers"] == ["input"] and len(layers):
        beside.append("no layer of the network is estimated to know more than its input")
    return middle + (f" ({', '.join(beside)})." if beside else ".")


def of_what(selected: Mapping[str, Any]) -> str:
    """Return in words which inputs the estimated accuracy is for."""
    if selected["criterion"] == "holdout":
        return "new inputs such as the hold-out's"
    return "the training inputs, by fits that have not seen their labels"


def _verdict_on_features(summary: Mapping[str, Any], what: str) -> str:
    """Return the result where there is no network to compare with."""
    chosen, wrong, noise = summary["selected"], summary["wrong_label_share"], summary["noise"]
    start = f"{what[0].upper()}{what[1:]} of the features, chosen without clean labels,"
    fitted = f" Of the training labels {wrong:.1%} are wrong." if wrong is not None else ""
    if chosen["test_accuracy"] is not None:
        return f"{start} gets {chosen['test_accuracy']:.1%} of the test labels.{fitted}"
    if noise is None or noise["hopeless"]:
        return (
            f"{start} agrees with {chosen['criterion_accuracy']:.1%} of {chosen['n']:,} noisy "
            "labels" + ("; the labels say no more than chance." if noise is not None else ".")
        )
    return (
        f"{start} is estimated to be right for {noise['accuracy']:.1%} "
        f"({noise['accuracy_low']:.1%} to {noise['accuracy_high']:.1%}) of {of_what(chosen)}."
        f"{fitted}"
    )
