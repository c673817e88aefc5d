"""A monitor in Hugging Face's Trainer: a whole training, its checkpoints, its loggers."""

import json

import pandas as pd
import pytest
import torch
from torch import nn

import watched_training as watched
from left_as_found import state_of
from underscript.errors import DataError

pytest.importorskip("accelerate", reason="accelerate is not installed (extra transformers)")

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import is_torch_available

from underscript.adapters.transformers import MonitorCallback

if not is_torch_available():  # make test-oldest
    pytest.skip("transformers does not work with a torch as old as this", allow_module_level=True)

ROWS = [
    {"x": x, "labels": int(y), "index": number}
    for number, (x, y) in enumerate(zip(watched.X, watched.Y, strict=True))
]


class Classifier(nn.Module):
    """Returns what models of transformers return."""

    def __init__(self):
        super().__init__()
        self.body = watched.Recording()

    def forward(self, x, labels=None):
        logits = self.body(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Logged(TrainerCallback):
    """What a logger of Trainer's gets."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append({**logs, "step": state.global_step})


def trainer_of(folder, model=None, rows=ROWS, callbacks=(), compute_loss_func=None, **arguments):
    """Return a Trainer as a user makes it, whose evaluation has the column of numbers too."""
    chosen = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 20,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.05,
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "eval_strategy": "epoch",
    }
    return Trainer(
        Classifier() if model is None else model,
        TrainingArguments(str(folder), **{**chosen, **arguments}),
        train_dataset=rows,
        eval_dataset=rows[:30],
        callbacks=list(callbacks),
        compute_loss_func=compute_loss_func,
    )


def train(folder, monitor, stop=False, resume=None, model=None, **how):
    """Train with a monitor; return the Trainer."""
    trainer = trainer_of(folder, model, **how)
    trainer.add_callback(MonitorCallback(monitor, log=trainer.log, stop=stop))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_it_sees_what_a_plain_loop_sees_and_changes_nothing(tmp_path):
    monitor, model, alone, logged = watched.monitor(), Classifier(), Classifier(), Logged()
    before = state_of(model)
    trainer = train(tmp_path, monitor, model=model, callbacks=[logged])
    bare = [{name: row[name] for name in ("x", "labels")} for row in ROWS]
    trainer_of(tmp_path, alone, bare).train()
    assert torch.equal(model.body.weights(), alone.body.weights())
    assert state_of(model)["hooks"] == before["hooks"]
    plain = watched.in_a_plain_loop(model.body, 3)
    pd.testing.assert_frame_equal(monitor.samples, plain.samples)
    assert list(monitor.history["step"].unique()) == [3, 6, 9]
    memory = monitor.history.query("layer == '(network)'")["memory"].tolist()
    for rows in (logged.rows, trainer.state.log_history):
        found = [row for row in rows if "monitor_network_memory" in row]
        assert [row["step"] for row in found] == [3, 6, 9]
        assert [row["monitor_network_memory"] for row in found] == memory
        # Trainer's own numbers come as before.
        assert [row["step"] for row in rows if "loss" in row] == [3, 6, 9]


@pytest.mark.parametrize("restore", [False, True])
def test_training_that_goes_on_takes_the_monitor_back_to_its_checkpoint(tmp_path, restore):
    monitor = watched.monitor(folder=tmp_path / "m")
    # The checkpoint of a last step is written before the epoch's end.
    train(tmp_path, monitor, save_strategy="steps", save_steps=3, num_train_epochs=4)
    saved = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["MonitorCallback"]["attributes"]["saved"]["step"] == 6
    resumed = watched.us.Monitor.resume(tmp_path / "m", (watched.X, watched.Y))
    assert resumed.step == 12
    trainer = train(
        tmp_path,
        resumed,
        resume=tmp_path / "checkpoint-6",
        restore_callback_states_from_checkpoint=restore,
    )
    assert list(resumed.history["step"].unique()) == [3, 6, 9]
    assert resumed.samples["epochs"].tolist() == [3] * watched.N
    kept, early = (each.history.query("step <= 6") for each in (resumed, monitor))
    pd.testing.assert_frame_equal(kept, early, check_dtype=False)
    assert "monitor_network_memory" in pd.DataFrame(trainer.state.log_history)
    # Without the monitor's part of the checkpoint epochs would count twice.
    (tmp_path / "checkpoint-6" / "monitor" / "monitor.json").unlink()
    with pytest.raises(DataError, match=r"up to step 6, where training goes on; found .* step 9"):
        train(tmp_path, resumed, resume=tmp_path / "checkpoint-6")


def test_it_stops_training_only_if_asked(tmp_path):
    for stop, epochs in ((False, 3), (True, 2)):
        monitor = watched.monitor(watched.StopsAfterTwo)
        trainer = train(tmp_path, monitor, stop)
        assert trainer.state.global_step == 3 * epochs == monitor.step


def test_an_epoch_that_is_cut_short_ends_where_it_was_cut(tmp_path):
    monitor = watched.monitor()
    train(tmp_path, monitor, max_steps=5)
    assert list(monitor.history["step"].unique()) == [3, 5]


@pytest.mark.slow
def test_mixed_precision_and_compiled_models(tmp_path):
    for how in ({"bf16": True}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        monitor = watched.monitor()
        train(tmp_path, monitor, model=NoRecord(), num_train_epochs=1, **how)
        assert monitor.samples["index"].tolist() == list(range(watched.N))
        torch.compiler.reset()


class NoRecord(Classifier):
    def forward(self, x, labels=None):
        logits = self.body.net(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def own_loss(outputs, labels, num_items_in_batch=None):
    return nn.functional.cross_entropy(outputs["logits"], labels)


def test_labels_that_trainer_takes_away_come_from_another_column(tmp_path):
    rows = [{**row, "given": row["labels"]} for row in ROWS]
    with pytest.raises(
        DataError, match=r"expected the column 'labels'; found x, index: .*labels=…"
    ):
        train(tmp_path, watched.monitor(), compute_loss_func=own_loss)
    monitor = watched.monitor()
    trainer = trainer_of(tmp_path, rows=rows, compute_loss_func=own_loss)
    callback = MonitorCallback(monitor, labels="given")
    trainer.add_callback(callback)
    trainer.train()
    assert monitor.samples["given_label"].tolist() == watched.Y.tolist()
    # Without `log` the numbers are in the history that Trainer keeps.
    assert "monitor_network_memory" in pd.DataFrame(trainer.state.log_history)


def test_a_missing_column_of_numbers_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"column 'index'; found x, labels: .*remove_unused") as e:
        train(tmp_path, watched.monitor(), remove_unused_columns=True)
    assert "\n" not in str(e.value)
    with pytest.raises(DataError, match="expected a Monitor; found None"):
        MonitorCallback(name="other")
