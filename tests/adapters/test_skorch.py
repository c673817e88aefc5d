"""A monitor in skorch: a whole training, its history, and parts of the data."""

import numpy as np
import pandas as pd
import pytest
import torch

import watched_training as watched
from underscript.errors import DataError

pytest.importorskip("skorch", reason="skorch is not installed (extra skorch)")

from skorch import NeuralNet, NeuralNetClassifier
from skorch.callbacks import Checkpoint, LoadInitState

from underscript.adapters.skorch import IndexedLoader, MonitorCallback


def net(*callbacks, kind=NeuralNet, **settings):
    """Return a net as a user makes it, of a network that gives logits."""
    torch.manual_seed(0)
    chosen = {
        "criterion": torch.nn.CrossEntropyLoss,
        "iterator_train": IndexedLoader,
        "iterator_train__shuffle": True,
        "train_split": None,
        "batch_size": 40,
        "max_epochs": 3,
        "lr": 0.1,
        "callbacks__print_log": None,
    }
    module = settings.pop("module", watched.Recording)
    return kind(module, callbacks=list(callbacks), **{**chosen, **settings})


def test_it_sees_what_a_plain_loop_sees_and_changes_nothing():
    monitor = watched.monitor()
    fitted, alone = net(MonitorCallback(monitor)), net()
    for each in (fitted, alone):
        torch.manual_seed(1)
        each.fit(watched.X, watched.Y)
    assert torch.equal(fitted.module_.weights(), alone.module_.weights())
    plain = watched.in_a_plain_loop(fitted.module_, 3)
    pd.testing.assert_frame_equal(monitor.samples, plain.samples)
    memory = monitor.history.query("layer == '(network)'")["memory"]
    assert fitted.history[:, "monitor_network_memory"] == memory.tolist()
    assert fitted.history[-1, "monitor_recommended_step"] == monitor.recommended.step
    # Steps are skorch's epochs; training that goes on adds to them.
    fitted.partial_fit(watched.X, watched.Y)
    assert list(monitor.history["step"].unique()) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(DataError, match=r"up to step 0, where training goes on; found .* step 6"):
        fitted.fit(watched.X, watched.Y)


class Chances(watched.Recording):
    """Gives probabilities, as skorch's classifier expects by default."""

    def forward(self, x):
        return super().forward(x).softmax(1)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_numbers_are_those_of_the_whole_though_a_part_is_trained_on(workers):
    monitor = watched.monitor()
    fitted = net(
        MonitorCallback(monitor),
        kind=NeuralNetClassifier,
        module=Chances,
        criterion=torch.nn.NLLLoss,
        train_split=NeuralNetClassifier(Chances).train_split,
        iterator_train__num_workers=workers,
        max_epochs=2,
    ).fit(watched.X, watched.Y)
    plain = watched.in_a_plain_loop(fitted.module_, 2)
    trained = sorted({number for _, numbers in fitted.module_.seen for number in numbers})
    assert monitor.samples["index"].tolist() == trained
    assert len(trained) == 96
    # Logarithms of probabilities differ from logits by a constant for each sample.
    for column in ("aum", "confidence", "correctness", "given_label"):
        np.testing.assert_allclose(monitor.samples[column], plain.samples[column], atol=1e-5)


def test_it_stops_training_only_if_asked():
    for stop, epochs in ((False, 3), (True, 2)):
        monitor = watched.monitor(watched.StopsAfterTwo)
        fitted = net(MonitorCallback(monitor, stop=stop)).fit(watched.X, watched.Y)
        assert len(fitted.history) == epochs == monitor.step


def test_a_checkpoint_of_an_earlier_epoch_is_refused(tmp_path):
    kept = Checkpoint(dirname=str(tmp_path), monitor=lambda net: len(net.history) == 2)
    net(MonitorCallback(watched.monitor(folder=tmp_path / "m")), kept).fit(watched.X, watched.Y)
    monitor = watched.us.Monitor.resume(tmp_path / "m", (watched.X, watched.Y))
    again = net(LoadInitState(kept), MonitorCallback(monitor))
    with pytest.raises(DataError, match=r"up to step 2, where training goes on; found .* step 3"):
        again.fit(watched.X, watched.Y)
    fresh = watched.monitor()
    again.set_params(callbacks=[LoadInitState(kept), MonitorCallback(fresh)])
    again.fit(watched.X, watched.Y)
    assert list(fresh.history["step"].unique()) == [3, 4, 5]


def test_batches_that_do_not_say_who_they_are_are_one_line():
    plain = net(MonitorCallback(watched.monitor()), iterator_train=torch.utils.data.DataLoader)
    with pytest.raises(DataError, match=r"found list. Give the net iterator_train=IndexedLoader"):
        plain.fit(watched.X, watched.Y)
