"""The stages of a decode and their work, for the progress bar.

The work of a stage is the multiply-adds of its largest matrix products. Other work counts as the
multiply-adds that take as long on a processor. Nothing here changes what is done.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..activations.trace import Place
from ..data.batches import Batch
from ..data.samples import named_inputs
from ..data.source import Source
from ..selection.budget import WIDEST
from ..selection.candidates import Settings
from ..selection.kept_rows import FOLDS
from ..selection.task import Task
from ..utils.progress import PRODUCTS, RUNS, Stage
from .controls import step_of

__all__ = ["Plan", "may_fit", "trial_runs"]

# Work of one random feature of one row, in multiply-adds: its cosine, and at most that of its
# direction (directions of wider rows are structured).
_COSINE, _DIRECTION = 100, 200
# A matrix factorisation takes so many times as long as its multiply-adds.
_FACTORISED = 3
# Work of comparing one score (of a candidate, class and sample) with labels; and how many
# candidates, samples and classes to add for what is done once, however few there are.
_COMPARED, _MORE = 6_000, (10, 1_000, 30)
# Ensembles are compared on at most so many samples of each kind.
_CHOOSING = 10_000
# A covariance takes at most so many rows, or so many for each column if that is more.
_ROWS, _ROWS_PER_NUMBER = 1 << 14, 8
# The read-out's regression: slowdown of its narrow products, its steps, and its most products.
_NARROW, _STEPS, _PRODUCTS = 5, 60, 1 << 31
# About how many layers an ensemble reads.
_READ = 4


def may_fit(example: Batch) -> bool:
    """Guess whether perturbed inputs keep their meaning, as images and texts do."""
    inputs = named_inputs(example).values()
    return any(value.ndim > 2 or not value.is_floating_point() for value in inputs)


def trial_runs(example: Batch, n: float) -> float:
    """Return how many network runs test a perturbation: two more an input if flips are tried.

    Parameters
    ----------
    example : Batch
        Some inputs.
    n : int
        Number of inputs that are tried.
    """
    images = any(value.ndim > 3 for value in named_inputs(example).values())
    return n * (5 if images else 3)


@dataclass(frozen=True)
class Plan:
    """The work of a decode.

    Attributes
    ----------
    task : Task
        What is decoded.
    read : list of Place
        Layers that candidates are fitted to; empty without an ensemble.
    sources : mapping of str to Source
        This process's data, by role.
    evaluate : sequence of str
        Where the table's decoders are evaluated, besides the hold-out.
    trial : float
        Runs of the network that test the perturbation.
    views : int
        Perturbed views.
    fits : bool
        Whether candidates are fitted to these views.
    read_out : bool
        Whether the network's read-out is fitted anew.
    controls : bool or "full"
        Which controls there are.
    networks : int
        The network and its checkpoints, which all run on each batch.
    """

    task: Task
    read: list[Place]
    sources: Mapping[str, Source]
    evaluate: Sequence[str]
    trial: float
    views: int
    fits: bool
    read_out: bool
    controls: bool | str
    networks: int = 1

    @property
    def line(self) -> str:
        """The work in one line, for the user."""
        lengths = {role: source.length for role, source in self.sources.items()}
        counts = {role: "" if n is None else f"{n:,}" for role, n in lengths.items()}
        layers = len(self.task.places)
        line = f"decoding {layers} layer{'s' if layers > 1 else ''} "
        if (earlier := self.networks - 1) > 0:
            line += f"(with those of {earlier} earlier checkpoint{'s' if earlier > 1 else ''}) "
        line += "of "
        line += f"{counts.pop('train') or 'so far uncounted'} samples"
        runs = [f"1 + {self.views} view{'s' if self.views > 1 else ''}"] if self.views else []
        shown = {"holdout": "hold-out"}
        parts = runs + [f"{shown.get(role, role)} {n}".strip() for role, n in counts.items()]
        return line + (f": {', '.join(parts)}" if parts else "")

    def stages(self) -> list[Stage]:
        """Return all stages, in their order."""
        task, train = self.task, self._n("train")
        stages = []
        if self.trial:
            stages.append(Stage("testing the perturbation", {RUNS: self.trial}))
        stages += self._fitted(task.places, train, self.views)
        if self.read:
            stages += self._choosing(self.read, train, self.views, self.fits, Settings())
            if self.read_out:
                stages[-1] = self._with_read_out(stages[-1])
        elif "holdout" in self.sources:
            stages.append(self._evaluated("choosing", self._n("holdout"), True))
        else:
            stages.append(Stage("choosing", {RUNS: train / 10}))  # a held-out tenth
        for role in ("holdout", "train", "test") if self.read else ("train", "test"):
            full = role == "holdout" or role in self.evaluate
            # Without an ensemble the training data are decoded only when somebody asks.
            asked = full or (role == "train" and (bool(self.read) or self.task.processes.size > 1))
            if role in self.sources and asked:
                again = role == "test" or not self.read
                stages.append(self._evaluated(f"decoding {role}", self._n(role) * full, again))
        if self.read and "candidates" in self.evaluate and "test" in self.sources:
            stages.append(self._evaluated("trying all candidates", self._n("test"), True))
        if self.controls:
            stages += self.twin([place.tap.name for place in self.read[-_READ:]])
        return stages

    def twin(self, layers: Sequence[str]) -> list[Stage]:
        """Return the stages of the random twin, read at some layers."""
        roles = [role for role in self.sources if role == "holdout" or role in self.evaluate]
        once, whole = Settings(rounds=1), self.controls == "full" or not self.read
        # The input is the same for both networks.
        places = [place for place in self.task.places if place.tap.side != "model"]
        if not whole:
            places = [place for place in places if place.tap.name in layers]
        if not places:
            return []
        if whole:
            n = self._n("train")
            stages = self._fitted(places, n, 0)
            if self.read:
                stages += self._choosing(self.read, n, 0, False, once)
            for role in roles:
                runs = role == "test" or not self.read
                stages.append(self._evaluated(f"decoding {role}", self._n(role), runs))
        else:
            n = self._n("train") / step_of(self.sources["train"])
            stages = [Stage("reading layers", {RUNS: n})]
            parts = [self._layer(place.width, n, 0, 1, once, 1) for place in places]
            stages.append(Stage.of_parts("fitting", parts))
            for role in roles:
                n = self._n(role) / step_of(self.sources[role])
                work = {RUNS: n, PRODUCTS: n * self._decode_work(places, [])}
                stages.append(Stage(f"decoding {role}", work))
        return [Stage(f"random twin: {s.name}", s.work, s.parts) for s in stages]

    def _n(self, role: str) -> float:
        return self.sources[role].share_length if role in self.sources else 0.0

    def _fitted(self, places: Sequence[Place], n: float, views: int) -> list[Stage]:
        """Return the stages of the first pass: reading, and each class's subspaces."""
        task = self.task
        kinds = len(task.subspace_labels) + (not self.read and "holdout" not in self.sources)
        work = [
            task.subspace_work(place.tap.name) for place in places if task.probed(place.tap.name)
        ]
        sums = sum(cost[0] for cost in work) * kinds / task.processes.size
        eigenvectors = [cost[1] * kinds / task.processes.size for cost in work]
        stages = [Stage("reading layers", {RUNS: n * (1 + views), PRODUCTS: sums})]
        return stages + ([Stage.of_parts("decomposing", eigenvectors)] if work else [])

    def _choosing(
        self,
        places: Sequence[Place],
        n: float,
        views: int,
        fits: bool,
        settings: Settings,
        held: float | None = None,
    ) -> list[Stage]:
        """Return the stages of a choice among candidates of some layers."""
        held = self._n("holdout") if held is None else held
        kinds, n_classes = 1 + (fits and views > 0), self.task.n_classes
        ways = len(settings.ridges) + len(settings.feature_ridges)
        candidates = len(places) * ways * kinds * settings.rounds
        samples = min(n, _CHOOSING) + min(held, _CHOOSING)
        sizes = zip((candidates, samples, n_classes), _MORE, strict=True)
        compared = _COMPARED * math.prod(size + more for size, more in sizes)
        scoring = n * max(1, views) * max(self._lifting(p.width, n, settings) for p in places)
        together = Stage("choosing an ensemble", {PRODUCTS: compared + scoring})
        parts = [self._layer(place.width, n, views, kinds, settings) for place in places]
        stages = [Stage.of_parts("choosing by layer", parts), together]
        if held:
            stages.insert(0, Stage("reading the hold-out", {RUNS: held * (1 + (views > 0))}))
        return stages

    def _layer(
        self,
        width: int,
        n: float,
        views: int,
        kinds: int,
        settings: Settings,
        fits: int = FOLDS + 1,
    ) -> float:
        """Return the multiply-adds of a layer's candidates, each fitted `fits` times."""
        n_classes = self.task.n_classes
        features = self._features(n, settings)
        total = 0.0
        for columns, ridges, lifted in (
            (width, settings.ridges, False),
            (features, settings.feature_ridges, True),
        ):
            if not lifted and width > WIDEST:
                continue
            most = max(_ROWS, _ROWS_PER_NUMBER * columns)
            counted = min(n, most) + (kinds > 1) * min(n * views, most)
            made = fits * kinds * len(ridges)
            total += counted * columns**2 / 2 + _FACTORISED * made * columns**3 / 6
            total += settings.rounds * made * n_classes * columns * (columns + 2 * n)
            if lifted:
                # With many samples one view is enough.
                moved = views if math.isnan(n) else min(views, math.ceil(most / max(1.0, n)))
                total += n * (1 + moved) * self._lifting(width, n, settings)
        return total

    def _lifting(self, width: float, n: float, settings: Settings) -> float:
        """Return the multiply-adds of the random features of one row."""
        return self._features(n, settings) * (_COSINE + min(width, _DIRECTION))

    def _features(self, n: float, settings: Settings) -> float:
        return settings.features if math.isnan(n) else min(settings.features, n // 2 + 1)

    def _decode_work(self, read: Sequence[Place], probed: Sequence[Place]) -> float:
        """Return the multiply-adds to decode one sample, by ensembles and subspaces."""
        n = self._n("train")
        # The ensemble of each layer, and the one of several layers.
        every = [*read, *(read[-_READ:] if len(read) > 1 else [])]
        lifted = sum(self._lifting(place.width, n, Settings()) for place in every)
        task = self.task
        subspaces = sum(
            task.subspace_work(place.tap.name)[2] / max(1.0, n * task.processes.size)
            for place in probed
            if task.probed(place.tap.name)
        )
        return lifted + subspaces

    def _evaluated(self, name: str, n: float, runs: bool) -> Stage:
        """Return the stage of a pass over n samples; `runs`: whether the network runs."""
        products = n * self._decode_work(self.read, self.task.places) if n else 0.0
        return Stage(name, {RUNS: n, PRODUCTS: products} if runs else {PRODUCTS: products})

    def _with_read_out(self, stage: Stage) -> Stage:
        """Return the stage that chooses an ensemble, with the work of fitting a read-out added."""
        rows = self._n("train") * (1 + self.views * self.fits)
        width = max((place.width for place in self.read[-1:]), default=0)
        work = 2 * _NARROW * _STEPS * min(rows * width * self.task.n_classes, _PRODUCTS)
        return Stage(stage.name, {PRODUCTS: stage.work[PRODUCTS] + work})
