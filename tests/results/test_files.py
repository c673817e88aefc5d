"""A run folder is written whole or not at all, read back exactly, and never trusted."""

import errno
import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

import models
import underscript as us
from underscript.errors import ModelError, OutputError
from underscript.results import run_folder as _run_folder
from underscript.results.run_folder import _read_decoder, _write_decoder, is_run
from underscript.utils.files import fresh_folder, whole_file

X, Y = models.data("rows", 200)
GIVEN = us.corrupt_labels(Y, 0.4, seed=1)
FILES = [
    "candidates.csv",
    "decoder/config.json",
    "decoder/model.safetensors",
    "decoder/readout.safetensors",
    "examples/examples.json",
    "geometry.csv",
    "label_issues.csv",
    "layers.csv",
    "report.html",
    "results.json",
]


def make(model: nn.Module, probes: tuple[str, ...] = ("masc", "velpic")) -> us.Decoding:
    return us.decode(
        model,
        (X, GIVEN),
        test=(X, Y),
        true_labels=Y,
        probes=probes,
        variance=(0.7, 0.9),
        progress=False,
    )


@pytest.fixture(scope="module")
def found() -> us.Decoding:
    return make(models.build("mlp", seed=3))


@pytest.fixture(scope="module")
def saved(found: us.Decoding, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    found.save(folder)
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A run folder that the test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder, hidden ones too, with its bytes (None for a folder)."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


# There and back -----------------------------------------------------------------------------


def test_a_run_folder_holds_the_files_of_the_contract(saved, found):
    assert sorted(name for name, data in contents(saved).items() if data is not None) == FILES
    assert list(pd.read_csv(saved / "layers.csv").columns) == list(found.table.columns)
    issues = pd.read_csv(saved / "label_issues.csv")
    assert list(issues.columns) == [
        "index",
        "is_label_issue",
        "label_quality",
        "given_label",
        "predicted_label",
        "second_label",
        "margin",
        "confidence",
        "conflicting_duplicate",
    ]
    assert len(issues) == len(X)
    results = json.loads((saved / "results.json").read_text())
    assert {"settings", "versions", "seeds", "verdict"} <= set(results)
    assert results["verdict"] == found.verdict


@pytest.mark.parametrize("probes", [("masc",), ("velpic",), ("masc", "velpic")])
@pytest.mark.parametrize("with_model", [False, True])
def test_what_is_read_is_what_was_written(tmp_path, probes, with_model):
    model = models.build("mlp", seed=3)
    written = make(model, probes)
    written.save(tmp_path / "run")
    read = us.load(tmp_path / "run", model=model if with_model else None)
    # To the last digit: a table that differs in the 17th is another table for a comparison.
    pd.testing.assert_frame_equal(read.table, written.table, check_exact=True, check_dtype=False)
    pd.testing.assert_frame_equal(read.label_issues(), written.label_issues(), check_exact=True)
    assert read.summary == written.summary
    assert read.verdict == written.verdict
    assert read.best.taps == written.best.taps
    assert read.best.probe == written.best.probe
    assert read.best.estimator.get_params() == written.best.estimator.get_params()
    members = read.best.estimator.members
    rows = {m.layer: torch.randn(50, m.estimator.n_features_in_) for m in members}
    np.testing.assert_array_equal(
        read.best.estimator.decide(rows), written.best.estimator.decide(rows)
    )
    if with_model:
        np.testing.assert_array_equal(
            read.best.decision_function(X), written.best.decision_function(X)
        )
        assert read.best.predict(X).tolist() == written.best.predict(X).tolist()


def test_what_reads_the_input_alone_needs_no_network(tmp_path):
    model, choice = models.build("mlp", seed=3), {"layers": "input", "probes": ("velpic",)}
    written = us.decode(model, (X, GIVEN), controls=False, progress=False, **choice)
    written.save(tmp_path / "run")
    read = us.load(tmp_path / "run")
    assert read.best.layers == ("input",)
    assert read.best.predict(X).tolist() == written.best.predict(X).tolist()


def test_a_decoder_of_layers_asks_for_its_network(tmp_path):
    written = us.decode(
        models.build("mlp", seed=3), (X, GIVEN), layers="relu1", controls=False, progress=False
    )
    written.save(tmp_path / "run")
    with pytest.raises(ModelError, match="model=") as caught:
        us.load(tmp_path / "run").best.predict(X)
    assert "\n" not in str(caught.value)


def test_a_loaded_run_can_be_saved_again(saved, tmp_path):
    us.load(saved).save(tmp_path / "again")
    first, second = contents(saved), contents(tmp_path / "again")
    for name in ("results.json", "layers.csv", "label_issues.csv", "decoder/model.safetensors"):
        assert first[name] == second[name], name


# Of 80 samples of an untrained network nothing is told surely.
@pytest.mark.filterwarnings("ignore:no label seems wrong")
def test_a_tap_of_a_later_call_or_part_comes_back(tmp_path):
    for name, layer in (("residual", "layer1.0.relu#0"), ("attention", "attn[0]")):
        model, (x, y) = models.build(name, seed=3), models.data_for(name, 80)
        written = us.decode(
            model, (x, y), layers=layer, variance=0.7, controls=False, progress=False
        )
        written.save(tmp_path / name)
        read = us.load(tmp_path / name, model=model)
        assert read.best.taps == written.best.taps
        assert read.best.predict(x).tolist() == written.best.predict(x).tolist()


def test_a_run_of_another_model_does_not_predict_in_silence(saved):
    with pytest.raises(us.UnderscriptError, match="other weights") as caught:
        us.load(saved, model=models.build("residual"))
    assert "\n" not in str(caught.value)


# What an untrained network says may be lost with any change.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:no label seems wrong")
def test_layers_with_names_that_csv_could_mistake_come_back(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential()
    for name in ("nan", "NA", "None", "1,5", '"'):
        net.add_module(name, nn.Sequential(nn.Linear(12, 12), nn.ReLU()))
    net.add_module("readout", nn.Linear(12, 4))
    written = us.decode(net, (X, Y), variance=0.7, controls=False, progress=False)
    written.save(tmp_path / "run")
    assert us.load(tmp_path / "run").table["layer"].tolist() == written.table["layer"].tolist()


def test_saving_replaces_an_earlier_run_and_an_empty_folder(found, run):
    (run / "results.json").write_text('{"underscript": {"format": 1, "version": "0"}}')
    (run / "left-over.txt").write_text("of the earlier run")
    found.save(run)
    assert us.load(run).verdict == found.verdict
    assert not (run / "left-over.txt").exists()
    empty = run.parent / "empty"
    empty.mkdir()
    found.save(empty)
    assert us.load(empty).verdict == found.verdict


def test_parents_are_made(found, tmp_path):
    found.save(tmp_path / "a" / "b" / "run")
    assert us.load(str(tmp_path / "a" / "b" / "run")).verdict == found.verdict


def test_a_run_is_as_readable_as_any_folder(saved):
    # tempfile makes folders that only their owner can read.
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o777 & ~mask
    assert (saved / "results.json").stat().st_mode & 0o777 == 0o666 & ~mask


# Damage -------------------------------------------------------------------------------------


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


# Places that must not be written ------------------------------------------------------------


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "a folder of one's own": lambda place: (place / "thesis.tex").write_text("years of work"),
    "another program's results.json": lambda place: (place / "results.json").write_text("{}"),
    "a broken results.json": lambda place: (place / "results.json").write_text("{"),
    "hidden files only": lambda place: (place / ".git").mkdir(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_that_is_no_run_is_refused_and_untouched(found, tmp_path, kind):
    place = tmp_path / "place"
    place.mkdir()
    FOREIGN[kind](place)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="not an underscript run"):
        found.save(place)
    assert contents(tmp_path) == before


def test_a_file_is_refused_and_untouched(found, tmp_path):
    (tmp_path / "place").write_text("years of work")
    before = contents(tmp_path)
    for place in (tmp_path / "place", tmp_path / "place" / "below"):
        with pytest.raises(OutputError) as caught:
            found.save(place)
        assert "\n" not in str(caught.value)
        with pytest.raises(OutputError):
            found.report(place / "r.html")
    assert contents(tmp_path) == before


def test_a_link_to_an_earlier_run_stays_a_link(found, run):
    # `latest` → the run: what the user set up is theirs; the run that it names is replaced.
    link = run.parent / "latest"
    link.symlink_to(run, target_is_directory=True)
    (run / "left-over.txt").write_text("of the earlier run")
    found.save(link)
    assert link.is_symlink()
    assert us.load(link).verdict == found.verdict
    assert not (run / "left-over.txt").exists()


# Failures in the middle ---------------------------------------------------------------------


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Make every write beyond `size` bytes of a file fail, as on a full disk, by the real system.

    Python ignores the signal that goes with it, so the write raises OSError.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("largest", FILES)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_disk_that_is_full_leaves_everything_as_it_was(found, run, largest, earlier):
    # One byte less than a file needs: that one cannot be written, smaller ones can.
    size = (run / largest).stat().st_size - 1
    if not earlier:
        shutil.rmtree(run)
    before = contents(run.parent)
    with files_limited_to(size), pytest.raises(OutputError, match="nothing was written") as caught:
        found.save(run)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)
    assert contents(run.parent) == before


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OutputError),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (RuntimeError("a bug"), RuntimeError),
    ],
    ids=["disk full", "no permission", "Ctrl-C", "bug"],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_whatever_stops_a_write_leaves_everything_as_it_was(
    found, run, monkeypatch, error, expected, earlier
):
    if not earlier:
        shutil.rmtree(run)
    before = contents(run.parent)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(_run_folder, "_write_decoder", fail)
    with pytest.raises(expected) as caught:
        found.save(run)
    if expected is OutputError:
        assert error.strerror in str(caught.value)
    assert contents(run.parent) == before


@pytest.mark.parametrize("error", [OSError(errno.EBUSY, "busy"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [1, 2])
def test_the_earlier_run_survives_whatever_stops_the_swap(found, run, monkeypatch, error, at):
    # First the earlier folder is moved aside, then the new one takes its place: between the two
    # there is none, and the earlier one must come back.
    before = contents(run.parent)
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == at:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        found.save(run)
    assert contents(run.parent) == before


def test_the_folder_is_claimed_before_the_work(tmp_path):
    # A job of hours must not find out at its end that it cannot write.
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot write"),
        fresh_folder(tmp_path / "file" / "run", is_run),
    ):
        pytest.fail("the work began")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError()]
)
def test_a_single_file_is_whole_or_as_it_was(tmp_path, error):
    target = tmp_path / "report.html"
    for earlier in (None, "earlier"):
        if earlier is not None:
            target.write_text(earlier)
        before = contents(tmp_path)
        expected = OutputError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected), whole_file(target) as work:  # noqa: PT012
            work.write_text("half")
            raise error
        assert contents(tmp_path) == before
    with whole_file(target) as work:
        work.write_text("whole")
    assert contents(tmp_path) == {"report.html": b"whole"}


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(found, tmp_path):
    target = tmp_path / "report.html"
    found.report(target)
    before = contents(tmp_path)
    with files_limited_to(1000), pytest.raises(OutputError, match=r"report\.html"):
        found.report(target)
    assert contents(tmp_path) == before
