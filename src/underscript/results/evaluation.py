"""The decoders' accuracy on each part of the data, and the chosen one's label predictions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from ..activations.copies import weights_of
from ..activations.hooks import undisturbed
from ..activations.stream import Seen
from ..data.source import Source
from ..errors import ModelError
from ..noise.estimate import Noise
from ..repair.read_out import DecodedAgreement, HoldoutAgreement, ReadOut, ReadOutTrial
from ..selection.choice import Key
from ..selection.log_odds_lookup import OutOfFoldLogOdds
from ..selection.observers import Agreement, Fingerprints, Observer, observe
from ..selection.task import Decoders, Task
from .examples import Worst
from .issues import Predictions
from .observers import Confidence, PredictionObserver
from .training_predictions import TrainingPredictions

__all__ = ["Evaluation", "evaluate", "predictions_later"]


@dataclass
class Evaluation:
    """What was measured on all parts of the data.

    Attributes
    ----------
    worst : Worst
        The most suspicious training samples.
    records : list of dict
        Rows of the table.
    predictions : list of Predictions
        The chosen decoder's predictions for the training labels, in parts.
    fingerprints : dict of str to ndarray of uint64
        Fingerprints of the inputs, by role.
    wrong_label_share : float or None
        The share of wrong training labels, where the true ones are known.
    calibration_error : float or None
        The chosen decoder's, on test data.
    candidates : pandas.DataFrame or None
        The candidates that it was chosen from.
    holdout : Agreement or None
        The decoders' agreement with the labels of the hold-out.
    decoded, on_holdout : observers of the read-out's trial, or None
        How well its options agree with the decoder, and with the hold-out.
    """

    worst: Worst
    records: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    fingerprints: dict[str, NDArray[np.uint64]] = field(default_factory=dict)
    wrong_label_share: float | None = None
    calibration_error: float | None = None
    candidates: pd.DataFrame | None = None
    holdout: Agreement | None = None
    decoded: DecodedAgreement | None = None
    on_holdout: HoldoutAgreement | None = None


def evaluate(
    network: nn.Module,
    task: Task,
    source: Source,
    decoders: Decoders,
    evaluation: Evaluation,
    stage: str,
    *,
    chosen: Key | None = None,
    noise: Noise | None = None,
    unseen: OutOfFoldLogOdds | None = None,
    trial: ReadOutTrial | None = None,
    seen: Seen | None = None,
) -> None:
    """Evaluate the decoders on one part of the data and add the results to `evaluation`.

    Parameters
    ----------
    decoders : dict of Key to estimator
        The decoders to evaluate.
    stage : str
        The name on the progress bar.
    chosen : Key, optional
        The chosen decoder, for its predictions on training and its confidence on test data.
    noise : Noise or None
        The estimated noise of the labels.
    unseen : OutOfFoldLogOdds or None
        The chosen decoder's out-of-fold predictions.
    trial : ReadOutTrial or None
        Tries candidates for the network's read-out.
    seen : callable, optional
        Rows that are known already: the network does not run for them.
    """
    role = source.role
    observers: list[Observer] = []
    if role == "train" and chosen is not None:
        observers.append(
            PredictionObserver(chosen, decoders[chosen], evaluation.worst, noise, unseen)
        )
        if trial is not None:
            observers.append(trial.on_training_data(chosen))
    if role == "holdout" and trial is not None:
        observers.append(trial.on_holdout())
    if role == "test" and chosen is not None:
        observers.append(Confidence(chosen, decoders[chosen]))
    if role != "train":
        observers.append(Fingerprints())
    observers.append(Agreement(decoders))
    for observer in observe(network, task, source, observers, stage, seen=seen):
        match observer:
            case PredictionObserver():
                evaluation.predictions += observer.parts()
                evaluation.worst = observer.worst
            case DecodedAgreement():
                evaluation.decoded = observer
            case HoldoutAgreement():
                evaluation.on_holdout = observer
            case Confidence():
                evaluation.calibration_error = observer.calibration_error()
            case Fingerprints():
                evaluation.fingerprints[role] = observer.all()
            case Agreement():
                evaluation.records += observer.records("trained", task, decoders, role)
                if role == "holdout":
                    evaluation.holdout = observer
                if observer.wrong_share is not None:
                    evaluation.wrong_label_share = observer.wrong_share


def predictions_later(
    network: nn.Module,
    task: Task,
    source: Source,
    key: Key,
    decoders: Decoders,
    evaluation: Evaluation,
    trial: ReadOutTrial | str,
) -> Callable[[], TrainingPredictions]:
    """Return a function that decodes the training data when somebody asks for that.

    It raises ModelError if the network has other weights by then.
    """
    weights = weights_of(network)

    def ask() -> TrainingPredictions:
        if weights_of(network) != weights:
            raise ModelError(
                "the training data have not been decoded yet, and the network has other weights "
                "now: decode it again, or ask for them at once (evaluate=('train',))"
            )
        tried = None if isinstance(trial, str) else trial
        on_training = Evaluation(evaluation.worst)
        with undisturbed(network):
            evaluate(
                network,
                task,
                source,
                decoders,
                on_training,
                "decoding train",
                chosen=key,
                trial=tried,
            )
        read_out: ReadOut | str = str(trial)
        if tried is not None:
            assert on_training.decoded is not None
            read_out = tried.finish(on_training.decoded, evaluation.on_holdout)
        records = [record for record in on_training.records if record["probe"] != "model"]
        return TrainingPredictions(
            records,
            Predictions.together(on_training.predictions),
            on_training.worst.examples(),
            read_out,
        )

    return ask
