"""A monitor in Lightning: a whole training, its checkpoints, its loggers."""

import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import watched_training as watched
from underscript.adapters import Indexed
from underscript.errors import DataError

pytest.importorskip("lightning", reason="lightning is not installed (extra lightning)")

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger

from underscript.adapters.lightning import MonitorCallback

# What Lightning and torch say of small trainings and of each other.
pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.rank_zero.LightningDeprecationWarning",
    "ignore:.*isinstance.treespec",
    "ignore:.*does not have many workers",
    "ignore:.*smaller than the logging interval",
    "ignore:.*ckpt_path",
    "ignore:Checkpoint directory",
    "ignore:The dirpath has changed",
)

DATA = TensorDataset(torch.from_numpy(watched.X), torch.from_numpy(watched.Y))


class Module(pl.LightningModule):
    """What a user writes; the network is `net`."""

    def __init__(self):
        super().__init__()
        self.net = watched.Recording()

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        loss = torch.nn.functional.cross_entropy(logits, batch[1])
        return {"loss": loss, "logits": logits}

    def validation_step(self, batch, batch_idx):
        self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, *callbacks, module=None, epochs=3, ckpt_path=None, data=None, **settings):
    """Train as a user does; return the trainer."""
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        **{"logger": CSVLogger(folder), **settings},
    )
    loaders = [DataLoader(Indexed(DATA) if data is None else data, 40, shuffle=True)]
    loaders += [DataLoader(DATA, 40)]
    torch.manual_seed(1)
    trainer.fit(Module() if module is None else module, *loaders, ckpt_path=ckpt_path)
    return trainer


def test_it_sees_what_a_plain_loop_sees_and_changes_nothing(tmp_path):
    module, alone = Module(), Module()
    monitor = watched.monitor()
    trainer = fit(tmp_path, MonitorCallback(monitor, network="net"), module=module)
    fit(tmp_path, module=alone)
    assert torch.equal(module.net.weights(), alone.net.weights())
    plain = watched.in_a_plain_loop(module.net, 3)
    pd.testing.assert_frame_equal(monitor.samples, plain.samples)
    # Steps are those of the checkpoints.
    assert list(monitor.history["step"].unique()) == [3, 6, 9]
    assert trainer.checkpoint_callback.best_model_path.endswith("step=9.ckpt")
    logged = pd.read_csv(f"{trainer.logger.log_dir}/metrics.csv")
    for name in ("network_memory", "recommended_step"):
        assert logged[f"monitor_{name}"].iloc[-1] == pytest.approx(monitor.scalars()[name])
    memory = monitor.history.query("layer == '(network)'")["memory"]
    assert logged["monitor_network_memory"].tolist() == pytest.approx(memory.tolist())


def test_training_that_goes_on_takes_the_monitor_back_to_its_checkpoint(tmp_path):
    straight = watched.monitor(folder=tmp_path / "m")
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    fit(tmp_path, MonitorCallback(straight, network="net"), keep, epochs=4)
    # The monitor has read four epochs, the checkpoint is of the second.
    resumed = type(straight).resume(tmp_path / "m", (watched.X, watched.Y))
    assert resumed.step == 12
    callback = MonitorCallback(resumed, network="net")
    module = Module()
    fit(tmp_path, callback, module=module, ckpt_path=tmp_path / "step=6.ckpt")
    assert list(resumed.history["step"].unique()) == [3, 6, 9]
    assert resumed.samples["epochs"].tolist() == [3] * watched.N
    early = straight.history.query("step <= 6")
    kept = resumed.history.query("step <= 6")
    pd.testing.assert_frame_equal(kept, early, check_dtype=False)
    # Without such a checkpoint epochs would count twice.
    with pytest.raises(DataError, match=r"up to step 0, where training goes on; found .* step 9"):
        fit(tmp_path, callback)
    other = watched.monitor(seed=1)
    with pytest.raises(DataError, match="seed: expected 0, as in the checkpoint; found 1"):
        fit(tmp_path, MonitorCallback(other), ckpt_path=tmp_path / "step=6.ckpt")


def test_it_stops_training_only_if_asked(tmp_path):
    for stop, epochs in ((False, 3), (True, 2)):
        monitor = watched.monitor(watched.StopsAfterTwo)
        fit(tmp_path, MonitorCallback(monitor, stop=stop, network="net"))
        assert monitor.history["epoch"].max() == epochs


def test_an_epoch_that_is_cut_short_ends_where_it_was_cut(tmp_path):
    monitor = watched.monitor()
    fit(tmp_path, MonitorCallback(monitor, network="net"), max_steps=5)
    assert list(monitor.history["step"].unique()) == [3, 5]
    assert sorted(monitor.samples["epochs"].unique()) == [1, 2]


def test_two_monitors_have_states_of_their_own(tmp_path):
    callbacks = [
        MonitorCallback(watched.monitor(seed=seed), network="net", name=f"m{seed}")
        for seed in (0, 1)
    ]
    trainer = fit(tmp_path, *callbacks, epochs=1)
    kept = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    own = [key for key in kept["callbacks"] if "underscript" in key]
    assert own == [callback.state_key for callback in callbacks]
    assert {"m0_network_memory", "m1_network_memory"} <= set(trainer.callback_metrics)


class OnlyLoss(Module):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)["loss"]


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"data": DATA}, r"batch: expected \(x, y, index\).*found list of 2. Wrap the"),
        ({"module": OnlyLoss()}, r"training_step: expected a dict.*found a dict of loss. Return"),
        ({"network": "nets"}, r"network: expected the name of a part of Module \(net\); found 'n"),
    ],
)
def test_what_is_missing_is_one_line(tmp_path, how, match):
    callback = MonitorCallback(watched.monitor(), network=how.pop("network", "net"))
    with pytest.raises(DataError, match=match) as caught:
        fit(tmp_path, callback, logger=False, enable_checkpointing=False, **how)
    assert "\n" not in str(caught.value)


def test_batches_of_another_form_can_be_read(tmp_path):
    class Named(Module):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["x"], batch["who"][1]), batch_idx)

    rows = [{"x": x, "who": (i, y)} for i, (x, y) in enumerate(DATA)]
    monitor = watched.monitor()
    callback = MonitorCallback(
        monitor, network="net", read=lambda batch: (batch["who"][1], batch["who"][0])
    )
    fit(tmp_path, callback, module=Named(), data=rows, epochs=1)
    assert monitor.samples["index"].tolist() == list(range(watched.N))


@pytest.mark.slow
def test_the_older_package_has_a_callback_too(tmp_path):
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import pytorch_lightning as pl, torch, watched_training as watched
from underscript.adapters import Indexed
from underscript.adapters.pytorch_lightning import MonitorCallback
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = watched.Recording()
    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        return {{"loss": torch.nn.functional.cross_entropy(logits, batch[1]), "logits": logits}}
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
monitor = watched.monitor()
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False)
trainer.callbacks.append(MonitorCallback(monitor, network="net"))
data = torch.utils.data.TensorDataset(torch.tensor(watched.X), torch.tensor(watched.Y))
trainer.fit(Module(), torch.utils.data.DataLoader(Indexed(data), 40))
assert monitor.step == 6, monitor.step
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert re.search("callbacks.*underscript", done.stderr) is None
