"""A run in few numbers and sentences, the same for page and terminal."""

from dataclasses import dataclass

from ..results.run import Run
from ..results.verdict import of_what
from ..utils.classes import Pair, class_names, pairs
from ..utils.intervals import of_share
from .plots.style import printable
from .words import between, decoder_name, percent, points, words

__all__ = [
    "KeyNumber",
    "Step",
    "confusions",
    "key_numbers",
    "next_steps",
    "no_need",
    "noise_words",
    "reading",
]

# Fewer hold-out labels say little; so many give the accuracy to some two points.
FEW_LABELS = 1_000
MOST_PAIRS = 6
# A control that is behind by more than this is not as good, however few test data there are.
AS_GOOD = 0.02
_FEATURES_ONLY = "Use features only: you do not need this network."
_ON_FEATURES = "underscript decode --train X.npy,Y.npy --out DIR"
_LESS = "less: what was decoded here is in the trained network."


@dataclass(frozen=True)
class KeyNumber:
    """One number that a reader should see first: its name, the number as text, and a remark."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Step:
    """Something to do next, and the code for it, if any."""

    text: str
    code: str | None = None


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
    rows = table[
        (table["split"] == "test")
        & (table["labels"] == "given")
        & (table["subspace_labels"] == "corrupted")
        & (table["probe"] == chosen["probe"])
    ]
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


def no_need(d: Run) -> Step | None:
    """Return in plain words that the network, or its training, is of no use here, if so.

    It is not needed where the same kind of decoder gets as much from the raw input, or from a
    network that was never trained, as the better of the decoded and of the network's own answers
    has: not clearly less (95 %), and less by at most `AS_GOOD`.

    Returns
    -------
    Step or None
        What was found and what follows, and the command to go on with. None where the network is
        of use, where there is none, and where test data, which would show it, are missing.
    """
    summary, table = d.summary, d.table
    chosen, own = summary["selected"], summary["model"]["accuracy"]
    noise = summary["noise"]
    if own["train_given"] is None or (noise is not None and noise["hopeless"]):
        return None
    only_input = chosen["layers"] == ["input"]
    if chosen["test_accuracy"] is None or own["test"] is None:
        found = "The decoder that was chosen reads the raw input alone, and no layer."
        return Step(f"{found} {_FEATURES_ONLY}", _ON_FEATURES) if only_input else None
    tested = table[(table["split"] == "test") & (table["labels"] == "given")]
    decoded = tested[
        (tested["subspace_labels"] == "corrupted") & (tested["probe"] == chosen["probe"])
    ]
    n = int(decoded["n"].iloc[0])
    best, whose = max((chosen["test_accuracy"], "decoded"), (own["test"], "by the network itself"))
    if only_input:
        best, whose = own["test"], "by the network itself"
    trained = decoded["model"] == "trained"
    alone = float(decoded.loc[trained & (decoded["layer"] == "input"), "accuracy"].max())
    never = float(decoded.loc[~trained, "accuracy"].max())
    if beside := _no_less(alone, best, whose, n):
        return Step(f"The raw input alone does {beside} {_FEATURES_ONLY}", _ON_FEATURES)
    if beside := _no_less(never, best, whose, n):
        return Step(
            f"The same network, never trained, does {beside} You do not need what this one "
            "learned: decode features of another network, if you have one.",
            _ON_FEATURES,
        )
    return None


def _no_less(control: float, best: float, whose: str, n: int) -> str:
    """Return how a control compares, as the end of a sentence; nothing if it is behind."""
    low, high = of_share(best, n)
    numbers = f"{percent(control)}% of the test labels, against {percent(best)}% {whose}"
    if control > high:
        return f"better: {numbers}."
    if control >= max(low, best - AS_GOOD):
        return f"as well: {numbers}, no clear difference on {n:,} examples."
    return ""


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


def next_steps(d: Run) -> list[Step]:
    """Return what the owner of this network and these labels should do next."""
    summary, noise = d.summary, d.summary["noise"]
    selected, gain = summary["selected"], summary["gain_points"]
    issues = d.label_issues()
    flagged = int(issues["is_label_issue"].sum())
    steps: list[Step] = []
    if noise is not None and noise["hopeless"]:
        return [
            Step(
                "Do not use this decoder. Check that the labels belong to these inputs and are in "
                "the same order: they agree with the data no more than by chance."
            )
        ]
    network = summary["model"]["accuracy"]["train_given"] is not None
    alone = selected["layers"] == ["input"]
    code = f'underscript.load("RUN"{"" if alone else ", model=network"}).best.predict(inputs)'
    if noise is not None and noise["nothing_wrong"]:
        keep = "Keep the network: so few" if network else "So few"
        steps.append(Step(f"{keep} labels are wrong that nothing is to repair."))
    elif gain is not None and gain < 0:
        steps.append(Step("Keep the network: on the test data the decoder is behind it."))
    elif not network:
        steps.append(Step("Classify features with the decoder:", code))
    else:
        steps.append(
            Step("Classify with the decoder in place of the network’s own read-out:", code)
        )
        if alone:
            steps.append(
                Step("It reads the input and not the network: you can do without the network.")
            )
    if flagged:
        what = (
            "the label that is flagged as wrong"
            if flagged == 1
            else (f"the {flagged:,} labels that are flagged as wrong, the most suspicious first")
        )
        steps.append(Step(f"Look at {what} (label_issues.csv)."))
    if selected["criterion"] != "holdout":
        steps.append(
            Step(
                "To be surer, keep some thousand samples with their noisy labels from training and "
                "pass them as the hold-out."
            )
        )
    elif selected["n"] < FEW_LABELS and noise is not None and not noise["nothing_wrong"]:
        steps.append(
            Step(
                f"The estimates rest on {selected['n']:,} held-out labels; some thousand would "
                "narrow them."
            )
        )
    return steps
