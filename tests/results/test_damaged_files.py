"""A run folder that is damaged, or none, is one clear line: nothing in it is trusted."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

import models
import underscript as us
from run_folders import GIVEN, X, Y
from underscript.errors import OutputError
from underscript.results.run_folder import _read_decoder, _write_decoder


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))


def truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def cut_in_a_row(path: Path) -> None:
    """Keep half of a CSV file, up to the second comma of a row."""
    lines = path.read_text().splitlines(keepends=True)
    half = lines[: len(lines) // 2]
    path.write_text("".join(half) + ",".join(lines[len(half)].split(",")[:2]))


WEIGHTS, CONFIG = "decoder/model.safetensors", "decoder/config.json"
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "weights cut short": lambda run: truncate(run / WEIGHTS, 0.9),
    "weights cut in the header": lambda run: truncate(run / WEIGHTS, 0.01),
    "weights empty": lambda run: truncate(run / WEIGHTS, 0),
    "weights missing": lambda run: (run / WEIGHTS).unlink(),
    "weights a pickle": lambda run: (run / WEIGHTS).write_bytes(pickle.dumps({"a": 1})),
    "weights without a tensor": lambda run: edit_tensors(
        run / WEIGHTS,
        lambda tensors: tensors.pop("counts" if "counts" in tensors else "0.intercepts"),
    ),
    "weights that do not fit each other": lambda run: edit_tensors(
        run / WEIGHTS,
        lambda tensors: tensors.update(
            {key: value[..., :-1].contiguous() for key, value in tensors.items() if value.ndim > 1}
        ),
    ),
    "weights of fewer classes": lambda run: edit_tensors(
        run / WEIGHTS,
        lambda tensors: tensors.update(
            {key: value[:-1].contiguous() for key, value in tensors.items() if value.ndim}
        ),
    ),
    "weights of another width": lambda run: edit_json(
        run / CONFIG, lambda config: config.update(width=config["width"] + 1)
    ),
    "config missing": lambda run: (run / CONFIG).unlink(),
    "config not JSON": lambda run: (run / CONFIG).write_text("{"),
    "config a list": lambda run: (run / CONFIG).write_text("[]"),
    "config without a tap": lambda run: edit_json(run / CONFIG, lambda c: c.pop("taps")),
    "config with another tap": lambda run: edit_json(
        run / CONFIG, lambda c: c["taps"][0].update(surprise=1)
    ),
    "config with an unknown probe": lambda run: edit_json(
        run / CONFIG, lambda c: c.update(probe="os.system")
    ),
    "config with unknown parameters": lambda run: edit_json(
        run / CONFIG, lambda c: c.update(parameters={"surprise": 1})
    ),
    "decoder missing": lambda run: shutil.rmtree(run / "decoder"),
    "results missing": lambda run: (run / "results.json").unlink(),
    "results not JSON": lambda run: truncate(run / "results.json", 0.5),
    "results not text": lambda run: (run / "results.json").write_bytes(b"\xff\xfe\x00{"),
    "results a list": lambda run: (run / "results.json").write_text("[1]"),
    "results without verdict": lambda run: edit_json(
        run / "results.json", lambda summary: summary.pop("verdict")
    ),
    "results without format": lambda run: edit_json(
        run / "results.json", lambda summary: summary["underscript"].pop("format")
    ),
    "another format": lambda run: edit_json(
        run / "results.json", lambda summary: summary["underscript"].update(format=999)
    ),
    "results of another program": lambda run: (run / "results.json").write_text('{"a": 1}'),
    "layers missing": lambda run: (run / "layers.csv").unlink(),
    "layers empty": lambda run: truncate(run / "layers.csv", 0),
    "layers without a column": lambda run: (
        pd.read_csv(run / "layers.csv")
        .drop(columns="accuracy")
        .to_csv(run / "layers.csv", index=False)
    ),
    "layers with words for numbers": lambda run: (run / "layers.csv").write_text(
        (run / "layers.csv").read_text().replace(",200,", ",many,")
    ),
    "layers cut short": lambda run: cut_in_a_row(run / "layers.csv"),
    "issues missing": lambda run: (run / "label_issues.csv").unlink(),
    "issues garbled": lambda run: (run / "label_issues.csv").write_bytes(b"\x00\xff" * 50),
    "issues without a column": lambda run: (
        pd.read_csv(run / "label_issues.csv")
        .drop(columns="label_quality")
        .to_csv(run / "label_issues.csv", index=False)
    ),
    "candidates missing": lambda run: (run / "candidates.csv").unlink(),
    "candidates with words for numbers": lambda run: (run / "candidates.csv").write_text(
        "round,layer,n_features,ridge,criterion,chosen,test_accuracy\n0,fc1,0,1,good,True,0.5\n"
    ),
    "examples not JSON": lambda run: (run / "examples" / "examples.json").write_text("{"),
    "examples with a path": lambda run: (run / "examples" / "examples.json").write_text(
        '{"examples": [{"index": 0, "given": 0, "predicted": 1, "quality": 0.1, "text": null, '
        '"numbers": [], "width": 0, "picture": "../../secret.png"}]}'
    ),
    "geometry with words for numbers": lambda run: (run / "geometry.csv").write_text(
        "layer,class_a,class_b,rank,effective_rank,angle\nfc1,0,1,2,1.5,wide\n"
    ),
    "issues cut short": lambda run: cut_in_a_row(run / "label_issues.csv"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_run_is_one_clear_line(run, kind):
    DAMAGE[kind](run)
    with pytest.raises(OutputError) as caught:
        us.load(run)
    message = str(caught.value)
    assert "\n" not in message
    assert str(run) in message
    if kind == "another format":
        assert "999" in message


@pytest.mark.parametrize("probe", ["masc", "velpic", "auto"])
@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if "weights" in kind])
def test_damaged_weights_of_any_decoder_are_one_clear_line(tmp_path, probe, kind):
    auto = probe == "auto"
    written = us.decode(
        models.build("mlp", seed=3),
        (X, Y),
        probes=("masc",) if auto else (probe,),
        layers="relu1",
        variance=0.7,
        controls=False,
        progress=False,
        auto=auto,
    )
    (tmp_path / "decoder").mkdir()
    _write_decoder(written.best, tmp_path / "decoder")
    _read_decoder(tmp_path / "decoder", None)  # whole, it can be read
    DAMAGE[kind](tmp_path)
    with pytest.raises((OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError)):
        _read_decoder(tmp_path / "decoder", None)


def test_a_layer_of_another_width_than_the_decoders_is_one_clear_line(tmp_path):
    us.decode(
        models.build("mlp", seed=3), (X, GIVEN), layers="relu*", controls=False, progress=False
    ).save(tmp_path / "run")
    other = models.mlp()
    other.fc1, other.fc2 = nn.Linear(12, 9), nn.Linear(9, 11)
    other.readout = nn.Linear(11, 4)
    read = us.load(tmp_path / "run")
    read.best.model = other
    with pytest.raises(us.UnderscriptError) as caught:
        read.best.predict(X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["nothing", "a file", "an empty folder", "a foreign folder"])
def test_what_is_no_run_is_one_clear_line(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("hello")
    elif kind != "nothing":
        place.mkdir()
    if kind == "a foreign folder":
        (place / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="expected an underscript run") as caught:
        us.load(place)
    assert str(place) in str(caught.value)
