"""A run in few numbers and sentences, the same for page and terminal."""

from dataclasses import dataclass

from ..results.run import Run
from ..results.verdict import of_what, same_decoder
from ..utils.classes import Pair, class_names, pairs
from ..utils.intervals import of_share
from .plots.style import printable
from .words import between, decoder_name, percent, points, words

__all__ = [
    "KeyNumber",
    "confusions",
    "five_numbers",
    "key_numbers",
    "noise_words",
    "reading",
]

MOST_PAIRS = 6
_LESS = "less: what was decoded here is in the trained network."


@dataclass(frozen=True)
class KeyNumber:
    """One number that a reader should see first: its name, the number as text, and a remark."""

    name: str
    value: str
    note: str


def key_numbers(d: Run) -> list[KeyNumber]:
    """Return the few numbers that sum up a run, as far as they are known.

    Returns
    -------
    list of KeyNumber
        The model's own accuracy, the decoded one, the gain, the share of labels that are wrong
        and of those that are flagged.
    """
    summary = d.summary
    model, selected, noise = summary["model"]["accuracy"], summary["selected"], summary["noise"]
    numbers = []
    if model["test"] is not None:
        note = f"it fits {percent(model['train_given'])}% of the labels it was given"
        numbers.append(KeyNumber("Model itself, test", f"{percent(model['test'])}%", note))
    elif model["train_given"] is not None:
        number = f"{percent(model['train_given'])}%"
        numbers.append(KeyNumber("Model itself, training", number, "of the labels it was given"))
    if selected["test_accuracy"] is not None:
        tested = d.table[d.table["selected"] & (d.table["split"] == "test")]
        n = int(tested["n"].iloc[0])
        note = f"{between(*of_share(selected['test_accuracy'], n))} (95%), {n:,} examples"
        number = f"{percent(selected['test_accuracy'])}%"
        numbers.append(KeyNumber("Decoded, test", number, note))
    elif noise is not None and not noise["hopeless"]:
        note = f"{between(noise['accuracy_low'], noise['accuracy_high'])} (95%), of "
        note += of_what(selected)
        numbers.append(KeyNumber("Decoded, estimated", f"{percent(noise['accuracy'])}%", note))
    else:
        number = f"{percent(selected['criterion_accuracy'])}%"
        note = f"of {selected['n']:,} noisy labels"
        if selected["criterion_standard_error"] is not None:
            note += f"; standard error {percent(selected['criterion_standard_error'])} points"
        numbers.append(KeyNumber(f"Decoded, {words(selected['criterion'])}", number, note))
    if summary["gain_points"] is not None:
        number = points(summary["gain_points"])
        numbers.append(KeyNumber("Gain", number, "points of test accuracy"))
    known = summary["wrong_label_share"]
    if noise is not None:
        note = f"{between(noise['rate_low'], noise['rate_high'])} (95%)"
        if known is not None:
            note += f"; in truth {percent(known)}%"
        number = f"{percent(noise['rate'])}%"
        numbers.append(KeyNumber("Labels wrong, estimated", number, note))
    elif known is not None:
        note = "by comparison with the true labels"
        numbers.append(KeyNumber("Labels wrong", f"{percent(known)}%", note))
    issues = d.label_issues()
    if len(issues):
        flagged = int(issues["is_label_issue"].sum())
        note = f"of {len(issues):,} training labels"
        numbers.append(KeyNumber("Labels flagged", f"{flagged:,}", note))
    return numbers


def five_numbers(d: Run) -> list[KeyNumber]:
    """Return at most five numbers with short names: what a terminal shows first.

    Returns
    -------
    list of KeyNumber
        The network's own accuracy and the decoded one; with test data the same kind of decoder on
        the raw input and on an untrained network; the share of labels that look wrong.
    """
    summary, table = d.summary, d.table
    own, chosen, noise = summary["model"]["accuracy"], summary["selected"], summary["noise"]
    numbers = []

    def add(name: str, share: float, note: str = "") -> None:
        numbers.append(KeyNumber(name, f"{percent(share)}%", note))

    if own["test"] is not None:
        add("network", own["test"])
    elif own["train_given"] is not None:
        add("network fits", own["train_given"])
    if chosen["test_accuracy"] is not None:
        add("decoded", chosen["test_accuracy"])
        rows = same_decoder(summary, table)
        raw = rows[(rows["layer"] == "input") & (rows["model"] == "trained")]["accuracy"]
        twin = rows[rows["model"] == "random"]["accuracy"]
        if len(raw) and own["train_given"] is not None:
            add("raw input", raw.max())
        if len(twin):
            add("untrained", twin.max())
    elif noise is not None and not noise["hopeless"]:
        add("decoded (est.)", noise["accuracy"])
    else:
        add("decoded, noisy", chosen["criterion_accuracy"])
    if noise is not None:
        add("labels wrong", noise["rate"], "estimated")
    return numbers


def chosen_words(d: Run) -> str:
    """Return what was chosen: decoder and layers."""
    selected = d.summary["selected"]
    read = " + ".join(map(printable, selected["layers"]))
    return f"{decoder_name(selected['probe'], selected['variance'])} on {read}"


def oracle_words(d: Run) -> str | None:
    """Return how far the choice is from the best one by clean test labels."""
    oracle = d.summary["oracle"]
    if oracle is None:
        return None
    # It may be one candidate or an ensemble.
    what = decoder_name(oracle["probe"], oracle["variance"])
    what = "a decoder of" if oracle["probe"] == "auto" else f"{what} on"
    name = f"{what} {printable(oracle['layer'])}"
    regret = oracle["regret_points"]
    if regret < 0.05:
        tried = d.candidates is None or bool(d.candidates["test_accuracy"].notna().any())
        what = "candidate" if tried else "decoder of the table"
        return f"No other {what} does better on the test data (oracle: {name})."
    return (
        f"With clean test labels one would have picked {name}: {percent(oracle['test_accuracy'])}"
        f"%, {regret:.1f} points better (an oracle, not something to choose by)."
    )


def reading(d: Run) -> list[str]:
    """Return sentences that compare the controls with the decoded accuracy."""
    summary, table = d.summary, d.table
    chosen = summary["selected"]
    if chosen["test_accuracy"] is None:
        return []
    rows = same_decoder(summary, table)
    own = rows["model"] == "trained"
    low, high = of_share(chosen["test_accuracy"], int(rows["n"].iloc[0]))
    clauses: dict[str, list[str]] = {}
    for name, some in (
        ("the input alone, without any network,", rows[own & (rows["layer"] == "input")]),
        ("a network that was never trained", rows[rows["model"] == "random"]),
    ):
        if not len(some) or chosen["layer"] == "input":
            continue
        best = float(some["accuracy"].max())
        what = "no less: what was decoded here does not need this network’s training."
        if best > high:
            what = "more: this network is not the place to look."
        elif best < low:
            what = _LESS
        clauses.setdefault(what, []).append(f"{name} gives {percent(best)}%")
    # If one control is not worse, another one that is worse does not speak for the network.
    if len(clauses) > 1 and _LESS in clauses:
        clauses["less."] = clauses.pop(_LESS)
    lines = [f"{' and '.join(names)}, {what}" for what, names in clauses.items()]
    return [line[0].upper() + line[1:] for line in lines]


def noise_words(d: Run) -> str:
    """Return how noisy the labels are, and how sure that is."""
    noise, known = d.summary["noise"], d.summary["wrong_label_share"]
    if noise is None:
        text = "The noise was not estimated (auto=False)."
    elif noise["hopeless"]:
        return "The labels say no more than chance: nothing can be estimated from them."
    else:
        text = (
            f"{percent(noise['rate'])}% of the labels are estimated to be wrong "
            f"({between(noise['rate_low'], noise['rate_high'])} with 95% confidence, from "
            f"{noise['n']:,} noisy labels)"
        )
        text += ": there is nothing to repair." if noise["nothing_wrong"] else "."
    if known is not None:
        text += f" In truth it is {percent(known)}%."
    return text


def confusions(d: Run) -> tuple[str, list[tuple[str, str, str]]]:
    """Return a sentence on which confusions stand out, and the likeliest: true, given, share."""
    likeliest = pairs(d.summary, MOST_PAIRS)
    if not likeliest or d.summary["noise"]["hopeless"] or d.summary["noise"]["nothing_wrong"]:
        return "", []
    names = class_names(d.summary)

    def as_text(pair: Pair) -> tuple[str, str, str]:
        share = f"{percent(pair.share)} ± {percent(pair.error)}%"
        return printable(names[pair.true]), printable(names[pair.given]), share

    clear = [pair for pair in likeliest if pair.clear]
    if not clear:
        return "No confusion stands out: wrong labels are spread over the classes.", [
            as_text(pair) for pair in likeliest[:3]
        ]
    few = "One confusion stands" if len(clear) == 1 else "Some confusions stand"
    return f"{few} out from the rest by more than three standard errors.", [
        as_text(pair) for pair in clear
    ]
