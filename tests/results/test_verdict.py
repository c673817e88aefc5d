"""The verdict of each kind of result, word for word, and its numbers."""

import re
from typing import Any

import pandas as pd
import pytest

from underscript.results.verdict import verdict

NOISE = {
    "rate": 0.41,
    "rate_low": 0.39,
    "rate_high": 0.44,
    "accuracy": 0.64,
    "accuracy_low": 0.61,
    "accuracy_high": 0.68,
    "hopeless": False,
    "nothing_wrong": False,
}


def say(
    *,
    fit: float | None = 0.987,
    own: float | None = 0.47,
    decoded: float | None = 0.64,
    controls: tuple[float | None, float | None] = (0.41, 0.44),
    layer: str = "fc2",
    n: int = 10_000,
    **changes: Any,
) -> str:
    """Return the verdict of a usual run, with these changes to its summary."""
    summary: dict[str, Any] = {
        "model": {"accuracy": {"train_given": fit, "test": own}},
        "selected": {
            "layer": layer,
            "layers": [layer],
            "probe": "auto",
            "criterion": "holdout",
            "criterion_accuracy": 0.4,
            "n": 1_000,
            "test_accuracy": decoded,
        },
        "noise": NOISE,
        "wrong_label_share": None,
        "label_issues": {"flagged": 7_900},
        "layers": [{"layer": "input"}, {"layer": "fc2"}],
        "contradictions": [],
    }
    for key, value in changes.items():
        old = summary.get(key)
        summary[key] = old | value if isinstance(old, dict) and value is not None else value
    rows = [
        ("trained", "input", controls[0], False),
        ("random", "fc2", controls[1], False),
        ("trained", layer, decoded, True),
    ]
    table = pd.DataFrame(
        [
            {
                "model": model,
                "layer": name,
                "probe": summary["selected"]["probe"],
                "subspace_labels": "corrupted",
                "split": "test",
                "labels": "given",
                "n": n,
                "accuracy": accuracy,
                "selected": selected,
            }
            for model, name, accuracy, selected in rows
            if accuracy is not None
        ],
        columns=[
            "model",
            "layer",
            "probe",
            "subspace_labels",
            "split",
            "labels",
            "n",
            "accuracy",
            "selected",
        ],
    )
    return verdict(summary, table)


def test_the_usual_case_is_four_short_sentences():
    text = say()
    assert text == (
        "Your network fits 98.7% of its labels but gets only 47% of the test inputs right. "
        "Decoded, it gets 64% (63 to 65). "
        "About 41% (39 to 44) of your labels look wrong; 7,900 are flagged in label_issues.csv. "
        "The raw input alone gets 41%, an untrained network at best 44%."
    )
    assert len(text.split()) <= 60


def test_known_labels_stand_beside_the_estimate():
    assert "look wrong (in truth 40%); 7,900 are" in say(wrong_label_share=0.4)
    known = say(wrong_label_share=0.4, noise=None, label_issues=None)
    assert "40% of your labels are wrong." in known


def test_without_test_data_the_estimate_is_called_one():
    held = say(own=None, decoded=None)
    assert (
        "Your network fits 98.7% of its labels. Decoded, it is right for an estimated 64% " in held
    )
    assert "(61 to 68) of new inputs like those of the hold-out." in held
    alone = say(own=None, decoded=None, selected={"criterion": "training data"})
    assert "(61 to 68) of the training inputs, each decoded without its own label." in alone
    for text in (held, alone):
        assert "raw input" not in text
        assert "test" not in text


def test_features_without_a_network_are_not_called_a_network():
    features = {"fit": None, "own": None, "layer": "input", "layers": [{"layer": "input"}]}
    assert say(**features).startswith("The decoder gets 64% (63 to 65) of the test inputs right. ")
    estimated = say(**features, decoded=None)
    assert estimated.startswith("The decoder is right for an estimated 64% (61 to 68) of new ")
    named = say(
        **features,
        decoded=None,
        noise=None,
        label_issues=None,
        selected={"probe": "masc"},
    )
    assert named == "MASC agrees with 40% of 1,000 noisy labels that were left out of the fit."
    assert "network" not in say(**features) + estimated + named


def test_labels_at_chance_are_not_decoded():
    hopeless = {"hopeless": True}
    for text in (say(noise=hopeless), say(noise=hopeless, own=None, decoded=None)):
        assert "no better than chance: do not use this decoder." in text
        assert "look wrong" not in text
        assert "estimated" not in text
        assert "raw input" not in text


def test_where_nothing_is_wrong_nothing_is_to_repair():
    right = {"nothing_wrong": True, "rate": 0.004}
    text = say(noise=right, label_issues={"flagged": 0})
    assert "Hardly any of your labels look wrong: there is nothing to repair." in text
    assert "; 1 is flagged in label_issues.csv." in say(noise=right, label_issues={"flagged": 1})


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (0.7, "and gets 70% of the test inputs right. Decoded, it gets less, 64% (63 to 65): keep"),
        (0.64, "Decoded, it gets 64% (63 to 65): no clear difference."),
    ],
)
def test_a_decoder_that_gains_nothing_is_said_to(own, says):
    assert says in say(own=own, fit=0.71)


@pytest.mark.parametrize(
    ("controls", "says"),
    [
        ((0.64, 0.5), "The raw input alone does as well (64%): you do not need this network."),
        ((0.7, 0.64), "The raw input alone does better (70%): you do not need this network."),
        ((0.5, 0.64), "An untrained network does as well (64%): what was decoded does not come"),
        ((0.5, None), "The raw input alone gets 50%."),
        ((None, 0.5), "An untrained network gets at best 50%."),
    ],
)
def test_controls_are_one_sentence(controls, says):
    assert says in say(controls=controls)
    # Where the network is ahead of its decoder, no control replaces it.
    assert "do not need" not in say(controls=controls, own=0.9)


def test_a_decoder_of_the_input_alone_is_said_to_be_one():
    text = say(layer="input")
    assert "The decoder reads only the raw input: no layer of your network adds to it." in text


def test_a_named_probe_is_named_with_its_layer():
    text = say(selected={"probe": "masc"}, noise=None, label_issues=None)
    assert "Decoded with MASC on fc2, it gets 64% (63 to 65)." in text
    assert "labels look" not in text


def test_each_contradiction_is_a_sentence_at_the_end():
    assert say(contradictions=["one", "two"]).endswith("Caution: one. Caution: two.")


@pytest.mark.parametrize("decoded", [0.03, 0.5, 0.943, 0.9871, 1.0])
@pytest.mark.parametrize("n", [40, 2_000, 10_000])
def test_an_interval_is_written_with_as_many_decimals_as_it_needs(decoded, n):
    text = say(decoded=decoded, own=0.02, controls=(None, None), n=n)
    value, low, high = map(float, re.search(r"it gets (\S+)% \((\S+) to (\S+)\)", text).groups())
    assert abs(value - 100 * decoded) <= 0.5
    assert low <= value <= high
    assert low < high or decoded == 1
