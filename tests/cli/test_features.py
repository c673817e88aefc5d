"""Features without a network, from arrays and from files; nothing is unpickled."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import models
import underscript as us
from underscript.cli.command_line import main
from underscript.data.from_disk import read_data
from underscript.errors import DataError, LabelError

X, TRUE = (array.numpy() for array in models.data("rows", 300))
Y = us.corrupt_labels(TRUE, 0.4, seed=1)
NEW, NEW_TRUE = (array.numpy() for array in models.data("rows", 100, seed=5))


def decode(train=(X, Y), **options) -> us.Decoding:
    return us.decode(None, train, progress=False, **({"variance": 0.5} | options))


def test_features_are_decoded_without_a_network(tmp_path):
    found = decode(test=(NEW, NEW_TRUE), true_labels=TRUE)
    assert set(found.table["layer"]) == {"input"}
    assert "model" not in set(found.table["probe"])
    assert set(found.summary["model"]["accuracy"].values()) == {None}
    assert found.summary["gain_points"] is None
    chosen = found.summary["selected"]["test_accuracy"]
    assert chosen > 0.95
    assert np.mean(found.best.predict(NEW) == NEW_TRUE) == pytest.approx(chosen)
    assert found.verdict.startswith("The decoder gets ")
    assert float(found.verdict.split()[3].rstrip("%")) == pytest.approx(100 * chosen, abs=0.5)
    flagged = found.label_issues()["is_label_issue"].to_numpy()
    assert np.mean(flagged == (Y != TRUE)) > 0.95
    # What reads the input only needs no network after loading either.
    found.save(tmp_path / "run")
    again = us.load(tmp_path / "run")
    np.testing.assert_array_equal(again.best.predict(NEW), found.best.predict(NEW))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Classify new inputs with the decoder" in page
    assert "read-out" not in page.split("What to do next")[1][:600]


def test_it_is_what_a_network_makes_of_the_input_layer():
    through = us.decode(
        models.build("mlp"),
        (X, Y),
        layers="input",
        controls=False,
        variance=0.5,
        progress=False,
        perturb="none",
    )
    alone = decode()
    for found in (through, alone):
        found.table = found.table[found.table["probe"] != "model"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.table, through.table)
    pd.testing.assert_frame_equal(alone.label_issues(), through.label_issues())


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float16, np.float64])
def test_features_of_any_number_type_are_quantities(dtype):
    x = np.round(X * 10 - X.min() * 10).astype(dtype)
    found = decode((x, Y), holdout=(x[:50], TRUE[:50]), auto=False)
    assert set(found.table["layer"]) == {"input"}


def test_classes_are_counted_over_all_labels_that_there_are():
    few = np.where(Y == 3, 0, Y)
    with pytest.warns(us.UnderscriptWarning, match="class 3"):
        found = decode((X, few), test=(NEW, NEW_TRUE))
    assert found.summary["model"]["n_classes"] == 4


def test_features_without_labels_or_with_a_pool_are_one_clear_line():
    with pytest.raises(LabelError, match="train: expected labels"):
        decode(X)
    with pytest.raises(DataError, match="pool: expected None"):
        decode(pool="mean")
    found = decode(X, labels=Y)
    assert len(found.label_issues()) == len(X)


# Files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    np.save("new_x.npy", NEW)
    np.save("new_y.npy", NEW_TRUE)
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])])
    frame.insert(3, "label", Y)
    frame.to_csv("table.csv", index=False, float_format="%.9g")
    return tmp_path


def parquet(frame: pd.DataFrame, name: str) -> str:
    pytest.importorskip("pyarrow", reason="parquet needs the extra underscript[parquet]")
    frame.to_parquet(name)
    return name


def test_arrays_from_disk_on_the_command_line(folder, capsys):
    command = ["audit", "--train", "x.npy,y.npy", "--test", "new_x.npy,new_y.npy", "--json"]
    assert main([*command, "--variance", "0.5", "--out", "run"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["model"]["accuracy"]["test"] is None
    expected = decode(test=(NEW, NEW_TRUE))
    assert found["verdict"] == expected.verdict
    assert "no --weights" not in captured.err
    issues = pd.read_csv("run/label_issues.csv", index_col="index").sort_index()
    assert issues["given_label"].tolist() == Y.tolist()


def test_files_go_with_a_network_too(folder, capsys):
    Path("mine.py").write_text("import models\nbuild = lambda: models.build('mlp')\n")
    command = [
        "decode",
        "--model",
        "mine.py:build",
        "--train",
        "x.npy",
        "--labels",
        "y.npy",
        "--variance",
        "0.5",
    ]
    assert main([*command, "--true-labels", "table.csv:label", "--out", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["layers"] == ["input", "relu1", "relu2"]
    assert found["wrong_label_share"] == 0
    assert main(["layers", "mine.py:build", "--example", "x.npy", "--json"]) == 0


def test_large_arrays_are_mapped_not_read(folder):
    features, labels = read_data("x.npy,y.npy", "--train")
    assert isinstance(features, np.memmap)
    assert not isinstance(labels, np.memmap)


@pytest.mark.parametrize("kind", ["csv", "parquet", "lists in parquet"])
def test_tables_hold_features_and_a_column_of_labels(folder, kind):
    frame = pd.read_csv("table.csv")
    name = "table.csv"
    if kind == "parquet":
        name = parquet(frame.astype({"f0": np.float32}), "table.parquet")
    elif kind == "lists in parquet":
        name = parquet(pd.DataFrame({"label": Y, "embedding": X.tolist()}), "lists.parquet")
    features, labels = read_data(f"{name}:label", "--train")
    np.testing.assert_allclose(features, X, rtol=1e-6)
    np.testing.assert_array_equal(labels, Y)
    np.testing.assert_array_equal(read_data(f"{name}:label", "--labels", column=True), Y)


def test_columns_of_words_are_labels_and_no_features(folder):
    frame = pd.read_csv("table.csv").assign(animal=np.array(["ant", "bee", "cat", "dog"])[Y])
    frame.drop(columns="label").to_csv("words.csv", index=False)
    _, labels = read_data("words.csv:animal", "--train")
    assert labels.dtype.kind == "U"
    frame.to_csv("words.csv", index=False)
    with pytest.raises(DataError, match="features that are numbers; found others in animal"):
        read_data("words.csv:label", "--train")


def test_labels_that_are_words_on_the_command_line(folder, capsys):
    animals = np.array(["ant", "bee", "cat", "dog"])
    frame = pd.DataFrame(X).assign(animal=animals[Y])
    frame.to_csv("words.csv", index=False)
    command = ["decode", "--train", "words.csv:animal", "--variance", "0.5", "--out", "run"]
    assert main(command) == 0
    alone = pd.read_csv("run/label_issues.csv", index_col="index").sort_index()
    capsys.readouterr()
    Path("names.txt").write_text("\n".join(animals))
    assert main([*command, "--classes", "names.txt", "--json"]) == 0
    expected = decode().label_issues()
    found = pd.read_csv("run/label_issues.csv", index_col="index").sort_index()
    assert found["is_label_issue"].tolist() == expected["is_label_issue"].tolist()
    # Without a network the names are the classes, in the order of the alphabet.
    assert found.equals(alone)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


BAD = {
    "missing.npy,y.npy": "missing.npy is not a file",
    "x.npy,y.npy,y.npy": "expected FEATURES.npy,LABELS.npy",
    "x.npy,table.csv": "expected FEATURES.npy,LABELS.npy",
    "objects.npy,y.npy": "holds Python objects or a pickle",
    "pickle.npy,y.npy": "holds Python objects or a pickle",
    "cut.npy,y.npy": "is no .npy file, or is damaged",
    "empty.npy,y.npy": "is no .npy file, or is damaged",
    "records.npy,y.npy": "expected numbers; found dtype",
    "x.npy": "train: expected labels",
    "x.npy,floats.npy": "convert them with .astype(int)",
    "missing.csv:label": "missing.csv is not a file",
    "table.csv:lable": "no column 'lable'; the closest are label",
    "table.csv": "train: expected labels",
    "ragged.csv:a": "is no .csv file, or is damaged",
    "broken.parquet:label": "is no .parquet file, or is damaged",
}


@pytest.mark.parametrize("spec", BAD)
def test_bad_files_are_one_line_exit_2_and_nothing_written(folder, capsys, spec):
    if "parquet" in spec:
        pytest.importorskip("pyarrow", reason="parquet needs the extra underscript[parquet]")
    np.save("objects.npy", np.array([Evil()] * 3, dtype=object), allow_pickle=True)
    Path("pickle.npy").write_bytes(pickle.dumps(Evil()))
    Path("cut.npy").write_bytes(Path("x.npy").read_bytes()[:300])
    Path("empty.npy").write_bytes(b"")
    np.save("records.npy", np.zeros(3, dtype=[("a", float), ("b", int)]))
    np.save("floats.npy", Y.astype(float))
    Path("ragged.csv").write_text("a,b\n1,2\n3,4,5,6\n")
    Path("broken.parquet").write_bytes(b"PAR1 and no more")
    assert main(["decode", "--train", spec, "--out", "run"]) == 2
    captured = capsys.readouterr()
    assert BAD[spec] in captured.err
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    assert not Path("run").exists()
    assert not Path("pwned").exists()


def test_weights_need_a_network(folder, capsys):
    command = ["decode", "--train", "x.npy,y.npy", "--weights", "w.pt", "--out", "run"]
    assert main(command) == 2
    assert "--weights: expected --model" in capsys.readouterr().err
