"""Monitors with a made-up history, to draw: what they show is known."""

from typing import Any

import numpy as np
import pandas as pd
import torch

import underscript as us
from underscript.results.monitor.history import COLUMNS
from underscript.results.monitor.judgement import Alarm, Reading, Recommended, Stop

N_SAMPLES = 240


class Watched(us.Monitor):
    """A monitor that was told what it found."""

    alarm: Any = None
    recommended: Any = None
    stop: Any = None
    verdict: Any = "It was told."

    @property
    def history(self) -> pd.DataFrame:
        """The rows that were made up, accuracies too."""
        return pd.DataFrame(self._history, columns=list(COLUMNS))


def watched(
    epochs: list[int],
    layers: list[str],
    *,
    keep: int | None = None,
    alarm: int | None = None,
    stop: int | None = None,
    holdout: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Watched:
    """Return a monitor whose history is random, with these epochs and layers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N_SAMPLES, 3)).astype(np.float32)
    y = rng.integers(0, 4, N_SAMPLES)
    found = Watched((x, y), n_probe=50, **settings)
    for epoch in epochs:
        for name in [*layers, "(network)"]:
            plain, perturbed, accuracy = np.sort(rng.random(3))[[1, 0, 2]].tolist()
            row = {"step": 10 * epoch, "epoch": epoch, "layer": name, "plain": plain}
            row |= {"perturbed": perturbed, "memory": plain - perturbed, "accuracy": accuracy}
            row |= {"accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.05}
            own = name == "(network)"
            row |= {"effective_rank": None if own else 9.5, "angle": None if own else 30.0}
            row |= {"noise_rate": 0.4 if own else None}
            row |= {"holdout": perturbed / 2 if own and holdout else None}
            found._history.append(row)
        given, own, vote = rng.integers(0, 4, (3, 50))
        right = rng.random(50, dtype=np.float32)
        rates = 0.4, 0.3, 0.5, 0.2, False
        found._readings.append(
            Reading(epoch, 10 * epoch, given, own, vote[:, None], vote, right, 0.5, *rates)
        )
    found._steps = [10 * epoch for epoch in range(1, epochs[-1] + 1)]
    if keep is not None:
        found.recommended = Recommended(keep, 10 * keep, 0.5, 0.01, f"epoch {keep} has most")
    if alarm is not None:
        found.alarm = Alarm(alarm, 10 * alarm, f"from epoch {alarm} on, it remembers")
    if stop is not None:
        found.stop = Stop(stop, 10 * stop, f"epoch {stop} is worse")
    # A third of the samples is predicted as another class than their label.
    wrong = rng.random(N_SAMPLES) < 1 / 3
    for epoch in (1, 2):
        logits = rng.normal(size=(N_SAMPLES, 4)) + 6 * np.eye(4)[np.where(wrong, (y + 1) % 4, y)]
        found.update(torch.tensor(logits), y, torch.arange(N_SAMPLES))
        found._records.end_epoch(epoch)
    return found
