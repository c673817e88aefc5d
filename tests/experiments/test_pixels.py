"""`benchmarks.pixels`: MASC on input rows, beside the published rows of the input alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import underscript as us
from benchmarks import pixels
from dataset_files import TORCHVISION, write_cifar10
from reference import masc, relu_rows
from underscript.experiments.datasets import catalogue
from underscript.experiments.units import ONE_COMPONENT


def published_table(path):
    """MASC on the input of two pairs, and rows that are of something else."""
    columns = ("probe", "experiment", "corruption", "subspace_labels", "layer", "split", "pca")
    cells = [
        ("MASC", "CIFAR10_MLP", 0.4, "corrupted", "input", "test", 0.99, 0.25),
        ("MASC", "CIFAR10_CNN", 0.4, "corrupted", "input", "test", 0.99, 0.35),
        ("MASC", "CIFAR10_CNN", 0.4, "corrupted", "input", "test", 0.75, 0.99),
        ("MASC", "CIFAR10_CNN", 0.4, "true", "input", "test", 0.99, 0.99),
        ("MASC", "CIFAR10_CNN", 0.4, "corrupted", "fc1", "test", 0.99, 0.99),
        ("MASC", "CIFAR10_ResNet18", 0.4, "corrupted", "l1", "test", 0.99, 0.99),
    ]
    table = pd.DataFrame(cells, columns=[*columns, "accuracy"])
    pd.concat([table.assign(run=run) for run in (1, 2)]).to_csv(path, index=False)
    return path


def test_rows_are_decoded_as_the_paper_says_with_the_labels_of_a_reproduction():
    X, true = relu_rows(400, 12, 4)
    X, test = X[:300].astype(np.float32), (X[300:].astype(np.float32), true[300:])
    found = pixels.measured((X, true[:300]), test, 0.4)
    given = us.corrupt_labels(true[:300], 0.4, 4, seed=42)
    assert [own["variance"] for own in found] == [ONE_COMPONENT, 0.25, 0.5, 0.75, 0.99]
    for own in found:
        expected = masc(X, given, own["variance"])
        assert own["wrong"] == np.mean(given != true[:300])
        assert own["accuracy"] == np.mean(expected.predict(test[0]) == test[1])
        assert own["rank"] == np.mean(expected.ranks)


def test_compressing_once_more_keeps_what_is_smooth_and_loses_what_is_fine():
    fine = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    smooth = np.broadcast_to(np.linspace(40, 200, 32).astype(np.uint8), fine.shape).copy()
    off = [
        np.abs(pixels.compressed(images, 75).astype(int) - images).mean()
        for images in (smooth, fine)
    ]
    assert off[0] < 3
    assert off[1] > 30


@pytest.mark.parametrize("again", [[], ["--again", "50"]])
def test_the_table_is_beside_the_published_input_alone(tmp_path, monkeypatch, capsys, again):
    small = replace(catalogue.CATALOGUE["cifar10"], n_train=50, n_test=10, places=())
    monkeypatch.setitem(catalogue.CATALOGUE, "cifar10", small)
    write_cifar10(tmp_path / TORCHVISION["cifar10"])
    file = published_table(tmp_path / "probes.csv")
    asked = ["--root", str(tmp_path), "--published", str(file), "--degrees", "0,0.4"]
    assert pixels.main([*asked, *again]) == 0
    printed = capsys.readouterr().out
    assert ("compressed once more (quality 50)" in printed) == bool(again)
    head, _, *table = printed.splitlines()[-12:]
    assert "| CIFAR10_MLP | difference | CIFAR10_CNN | difference |" in head
    assert "ResNet18" not in head
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert [row[2] for row in rows[:5]] == [row[2] for row in rows[5:]]
    assert rows[-1][2] == "masc 0.99"
    assert all(row[:2] == ["0", "0.0"] and row[5:9] == [""] * 4 for row in rows[:5])
    ours = float(rows[-1][4])
    assert rows[-1][5:9] == ["25.0 ± 0.0", f"{ours - 25:+.1f}", "35.0 ± 0.0", f"{ours - 35:+.1f}"]
    assert rows[-2][5:8] == ["", "", "99.0 ± 0.0"]


def test_bad_input_is_one_line(tmp_path, capsys):
    for asked, message in (
        (["--published", str(tmp_path / "none.csv")], "none.csv: expected a CSV table"),
        (["--published", str(tmp_path / "none.csv"), "--degrees", "high"], "could not convert"),
    ):
        with pytest.raises(SystemExit) as caught:
            pixels.main(asked)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
