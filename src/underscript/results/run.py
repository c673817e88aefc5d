"""The result of a decode: table, chosen decoder, label issues, verdict."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import DataError, ModelError
from ..noise.estimate import Noise
from ..noise.posterior import posterior
from ..repair.read_out import ReadOut, relabelled, transfer
from ..repair.review import with_review
from ..selection.log_odds_lookup import LogOdds
from ..utils.class_names import with_names
from ..utils.files import TABLE_COLUMNS
from .decoder import Decoder
from .examples import Example
from .export import pred_probs
from .issues import confused_pairs, most_suspicious_first
from .training_predictions import TrainingPredictions, add_training_predictions, flagged


class Run:
    """The result of a decode: everything that a run folder keeps, and what follows from it.

    Its attributes are described where users meet them, in `underscript.Decoding`.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        summary: dict[str, Any],
        best: Decoder,
        issues: pd.DataFrame | None,
        candidates: pd.DataFrame | None,
        geometry: pd.DataFrame | None = None,
        examples: Sequence[Example] = (),
        read_out: ReadOut | str | None = "",
        odds: LogOdds | None = None,
        noise: Noise | None = None,
        later: Callable[[], TrainingPredictions] | None = None,
    ):
        self.table, self._summary, self.best = table, summary, best
        self.candidates, self.geometry, self._examples = candidates, geometry, list(examples)
        self._known_issues, self._known_read_out, self._later = issues, read_out, later
        # Out of fold, in the order of the issues, where they are kept.
        self._odds = odds
        self._noise = noise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.verdict!r})"

    @property
    def summary(self) -> dict[str, Any]:
        """Verdict, choice, settings, seeds, versions: what ``results.json`` holds.

        Without an ensemble (``auto=False``), what follows from the training labels is missing until
        `label_issues` is called.
        """
        return self._summary

    @property
    def examples(self) -> list[Example]:
        """The most suspicious training samples, the worst first, as the report shows them."""
        return self._examples

    def _issues(self) -> pd.DataFrame:
        self.complete()
        assert self._known_issues is not None
        return self._known_issues

    def _read_out(self) -> ReadOut | str:
        self.complete()
        assert self._known_read_out is not None
        return self._known_read_out

    def complete(self) -> None:
        """Let the chosen decoder predict the training labels, if that was put off.

        It takes a pass of the network over the training data. Methods that need it call it.

        Raises
        ------
        ModelError
            If the network has other weights than when it was decoded.
        """
        if self._later is None:
            return
        training = self._later()
        self._later = None
        rows = pd.DataFrame(training.records).assign(selected=True)[list(TABLE_COLUMNS)]
        self.table = pd.concat([self.table, rows], ignore_index=True)
        self._known_issues = issues = training.predictions.table(None)
        self._examples = flagged(training.examples, issues)
        self._known_read_out = training.read_out
        add_training_predictions(self._summary, rows, issues, None, training.read_out)

    @property
    def verdict(self) -> str:
        """The result in a few sentences with their numbers."""
        return str(self._summary["verdict"])

    @property
    def memory(self) -> pd.DataFrame:
        """The memory meter, one row a layer.

        How often a plain discriminant of each layer agrees, out of fold, with the given labels.

        Returns
        -------
        pandas.DataFrame
            `layer`; `plain`: on training inputs as they are; `perturbed`; `holdout`: on a hold-out,
            or missing; `corrected`: what is left of `perturbed` without the memory that survives.
            All from 0 to 1. Empty with ``auto=False``.
        """
        columns = ["layer", "plain", "perturbed", "holdout", "corrected"]
        meter = self._summary.get("memory") or {"layers": []}
        return pd.DataFrame(meter["layers"], columns=columns)

    def label_issues(self, *, sort: bool = False) -> pd.DataFrame:
        """Return the chosen decoder's prediction and score for every training label.

        Parameters
        ----------
        sort : bool
            Put the worst first, by quality; otherwise rows are in the data set's order.

        Returns
        -------
        pandas.DataFrame
            One row a sample; the index is the data set's in either order. See `issues.COLUMNS`:

            - `is_label_issue`: the label is probably wrong. The labels of the lowest quality are
              flagged, as many as make the expected F1 largest; none where the noise is beyond
              decoding (``summary["noise"]["hopeless"]``).
            - `label_quality`: how right the given label seems, 0 to 1. It is a score and no
              probability: middle values trust labels too much. With ``auto=False`` it is (1 +
              margin) / 2, and every contradicted label is an issue.
            - `given_label`, `predicted_label`, `second_label`: the given class, and the decoder's
              first and second choice; for an issue the first is the likeliest class but the given.
            - `margin`: the decoder's log-odds of the given label against the best other one, at
              most 700 in size; with ``auto=False`` the difference of cos²θ. Negative where the
              decoder prefers another class.
            - `confidence`: the decoder's probability of `predicted_label` (``auto=False``: cos²θ).
            - `conflicting_duplicate`: the index of another training sample with another given label
              and the same input, or (for flagged samples) nearly the same; −1 if there is none.

            With class names also `given_name`, `predicted_name` and `second_name`.
        """
        issues = with_names(self._issues(), self.summary["model"]["class_names"])
        return most_suspicious_first(issues) if sort else issues

    def confused_pairs(self) -> pd.DataFrame:
        """Return the pairs of given and predicted class of flagged samples, most frequent first.

        Returns
        -------
        pandas.DataFrame
            `given_label`, `predicted_label`, `n` (flagged samples), and `share` of the samples
            with this given label.
        """
        return confused_pairs(self._issues(), len(self._issues()))

    def pred_probs(
        self, train: Any, path: str | os.PathLike[str] | None = None
    ) -> NDArray[np.float32]:
        """Return the decoder's probabilities in the form that cleanlab takes.

        They are out-of-fold: each sample is predicted on perturbed inputs by fits that have not
        seen its label, so they do not repeat what the network memorised. After loading a run, or if
        they take more than 256 MiB, they are not kept: then they come from the decoder itself,
        which was fitted to these labels.

        Parameters
        ----------
        train : Dataset, DataLoader or pair of arrays
            The training data that were decoded.
        path : path, optional
            A ``.npy`` file to write; a memory map of it is returned. Without it the array is in
            memory, for at most 1 GiB.

        Returns
        -------
        ndarray of float32, shape (n, K)
            Rows sum to one, in the order of `label_issues`; columns are in class order.

        Raises
        ------
        AttributeError
            If the decoder has no probabilities (``auto=False``).
        DataError
            If the data are not those that were decoded, or too large to be held without `path`.
        OutputError
            If the file cannot be written; nothing is left then.
        """
        index = self._issues().index.to_numpy()
        where = None if path is None else Path(path)
        odds = None if self._odds is None else self._odds.of_classes
        return pred_probs(self.best, train, index, where, odds)

    def relabel(self, review: str | os.PathLike[str] | pd.DataFrame | None = None) -> pd.DataFrame:
        """Return cleaned labels: the decoder's where a given one is flagged and less likely.

        The decoder changes no label where nothing seems wrong
        (``summary["noise"]["nothing_wrong"]``). Where a person has looked, the person decides.

        Parameters
        ----------
        review : path or DataFrame, optional
            What a person decided: the CSV file that the report's page exports, or such a table. It
            has the columns ``index``, ``given_label``, ``decision`` and ``label``, one row a
            sample; others are ignored. The decision is

            - ``keep``: the given label stays, whatever the decoder says;
            - ``change``: it becomes the class in ``label``;
            - ``skip``: no decision, as for samples that are not in the review; the decoder's label
              or the given one is taken, as without a review.

        Returns
        -------
        pandas.DataFrame
            One row a sample, in the data set's order and with its index: `given_label`, `label`
            (the cleaned one), `confidence` (the probability that it is right, 0 to 1; with
            ``auto=False`` only a ranking; 1 where a person decided) and `changed`. With a review
            also `reviewed`: whether a person decided.

        Raises
        ------
        DataError
            If the review cannot be read, lacks a column, has an unknown index, decision or class,
            names a sample twice, or has other given labels than this run: it is then another run's.
        """
        noise = self.summary["noise"]
        nothing = noise is not None and bool(noise["nothing_wrong"])
        cleaned = relabelled(self._issues(), bool(self.summary["settings"]["auto"]), nothing)
        if review is None:
            return cleaned
        return with_review(cleaned, review, int(self.summary["model"]["n_classes"]))

    def predictions(self, x: Any) -> pd.DataFrame:
        """Return the decoder's class of each input, with its name and probability.

        Parameters
        ----------
        x : array or Tensor of inputs, Dataset, DataLoader or pair of arrays
            As `Decoder.predict` takes them.

        Returns
        -------
        pandas.DataFrame
            One row an input: `predicted_label`; with class names `predicted_name`; with the decoder
            that `decode` chooses by default `confidence`, its probability, 0 to 1. The index counts
            the inputs.

        Raises
        ------
        ModelError, DataError
            As `Decoder.predict`.
        """
        values = self.best.decision_function(x)
        found = pd.DataFrame({"predicted_label": values.argmax(1)})
        if hasattr(self.best.estimator, "predict_proba"):
            found["confidence"] = torch.softmax(torch.from_numpy(values), 1).amax(1).numpy()
        return with_names(found.rename_axis("index"), self.summary["model"]["class_names"])

    def soft_labels(self) -> NDArray[np.float32]:
        """Return the probability of each class for each training sample, given also its label.

        Bayes' rule combines the decoder's out-of-fold probabilities with the estimated noise and
        the network's margins. These are the best labels to train on with.

        Returns
        -------
        ndarray of float32, shape (n, K)
            Rows add up to 1, in the order of `relabel`.

        Raises
        ------
        DataError
            If the probabilities were not kept: after loading a run, with several processes, with
            ``auto=False``, or where they take more than 256 MiB.
        """
        if self._odds is None or self._noise is None:
            raise DataError(
                "soft_labels: the out-of-fold probabilities were not kept (after loading a run, "
                "with several processes, with auto=False, or of too many samples and classes); "
                "relabel() gives labels and confidences"
            )
        given = torch.from_numpy(self._issues()["given_label"].to_numpy(np.int64, copy=True))
        return posterior(*self._odds, given, self._noise).numpy()

    def transfer(self, weights: str | None = None, bias: str | None = None) -> nn.Module:
        """Return a copy of the model with its last linear layer rewritten and all else unchanged.

        ``summary["transfer"]`` holds what is written and why.

        Parameters
        ----------
        weights : {"logistic", "velpic", "own"}, optional
            A logistic regression of the layer's input, the class vectors of VeLPIC, or the weights
            as they are; by default what agrees best with the decoded labels, unless a
            hold-out clearly prefers another.
        bias : {"refitted", "zero", "kept"}, optional
            By default chosen as `weights` are. For ``"zero"``, a regression's bias is folded into
            its weights.

        Raises
        ------
        ModelError
            If the last layer is not linear or its input was not decoded; or if the model is missing
            or is not the one that was decoded.
        DataError
            If there is no such option for this layer.
        """
        read_out = self._read_out()
        if isinstance(read_out, str):
            raise ModelError(f"nothing can be transferred: {read_out}")
        return transfer(self.best._network(), read_out, weights, bias)
