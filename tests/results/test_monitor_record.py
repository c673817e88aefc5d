"""A monitor's folder is read without the data, and its verdict says what was found."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import models
import underscript as us
from underscript.errors import DataError, OutputError
from underscript.results.monitor.judgement import Reading, alarm, recommended, stop
from underscript.results.monitor.verdict import verdict

N = 200


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A monitor that has watched three epochs, and its folder."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, models.CLASSES, N)
    x = rng.normal(size=(N, models.WIDTH)) + 3 * np.eye(models.CLASSES, models.WIDTH)[y]
    x, y = x.astype(np.float32), np.where(rng.random(N) < 0.25, (y + 1) % models.CLASSES, y)
    folder = tmp_path_factory.mktemp("watched") / "m"
    torch.manual_seed(0)
    monitor, model = us.Monitor((x, y), n_probe=100, folder=folder, keep_logits=True), models.mlp()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        for at in torch.randperm(N).split(50):
            logits = model(torch.from_numpy(x[at]))
            optimiser.zero_grad()
            nn.functional.cross_entropy(logits, torch.from_numpy(y[at])).backward()
            optimiser.step()
            monitor.update(logits, y[at], at)
        monitor.end_epoch(model)
    return monitor, folder


def test_a_folder_tells_what_its_monitor_tells(kept, tmp_path):
    monitor, folder = kept
    found = us.load_monitor(folder)
    pd.testing.assert_frame_equal(found.history, monitor.history, check_dtype=False)
    pd.testing.assert_frame_equal(found.samples, monitor.samples)
    pd.testing.assert_frame_equal(found.label_issues(True), monitor.label_issues(True))
    for name in ("alarm", "recommended", "stop", "verdict"):
        assert getattr(found, name) == getattr(monitor, name)
    assert found.scalars() == pytest.approx(monitor.scalars())
    assert found.summary["settings"] == monitor.summary["settings"]
    for each, name in ((monitor, "a"), (found, "b")):
        each.to_aum_csv(tmp_path / f"{name}.csv")
        each.to_cartography_jsonl(tmp_path / name)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    for path in (tmp_path / "a").iterdir():
        assert path.read_text() == (tmp_path / "b" / path.name).read_text()


def test_what_was_read_can_be_saved_elsewhere_and_resumed(kept, tmp_path):
    _, folder = kept
    us.load_monitor(folder).save(tmp_path / "copy")
    first, second = (
        json.loads((path / "monitor.json").read_text()) for path in (folder, tmp_path / "copy")
    )
    assert first == second
    again = us.load_monitor(tmp_path / "copy")
    pd.testing.assert_frame_equal(again.history, us.load_monitor(folder).history)


def test_what_is_no_monitor_or_is_damaged_is_said(kept, tmp_path):
    _, folder = kept
    with pytest.raises(OutputError, match="expected the folder of a monitor"):
        us.load_monitor(tmp_path)
    with pytest.raises(OutputError, match=r"us\.load_monitor reads"):
        us.load(folder)
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    summary = json.loads((copied / "monitor.json").read_text())
    for broken in ({"settings": None}, {"settings": {"seed": 0}}, {"notes": None}):
        (copied / "monitor.json").write_text(json.dumps({**summary, **broken}))
        with pytest.raises(DataError, match="a part of the state is missing") as caught:
            us.load_monitor(copied)
        assert "\n" not in str(caught.value)


def readings(memory, *, rate=0.4, hopeless=False):
    """Return readings of networks that remember more and more wrong labels, and know less."""
    n, found = 1000, []
    wrong = np.arange(n) < 400
    true = np.arange(n) % 10
    given = np.where(wrong, (true + 1) % 10, true)
    right = np.where(wrong, 0.05, 0.95).astype(np.float32)
    for epoch, share in enumerate(memory, 1):
        rng = np.random.default_rng(epoch)
        remembers = wrong & (rng.random(n) < share)
        knows = np.where(rng.random(n) < 0.9 - share / 2, true, (true + 5) % 10)
        own = np.where(remembers, given, knows)
        said = (true, right, 0.5, rate, rate * 0.9, rate * 1.1, 0.2, hopeless)
        found.append(Reading(epoch, epoch, given, own, knows[:, None], *said))
    return found


def test_the_verdict_says_since_when_which_epoch_and_whether_to_stop():
    found = readings([0.0, 0.0, 0.2, 0.4, 0.6])
    when, kept = alarm(found), recommended(found)
    assert stop(found) is not None
    assert verdict(found, 5) == (
        f"The network has been memorising wrong labels since epoch {when.epoch}. About 40% of the "
        f"labels look wrong. Keep epoch {kept.epoch}; training may stop."
    )
    early = verdict(found[:2], 2)
    assert early.startswith("After 2 epochs nothing shows that the network memorises")
    assert "training may stop" not in early


def test_the_verdict_of_clean_labels_of_chance_and_of_nothing():
    clean = verdict(readings([0.0, 0.0], rate=0.0), 2)
    assert "Few labels, if any, look wrong." in clean
    assert "no layer predicts" in verdict(readings([0.0], hopeless=True), 1)
    assert verdict([], 0) == "No epoch has been read yet."
    improving = readings([0.4, 0.2, 0.0])
    assert verdict(improving, 3).endswith("Epoch 3, the last, is the best so far: go on.")
