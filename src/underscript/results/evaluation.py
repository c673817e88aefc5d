"""How right the decoders are, on each part of the data; and what the chosen one says of labels."""

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
from ..selection.observers import Agreement, Fingerprints, observe
from ..selection.task import Decoders, Task
from ..selection.unseen import Unseen
from .examples import Worst
from .issues import Answers
from .observers import Confidence, LabelAnswers
from .training_answers import TrainingAnswers

__all__ = ["Evaluation", "answers_later", "evaluate"]


@dataclass
class Evaluation:
    """What was counted, on all parts of the data.

    Attributes
    ----------
    worst : Worst
        The most suspicious training samples.
    records : list of dict
        Rows of the table.
    answers : list of Answers
        What the chosen decoder says of the training labels, in parts.
    prints : dict of str to ndarray of uint64
        Fingerprints of the inputs, by role.
    wrong_label_share : float or None
        The share of wrong training labels, where the true ones are known.
    calibration_error : float or None
        The chosen decoder's, on test data.
    candidates : pandas.DataFrame or None
        What it was chosen from.
    holdout : Agreement or None
        On the hold-out.
    decoded, on_holdout : observers of the read-out's trial, or None
        What its options agree with.
    """

    worst: Worst
    records: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    prints: dict[str, NDArray[np.uint64]] = field(default_factory=dict)
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
    found: Evaluation,
    stage: str,
    *,
    chosen: Key | None = None,
    noise: Noise | None = None,
    unseen: Unseen | None = None,
    trial: ReadOutTrial | None = None,
    seen: Seen | None = None,
) -> None:
    """Run one part of the data and add what it gives to an evaluation.

    Parameters
    ----------
    decoders : dict of Key to estimator
        Those that are tried.
    stage : str
        What the bar says.
    chosen : Key, optional
        The chosen decoder: asked about each training label, and how sure it is on test data.
    noise : Noise or None
        What is known of the labels.
    unseen : Unseen or None
        What the chosen decoder says of samples whose labels it has not seen.
    trial : ReadOutTrial or None
        Tries what could be the network's read-out.
    seen : callable, optional
        Rows that are known: for those the network does not run.
    """
    role = source.role
    observers: list[Any] = []
    if role == "train" and chosen is not None:
        observers.append(LabelAnswers(chosen, decoders[chosen], found.worst, noise, unseen))
        if trial is not None:
            observers.append(trial.on_training_data(chosen))
    if role == "holdout" and trial is not None:
        observers.append(trial.on_holdout())
    if role == "test" and chosen is not None:
        observers.append(Confidence(chosen, decoders[chosen]))
    if role != "train":
        observers.append(Fingerprints())
    observers.append(Agreement(decoders))
    for each in observe(network, task, source, observers, stage, seen=seen):
        match each:
            case LabelAnswers():
                found.answers += each.parts()
                found.worst = each.worst
            case DecodedAgreement():
                found.decoded = each
            case HoldoutAgreement():
                found.on_holdout = each
            case Confidence():
                found.calibration_error = each.calibration_error()
            case Fingerprints():
                found.prints[role] = each.all()
            case Agreement():
                found.records += each.records("trained", task, decoders, role)
                if role == "holdout":
                    found.holdout = each
                if each.wrong_share is not None:
                    found.wrong_label_share = each.wrong_share


def answers_later(
    network: nn.Module,
    task: Task,
    source: Source,
    key: Key,
    decoders: Decoders,
    found: Evaluation,
    trial: ReadOutTrial | str,
) -> Callable[[], TrainingAnswers]:
    """Return what asks the chosen decoder about the training data, once somebody wants to know.

    It raises ModelError if the network has other weights by then.
    """
    weights = weights_of(network)

    def ask() -> TrainingAnswers:
        if weights_of(network) != weights:
            raise ModelError(
                "the training data have not been decoded yet, and the network has other weights "
                "now: decode it again, or ask for them at once (evaluate=('train',))"
            )
        tried = None if isinstance(trial, str) else trial
        mine = Evaluation(found.worst)
        with undisturbed(network):
            evaluate(
                network, task, source, decoders, mine, "decoding train", chosen=key, trial=tried
            )
        read_out: ReadOut | str = str(trial)
        if tried is not None:
            assert mine.decoded is not None
            read_out = tried.finish(mine.decoded, found.on_holdout)
        records = [record for record in mine.records if record["probe"] != "model"]
        return TrainingAnswers(
            records, Answers.together(mine.answers), mine.worst.examples(), read_out
        )

    return ask
