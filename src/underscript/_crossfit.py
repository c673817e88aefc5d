"""The input, read in folds by discriminants that have not seen the labels of what they read."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from ._candidates import FOLDS, SOME, Candidate, Kept, View, Views, Work
from ._judges import as_one, said, spread
from .discriminant import ClassSums, Linear
from .noise import Calibration, Noise, calibrate, estimate_noise, likelihood

_STAGE = "estimating noise"


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Discriminants of the input, and for each fold those that were kept from its labels.

    A network cannot have memorised labels into its input, as it can into its layers; and what was
    kept from a sample's label cannot repeat it. So how often these agree with the given labels
    tells how noisy labels are and how right the discriminants.

    Attributes
    ----------
    work : Work
        The training data, and the covariances of what is read.
    views : tuple of View
        What is read of the input.
    fitted : list of dict of Candidate to Linear
        For each fold, what is fitted to labels of the others.
    round : int
        0: to their given labels; from then on to labels decoded in the round before.
    """

    work: Work
    views: tuple[View, ...]
    fitted: list[dict[Candidate, Linear]]
    round: int = 0

    @classmethod
    def of_input(cls, work: Work, own: Collection[str]) -> Self | None:
        """Fit to the given labels what reads no layer of `own`; None if nothing else is read."""
        views = tuple(view for view in work.centres if view.layer not in own)
        if not views:
            return None
        sums = _nothing(work, views)
        with work.task.team.together():
            for seen, labels, folds in work.views(work.train, _STAGE):
                for fold, of_fold in enumerate(sums):
                    here = folds == fold
                    for view, part in of_fold.items():
                        part.update(seen[view][here.to(seen[view].device)], labels[here])
        whole = {view: ClassSums.added([part[view] for part in sums]) for view in views}
        rest = [{view: whole[view].without(part[view]) for view in views} for part in sums]
        return cls(work, views, work.fit(0, rest))

    def again(self) -> Self:
        """Fit again, to labels that each fold's discriminants decode of the other samples."""
        work, sums, together = self.work, _nothing(self.work, self.views), self._together
        with work.task.team.together():
            for seen, _, folds in work.views(work.train, _STAGE):
                for fold, of_fold in enumerate(sums):
                    decoded = said(seen, together[fold]).cpu().masked_fill_(folds == fold, -1)
                    for view, part in of_fold.items():
                        part.update(seen[view], decoded)
        number = self.round + 1
        return type(self)(work, self.views, work.fit(number, sums), number)

    def refined(self, rounds: int) -> Self:
        """Fit again for as long as more of the given labels are predicted, or they get likelier.

        Either alone can miss that a round is better: with noise that goes to one class accuracy
        hardly shows in the agreement, and what models its noise finds labels as likely as what
        knows the classes.
        """
        best = self
        for _ in range(rounds):
            further = best.again()
            if further.agreement <= best.agreement and not further._likelier(best):
                break
            best = further
        return best

    def _likelier(self, other: Self) -> bool:
        _, given, _ = self._calibrated
        return self._likelihood - other._likelihood > 1 / len(given)

    @cached_property
    def _likelihood(self) -> float:
        return likelihood(*self._calibrated)

    @property
    def answers(self) -> list[Tensor]:
        """What all together say of the training samples, (n,) int64 for each batch."""
        return self._read[0]

    @property
    def agreement(self) -> float:
        """The share of given labels that are predicted: none was seen, so it tells accuracy."""
        return self._read[1]

    @cached_property
    def noise(self) -> Noise:
        """Estimate how noisy labels are, with the likeliest of the discriminants."""
        return estimate_noise(*self._calibrated, self.work.task.seed)

    @cached_property
    def _calibrated(self) -> tuple[Tensor, Tensor, Calibration]:
        """Scores of the likeliest discriminant, the samples' labels, and its calibration."""
        kept = Kept.joined(self._kept)
        given = kept.given
        calibrations = {each: calibrate(kept.of(each), given) for each in self.fitted[0]}
        best = max(calibrations, key=lambda each: calibrations[each].mean)
        return kept.of(best), given, calibrations[best]

    @cached_property
    def _read(self) -> tuple[list[Tensor], float]:
        found, agreed, n, together = [], 0, 0, self._together
        with self.work.task.team.together():
            for seen, labels, folds in self.work.views(self.work.train, _STAGE):
                answers = torch.empty_like(labels)
                for fold, here, rows in self._by_fold(seen, folds, torch.arange(len(labels))):
                    answers[here] = said(rows, together[fold]).cpu()
                found.append(answers)
                agreed += int((answers == labels).sum())
                n += len(labels)
        parts = self.work.task.team.gather((agreed, n))
        return found, sum(part[0] for part in parts) / sum(part[1] for part in parts)

    @cached_property
    def _kept(self) -> list[Kept]:
        """All scores of some training samples, by fold."""
        work = self.work
        steps = Kept(min(SOME, work.room(len(self.fitted[0]))), work.share)
        kept = [Kept(0, 0) for _ in self.fitted]
        with work.task.team.together():
            for seen, labels, folds in work.views(work.train, _STAGE):
                some = steps.next(len(labels))
                for fold, here, rows in self._by_fold(seen, folds, some):
                    kept[fold].add(work.scores(rows, self.fitted[fold]), labels[here])
        return [part.together(work.task) for part in kept]

    @cached_property
    def _together(self) -> list[dict[View, Linear]]:
        """For each fold what all together say of it; their scale is as its own labels tell.

        Reads the training data: find it before another pass begins.
        """
        return [
            as_one(
                tuple(linears),
                [spread(kept.of(each)) if kept.labels else 1.0 for each in linears],
                linears,
            )
            for kept, linears in zip(self._kept, self.fitted, strict=True)
        ]

    def _by_fold(
        self, seen: Views, folds: Tensor, some: Tensor
    ) -> Iterator[tuple[int, Tensor, Views]]:
        """Give some rows of a batch by fold: its number, which rows, and the rows."""
        for fold in range(len(self.fitted)):
            here = some[folds[some] == fold]
            if len(here):
                rows = {view: seen[view][here.to(seen[view].device)] for view in self.views}
                yield fold, here, rows


def _nothing(work: Work, views: Collection[View]) -> list[dict[View, ClassSums]]:
    """Return empty sums for each fold."""
    return [work.empty_sums(views) for _ in range(FOLDS)]
