"""What a monitor tells: of samples, labels and epochs, while it watches or read from its folder."""

import math
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import DataError
from ...noise.estimate import SMALLEST
from ...utils.distributed import ALONE
from ..issues import most_suspicious_first
from ..run import Run
from .exports import KeptLogits, write_aum, write_cartography
from .folder import read_folder
from .history import NETWORK, with_accuracies
from .judgement import Stop, stop
from .label_issues import both_together, issues_of
from .layers import LayerReader
from .samples import SampleRecords
from .state import MonitorState
from .verdict import verdict

__all__ = ["KeptRecord", "MonitorRecord"]


class MonitorRecord(MonitorState):
    """What a monitor has read so far, and what follows from it."""

    _logits: KeptLogits

    @property
    def verdict(self) -> str:
        """Whether it memorises, since when, which epoch to keep, and whether to stop."""
        return verdict(self._readings, self._epoch)

    @property
    def summary(self) -> dict[str, Any]:
        """What `monitor.json` holds: settings, versions, judgement, notes, seconds."""
        return self._summary()

    @property
    def samples(self) -> pd.DataFrame:
        """One row per training sample, in the order of the index.

        `index`, `epochs`, `aum`, `forgetting_events`, `learned_epoch` (0: never), `confidence`,
        `variability`, `correctness`, `given_label`, `predicted_label`.
        """
        self._only_in_first("samples")
        return self._records.table()

    @property
    def stop(self) -> Stop | None:
        """Whether training may stop, and why; None as long as it should go on.

        The network memorises (`alarm`), and the last two readings agree with fewer labels of new
        inputs than the recommended epoch, by more than two standard errors of the difference.
        """
        return stop(self._readings)

    def scalars(self) -> dict[str, float]:
        """Return the numbers of the last reading, for a logger; empty before the first.

        Returns
        -------
        dict of str to float
            `network_plain`, `network_perturbed`, `network_memory`, `network_accuracy`: the row of
            the network in `history`. `decoded_accuracy`: the largest estimated accuracy of a layer.
            `noise_rate`. `alarm`: 1 once memorising has started, else 0. `recommended_step`. With a
            hold-out, `network_holdout`.
        """
        judged = self._judgement()
        if judged is None:
            return {}
        last = self._readings[-1].epoch
        latest = (row for row in self._history if row["epoch"] == last)
        rows = with_accuracies(latest, judged).to_dict("records")
        own = next(row for row in rows if row["layer"] == NETWORK)
        of_layers = [row["accuracy"] for row in rows if row["layer"] != NETWORK]
        found = {
            f"network_{name}": float(own[name])
            for name in ("plain", "perturbed", "memory", "accuracy", "holdout")
            if own[name] is not None and not math.isnan(own[name])
        }
        return {
            **found,
            "decoded_accuracy": float(max(of_layers)),
            "noise_rate": judged.noise.rate,
            "alarm": float(judged.alarm is not None),
            "recommended_step": float(judged.recommended.step),
        }

    def label_issues(self, sort: bool = False, *, decoding: Run | None = None) -> pd.DataFrame:
        """Return which labels look wrong by the area under the margin, or by a decoder as well.

        Parameters
        ----------
        sort : bool
            The most suspicious labels first.
        decoding : Decoding, optional
            Of the trained network, by `decode` with the same training data. Its label issues and
            those of the margins are put together: more wrong labels are found than by one of them.

        Returns
        -------
        pandas.DataFrame
            Indexed by the samples' index: `is_label_issue`, for the smallest margins, as many as
            the noise rate says (with a decoding, as many as it flags); `label_quality`, the
            probability that the label is right if margins of right and wrong labels are two normal
            distributions (with a decoding, log-odds of both are added); `given_label`;
            `predicted_label`, by the mean probabilities over epochs, for flagged samples the best
            other class (with a decoding, its own); `margin`, the area under the margin;
            `confidence`, the mean probability of the predicted label (with a decoding, its own).

        Raises
        ------
        DataError
            If no epoch has ended, or the decoding is of other samples or labels.
        """
        judged, rate = self._judgement(), None
        if judged is not None and not judged.noise.hopeless:
            rate = judged.noise.rate if judged.noise.rate >= SMALLEST else 0.0
        issues = issues_of(self.samples, self._records.mean_chances(), rate, self._settings["seed"])
        if decoding is not None:
            issues = both_together(issues, decoding.label_issues())
        return most_suspicious_first(issues) if sort else issues

    def to_aum_csv(self, path: str | PathLike[str]) -> None:
        """Write `sample_id` and `aum`, sorted by it in descending order, as the package aum does.

        Of several processes the first writes it.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if self._is_first:
            write_aum(self.samples, Path(path))

    def to_cartography_jsonl(self, folder: str | PathLike[str]) -> None:
        """Write each epoch's logits as cartography reads them: `dynamics_epoch_0.jsonl`, ….

        Of several processes the first writes them.

        Raises
        ------
        DataError
            If logits were not kept (`keep_logits=True`), or an epoch's file is missing.
        OutputError
            If a file cannot be written.
        """
        if not self._settings["keep_logits"]:
            raise DataError("to_cartography_jsonl: no logits were kept: Monitor(keep_logits=True)")
        if self._is_first:
            write_cartography(self._logits, self._epoch, Path(folder))


class KeptRecord(MonitorRecord):
    """A monitor's record as its folder keeps it, without the data: it cannot go on.

    Parameters
    ----------
    folder : Path
        The folder of a monitor.

    Raises
    ------
    OutputError
        If the folder is no monitor's, or of a newer version.
    DataError
        If a file is damaged.
    """

    def __init__(self, folder: Path):
        summary, history, state = read_folder(folder)
        self.folder = folder
        self._processes = ALONE
        self._layers = LayerReader()
        self._kept = summary
        try:
            self._settings = dict(summary["settings"])
            keeps_logits, _ = bool(self._settings["keep_logits"]), self._settings["seed"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder}: a part of the state is missing ({error})") from error
        self._records = SampleRecords(keeps_logits)
        self._logits = KeptLogits()
        self._logits.folder = folder
        self._take(summary, history, state, str(folder))

    def _summary(self) -> dict[str, Any]:
        return self._kept
