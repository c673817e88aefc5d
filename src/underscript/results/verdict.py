"""The verdict: the result of a decode in a few plain sentences with their numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from ..utils.intervals import of_share

__all__ = ["needless", "of_what", "opening", "reads_only_input", "same_decoder", "verdict"]

# Shares beyond these ends, and intervals narrower than this, need a decimal to be told apart.
_HIGH, _LOW, _NARROW = 0.95, 0.05, 0.01
# How far test accuracy must be below the fit of the training labels to be called "only".
_FAR = 0.05
# A control that is behind by more than this is not as good, however few test data there are.
AS_GOOD = 0.02
_HOPELESS = "Your labels fit the inputs no better than chance: do not use this decoder."


def verdict(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return the result in a few sentences, and each contradiction in one more.

    Parameters
    ----------
    summary : mapping
        The summary of a run; `label_issues` may be missing still.
    table : pandas.DataFrame
        The run's table.
    """
    return _joined(
        _network(summary),
        _decoded(summary, table),
        _labels(summary),
        _needless(summary, table) or _controls(summary, table),
        *_cautions(summary),
    )


def opening(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return the first two sentences of the verdict and what warns; arguments as there."""
    labels = summary["noise"] is not None and summary["noise"]["hopeless"] and _labels(summary)
    return _joined(_network(summary), _decoded(summary, table), labels or "", *_cautions(summary))


def _joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def _cautions(summary: Mapping[str, Any]) -> list[str]:
    return [f"Caution: {line}." for line in summary.get("contradictions") or ()]


def of_what(selected: Mapping[str, Any]) -> str:
    """Return in words which inputs the estimated accuracy is for."""
    if selected["criterion"] == "holdout":
        return "new inputs like those of the hold-out"
    return "the training inputs, each decoded without its own label"


def _network(summary: Mapping[str, Any]) -> str:
    """Return what the network itself gets right; empty without a network."""
    own = summary["model"]["accuracy"]
    if own["train_given"] is None:
        return ""
    start = f"Your network fits {_percent(own['train_given'])} of its labels"
    if own["test"] is None:
        return f"{start}."
    gets = "but gets only" if own["test"] < own["train_given"] - _FAR else "and gets"
    return f"{start} {gets} {_percent(own['test'])} of the test inputs right."


def _decoded(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return how right the decoder is, measured or estimated."""
    chosen, noise, own = summary["selected"], summary["noise"], summary["model"]["accuracy"]
    subject = _subject(chosen, network=own["train_given"] is not None)
    if chosen["test_accuracy"] is not None:
        low, high = _interval(chosen, table)
        decoded = _between(chosen["test_accuracy"], low, high)
        if own["test"] is None:
            return f"{subject} gets {decoded} of the test inputs right."
        if own["test"] > high:
            return f"{subject} gets less, {decoded}: keep your network."
        clear = own["test"] < low
        return f"{subject} gets {decoded}{'' if clear else ': no clear difference'}."
    if noise is None or noise["hopeless"]:
        return (
            f"{subject} agrees with {_percent(chosen['criterion_accuracy'])} of {chosen['n']:,} "
            "noisy labels that were left out of the fit."
        )
    estimate = _between(noise["accuracy"], noise["accuracy_low"], noise["accuracy_high"])
    return f"{subject} is right for an estimated {estimate} of {of_what(chosen)}."


def _subject(chosen: Mapping[str, Any], *, network: bool) -> str:
    """Return who predicts: the decoded network, or the decoder of features without a network."""
    named = chosen["probe"] != "auto"
    probe = chosen["probe"].upper()
    if not network:
        return probe if named else "The decoder"
    # An ensemble reads what it likes; where the user named a probe, its layer is of interest.
    return f"Decoded with {probe} on {chosen['layer']}, it" if named else "Decoded, it"


def _labels(summary: Mapping[str, Any]) -> str:
    """Return how many labels look wrong, and where they are listed."""
    noise, known = summary["noise"], summary["wrong_label_share"]
    issues = summary.get("label_issues")
    if noise is None:
        return "" if known is None else f"{_percent(known)} of your labels are wrong."
    if noise["hopeless"]:
        return _HOPELESS
    truth = "" if known is None else f" (in truth {_percent(known)})"
    share = noise["rate"]
    if noise["nothing_wrong"]:
        text = f"Hardly any of your labels look wrong{truth}: there is nothing to repair"
    else:
        digits = 0 if share >= 0.1 else 1
        ends = [f"{100 * noise[end]:.{digits}f}" for end in ("rate_low", "rate_high")]
        about = f"{share:.{digits}%} ({ends[0]} to {ends[1]})"
        text = f"About {about} of your labels look wrong{truth}"
    flagged = 0 if issues is None else issues["flagged"]
    if not flagged:
        return f"{text}."
    return f"{text}; {flagged:,} {'is' if flagged == 1 else 'are'} flagged in label_issues.csv."


class Needless(NamedTuple):
    """A control that does as well as what was decoded: the network, or its training, is of no use.

    Attributes
    ----------
    model : {"trained", "random"}
        The raw input of the network, or an untrained network.
    accuracy, best : float
        Test accuracy of the control, and of the better of decoder and network, 0 to 1.
    by_decoder : bool
        Whether the better one is the decoder.
    better : bool
        Whether the control is clearly better.
    n : int
        Number of test samples.
    """

    model: str
    accuracy: float
    best: float
    by_decoder: bool
    better: bool
    n: int


def needless(summary: Mapping[str, Any], table: pd.DataFrame) -> Needless | None:
    """Return the control that does as well as decoder and network on the test data, if one does.

    As well means: not clearly less (95 %), and by at most `AS_GOOD`.
    """
    own, chosen, noise = summary["model"]["accuracy"], summary["selected"], summary["noise"]
    if own["test"] is None or (noise is not None and noise["hopeless"]):
        return None
    rows = same_decoder(summary, table)
    by_decoder = chosen["test_accuracy"] >= own["test"] and chosen["layers"] != ["input"]
    best, n = chosen["test_accuracy"] if by_decoder else own["test"], int(rows["n"].iloc[0])
    low, high = of_share(best, n)
    trained = rows["model"] == "trained"
    for model, some in (
        ("trained", rows[trained & (rows["layer"] == "input")]),
        ("random", rows[~trained]),
    ):
        if len(some) and (share := float(some["accuracy"].max())) >= max(low, best - AS_GOOD):
            return Needless(model, share, best, by_decoder, share > high, n)
    return None


def reads_only_input(summary: Mapping[str, Any]) -> bool:
    """Return whether the decoder reads nothing of a network whose layers were decoded too."""
    decoded = [layer["layer"] for layer in summary["layers"]]
    network = summary["model"]["accuracy"]["train_given"] is not None
    return network and summary["selected"]["layers"] == ["input"] and decoded != ["input"]


def _needless(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return a sentence if the network or its training is of no use."""
    if reads_only_input(summary):
        return "The decoder reads only the raw input: no layer of your network adds to it."
    control = needless(summary, table)
    if control is None:
        return ""
    well = f"{'better' if control.better else 'as well'} ({_percent(control.accuracy)})"
    if control.model == "trained":
        return f"The raw input alone does {well}: you do not need this network."
    return f"An untrained network does {well}: what was decoded does not come from training."


def _controls(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return what the raw input and an untrained network give, with the same kind of decoder."""
    noise = summary["noise"]
    hopeless = noise is not None and noise["hopeless"]
    if summary["model"]["accuracy"]["test"] is None or hopeless:
        return ""
    rows = same_decoder(summary, table)
    raw = rows[(rows["layer"] == "input") & (rows["model"] == "trained")]["accuracy"]
    twin = rows[rows["model"] == "random"]["accuracy"]
    parts = []
    if len(raw):
        parts.append(f"the raw input alone gets {_percent(raw.max())}")
    if len(twin):
        gets = "" if parts else "gets "
        parts.append(f"an untrained network {gets}at best {_percent(twin.max())}")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def same_decoder(summary: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the table for test data and the kind of decoder that was chosen."""
    rows: pd.DataFrame = table[
        (table["split"] == "test")
        & (table["labels"] == "given")
        & (table["subspace_labels"] == "corrupted")
        & (table["probe"] == summary["selected"]["probe"])
    ]
    return rows


def _interval(chosen: Mapping[str, Any], table: pd.DataFrame) -> tuple[float, float]:
    """Return the 95 % confidence interval of the decoder's test accuracy."""
    tested = table[table["selected"] & (table["split"] == "test") & (table["labels"] == "given")]
    return of_share(chosen["test_accuracy"], int(tested["n"].iloc[0]))


def _percent(share: float, digits: int | None = None) -> str:
    if digits is None:
        digits = int(share > _HIGH or share < _LOW)
    return "100%" if share == 1 else f"{share:.{digits}%}"


def _between(share: float, low: float, high: float) -> str:
    """Return a share and its interval, all with the same number of decimals."""
    digits = int(high > _HIGH or low < _LOW or high - low < _NARROW)
    ends = f"{_percent(low, digits)} to {_percent(high, digits)}".replace("%", "")
    return f"{_percent(share, digits)} ({ends})"
