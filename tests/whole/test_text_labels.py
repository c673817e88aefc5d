"""Labels that are text: classes by themselves without a network; with one, names in its order."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from torch.utils.data import DataLoader

import underscript as us
from small_decodes import GIVEN, HOLD_GIVEN, HOLD_X, MODEL, TEST_X, TEST_Y, X, Y, run
from underscript.cli.command_line import main
from underscript.errors import DataError, LabelError

# In the order of the read-out, which is not that of the alphabet.
NAMES = ("dog", "ant", "cat", "bee")
WORDS = np.array(NAMES)
SORTED = sorted(NAMES)


def alone(train, **options) -> us.Decoding:
    return us.decode(
        None, train, **{"progress": False, "controls": False, "variance": 0.5} | options
    )


@pytest.mark.parametrize("form", ["list", "samples", "dicts", "mapping"])
def test_without_a_network_the_different_texts_are_the_classes(form):
    words = WORDS[GIVEN].tolist()
    train = {
        "list": lambda: (X, words),
        "samples": lambda: DataLoader(list(zip(X, words, strict=True)), 50, shuffle=True),
        "dicts": lambda: [{"x": x, "label": word} for x, word in zip(X, words, strict=True)],
        "mapping": lambda: ({"x": X}, words),
    }[form]()
    found = alone(train, test=(TEST_X, WORDS[TEST_Y]), true_labels=WORDS[Y])
    assert found.summary["model"]["class_names"] == SORTED
    issues = found.label_issues()
    assert issues["given_name"].tolist() == words
    assert [SORTED[k] for k in issues["given_label"]] == words
    predicted = np.array(SORTED)[found.best.predict(TEST_X)]
    assert np.mean(predicted == WORDS[TEST_Y]) > 0.9
    # The same as of the numbers, in the order of the alphabet.
    order = np.argsort(np.argsort(NAMES))
    numbers = alone((X, order[GIVEN]), test=(TEST_X, order[TEST_Y]), true_labels=order[Y])
    pd.testing.assert_frame_equal(found.table, numbers.table)


def test_a_class_that_only_the_true_labels_have_is_one_too():
    few = WORDS[np.where(GIVEN == 3, 0, GIVEN)]
    with pytest.warns(us.UnderscriptWarning, match="bee|class 1"):
        found = alone((X, few), true_labels=WORDS[Y])
    assert found.summary["model"]["class_names"] == SORTED


def test_one_text_and_too_few_names_are_one_clear_line():
    with pytest.raises(LabelError, match="at least two classes; found only 'ant'"):
        alone((X, ["ant"] * len(X)))
    with pytest.raises(DataError, match=r"4 names, one for each class of the labels.*found 2"):
        alone((X, GIVEN), class_names=["ant", "bee"])


def test_with_a_network_the_advice_can_be_followed():
    with pytest.raises(LabelError) as caught:
        run(train=(X, WORDS[GIVEN]), true_labels=None)
    assert "found text such as" in str(caught.value)
    assert "class_names=[…]" in str(caught.value)
    assert "the order of the model's read-out" in str(caught.value)
    words = {"train": (X, WORDS[GIVEN]), "test": (TEST_X, WORDS[TEST_Y]), "true_labels": WORDS[Y]}
    found = run(**words, class_names=NAMES, controls=False)
    pd.testing.assert_frame_equal(found.table, run(controls=False).table)


SETTINGS = {"epochs": 2, "learning_rate": 0.01, "progress": False}


def test_retraining_reads_them_with_the_names_of_the_decoding_or_its_own():
    decoding = run(controls=False, class_names=NAMES)
    named = us.retrain(
        MODEL,
        (X, WORDS[GIVEN]),
        decoding,
        holdout=(HOLD_X, WORDS[HOLD_GIVEN]),
        test=(TEST_X, WORDS[TEST_Y]),
        **SETTINGS,
    )
    numbers = us.retrain(
        MODEL,
        (X, GIVEN),
        run(controls=False),
        holdout=(HOLD_X, HOLD_GIVEN),
        test=(TEST_X, TEST_Y),
        **SETTINGS,
    )
    pd.testing.assert_frame_equal(named.history, numbers.history)
    by_hand = us.retrain(
        MODEL,
        (X, WORDS[GIVEN]),
        WORDS[Y],
        test=(TEST_X, WORDS[TEST_Y]),
        class_names=NAMES,
        **SETTINGS,
    )
    same = us.retrain(MODEL, (X, GIVEN), Y, test=(TEST_X, TEST_Y), **SETTINGS)
    pd.testing.assert_frame_equal(by_hand.history, same.history)
    with pytest.raises(LabelError, match=r"test.*give class_names=\[…\]"):
        us.retrain(MODEL, (X, WORDS[GIVEN]), Y, test=(TEST_X, WORDS[TEST_Y]), **SETTINGS)


def test_probabilities_need_no_names(tmp_path):
    decoding = run(controls=False)
    probabilities = decoding.pred_probs((X, WORDS[GIVEN]))
    np.testing.assert_array_equal(probabilities, decoding.pred_probs((X, GIVEN)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, x, y in (("train", X, GIVEN), ("test", TEST_X, TEST_Y)):
        table = pd.DataFrame(x.numpy(), columns=[f"f{i}" for i in range(x.shape[1])])
        table.assign(animal=WORDS[y]).to_csv(f"{name}.csv", index=False, float_format="%.9g")
    Path("mine.py").write_text("import models\ndef build():\n    return models.build('mlp')\n")
    safetensors.torch.save_file(MODEL.state_dict(), "w.safetensors")
    Path("names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


TABLES = ["--train", "train.csv:animal", "--test", "test.csv:animal", "--variance", "0.5"]
NETWORK = ["--model", "mine.py:build", "--weights", "w.safetensors"]


def test_a_table_of_words_on_the_command_line(folder, capsys):
    assert main(["audit", *TABLES, "--out", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["class_names"] == SORTED
    assert found["selected"]["test_accuracy"] > 0.9
    issues = pd.read_csv("run/label_issues.csv", index_col="index").sort_index()
    assert issues["given_name"].tolist() == WORDS[GIVEN].tolist()


def test_the_commands_line_with_a_network_says_what_to_do_and_it_works(folder, capsys):
    decode = ["decode", *NETWORK, *TABLES, "--no-controls", "--out", "run"]
    assert main(decode) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "on the command line --classes FILE, one name a line" in said
    assert main([*decode, "--classes", "names.txt"]) == 0
    again = ["retrain", "run", *NETWORK, *TABLES[:4], "--epochs", "1"]
    assert main([*again, "--out", "new.safetensors", "--json"]) == 0
    named = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert named["after"]["test_accuracy"] >= 0
    assert main([*again, "--classes", "names.txt", "--out", "other.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["history"] == named["history"]
    # A run of numbers knows no names.
    path = Path("run/results.json")
    results = json.loads(path.read_text())
    results["model"]["class_names"] = None
    path.write_text(json.dumps(results))
    assert main([*again, "--out", "third.safetensors"]) == 2
    assert "--classes FILE" in capsys.readouterr().err
