"""Every example runs, and the page of recipes shows nothing but what the examples hold."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import underscript as us
from underscript.cli.command_line import main

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGE = (ROOT / "docs" / "recipes.md").read_text()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example as a user does, in an empty folder; give what it defines."""
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


def assert_much_better(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Assert that decoding gains much on a network that has memorised 20 to 36 % wrong labels."""
    summary = found["decoding"].summary
    assert summary["model"]["accuracy"]["train_given"] > 0.75
    assert summary["gain_points"] > 8
    assert summary["selected"]["test_accuracy"] > 0.85
    assert summary["verdict"] in capsys.readouterr().out


def default_layers(found: dict[str, Any], **options: Any) -> list[str]:
    table = us.list_layers(found["model"], found["train"], **options)
    return table["layer"][table["default"]].tolist()


@pytest.mark.parametrize("name", ["one_logit", pytest.param("sklearn_mlp", marks=pytest.mark.slow)])
def test_the_decoded_classifier_is_much_better_than_the_memorised_one(name, run, capsys):
    assert_much_better(run(name), capsys)


@pytest.mark.slow
def test_a_residual_network_is_read_at_its_activations_and_stages(run, capsys):
    found = run("residual_network")
    assert_much_better(found, capsys)
    fine = ["relu", "layer1.0.relu#0", "layer1.0", "layer1.1.relu#0", "layer1"]
    small = [
        "layer2.0.relu#0",
        "layer2.0",
        "layer2.1.relu#0",
        "layer2",
        "layer3.0.relu#0",
        "layer3.0",
        "layer3.1.relu#0",
        "layer3",
    ]
    # Maps of 8 × 8 are read as grids, those of 4 × 4 and 2 × 2 as they are.
    expected = ["input", *(f"{name}@4x4" for name in fine), *small, "fc:input"]
    assert default_layers(found) == expected
    assert found["decoding"].summary["settings"]["layers"] == expected
    assert default_layers(found, pool="flatten") == ["input", *fine, *small, "fc:input"]
    # What goes into the head is the mean of layer3, which is not read twice.
    means = [f"{name}@mean" for name in (*fine, *small[:-1])]
    assert default_layers(found, pool="mean") == ["input", *means, "fc:input"]


@pytest.mark.slow
def test_a_vision_transformer_is_read_at_its_blocks_twice(run, capsys):
    found = run("vision_transformer")
    assert_much_better(found, capsys)
    layers = [f"{n}@{p}" for n in ("blocks.0", "blocks") for p in ("first", "mean")]
    assert found["decoding"].summary["settings"]["layers"] == ["input", *layers, "head:input"]
    # The class token is what a plain slice takes.
    model, (x, _) = found["model"], found["train"]
    rows = {}
    with torch.no_grad():
        tokens = model.patches(x[:9]).flatten(2).transpose(1, 2)
        tokens = torch.cat([model.class_token.expand(9, -1, -1), tokens], 1) + model.position
        for number, block in enumerate(model.blocks):
            tokens = block(tokens)
            rows[f"blocks.{number}@first"] = tokens[:, 0]
            rows[f"blocks.{number}@mean"] = tokens.sum(1) / 17
    from captured import captured

    for layer, seen in captured(model, x[:9], list(rows)).items():
        torch.testing.assert_close(seen, rows[layer], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_text_classifier_is_read_at_its_blocks_without_padding(run, capsys, tmp_path):
    pytest.importorskip("transformers", reason="the text classifier needs transformers")
    found = run("text_classifier")
    assert_much_better(found, capsys)
    layers = [
        f"bert.{name}@{pool}"
        for name in ("embeddings", "encoder.layer.0", "encoder.layer.1")
        for pool in ("first", "mean")
    ]
    decoding = found["decoding"]
    assert decoding.summary["settings"]["layers"] == ["input", *layers, "bert.pooler"]
    # One text a batch has no padding at all.
    from torch.utils.data import DataLoader

    alone = DataLoader(found["test"][:40], batch_size=1, collate_fn=found["padded"])
    together = DataLoader(found["test"][:40], batch_size=40, collate_fn=found["padded"])
    alone, together = (decoding.best.decision_function(data) for data in (alone, together))
    assert abs(alone - together).max() < 1e-3 * abs(together).max()
    decoding.save(tmp_path / "run")
    again = us.load(tmp_path / "run", model=found["model"])
    data = DataLoader(found["test"], batch_size=7, collate_fn=found["padded"])
    assert (again.best.predict(data) == decoding.best.predict(data)).all()


@pytest.mark.slow
def test_features_from_disk_in_python_and_on_the_command_line(run, capsys):
    found = run("features_from_disk")
    assert found["decoding"].summary["selected"]["test_accuracy"] > 0.9
    assert "gets" in capsys.readouterr().out
    assert main(_command("--train features.npy,labels.npy")) == 0
    issues = pd.read_csv("my-audit/label_issues.csv", index_col="index").sort_index()
    ours = found["decoding"].label_issues()
    assert (issues["is_label_issue"] == ours["is_label_issue"]).mean() > 0.98


@pytest.mark.slow
def test_a_lightning_checkpoint_on_the_command_line(run, tmp_path, caplog):
    found = run("lightning_checkpoint")
    (tmp_path / "lightning_checkpoint.py").write_text(
        (ROOT / "examples" / "lightning_checkpoint.py").read_text()
    )
    assert main(_command("lightning_checkpoint.py:build")) == 0
    assert "the part model of last.ckpt was taken" in caplog.text
    own = us.load("my-audit").summary["model"]["accuracy"]["train_given"]
    x, y = found["train"]()
    with torch.no_grad():
        right = (found["module"].model(x).argmax(1) == y).double().mean()
    assert own == pytest.approx(float(right))


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.S | re.M)


def _command(part: str) -> list[str]:
    """Return the page's one command that has this part, as arguments."""
    lines = [line for block in _blocks("sh") for line in block.replace("\\\n", "").splitlines()]
    (found,) = [line for line in lines if part in line and line.startswith("underscript")]
    return shlex.split(found)[1:]


def test_the_page_shows_what_the_examples_hold():
    sources = {path.name: path.read_text() for path in EXAMPLES}
    for block in _blocks("python"):
        assert [name for name, source in sources.items() if block in source], block
    for name in sources:
        assert f"(../examples/{name})" in PAGE, name
