"""What a decode does, stage by stage, and how much work that is: for `_progress`.

Multiply-adds are counted as the largest products of each stage have them. What is not a product is
counted as the multiply-adds that take as long on a processor. Nothing here changes what is done.
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

# Multiply-adds that take as long as one random feature of one row: its cosine, and its direction
# up to where directions of wider rows are structured.
_COSINE, _DIRECTION = 100, 200
# A factorisation of a matrix takes as long as so many times its own multiply-adds.
_FACTORISED = 3
# As long as comparing one candidate's score of one class of one sample with labels, and how many
# candidates, samples and classes more there seem to be: what is done once however few there are.
_COMPARED, _MORE = 6_000, (10, 1_000, 30)
# Samples that ensembles are compared on, at most, of each kind.
_CHOOSING = 10_000
# Rows that a covariance is of: so many, and so many for each column.
_ROWS, _ROWS_PER_NUMBER = 1 << 14, 8
# As long as one step of the read-out's regression, over its own, and its steps and products.
_NARROW, _STEPS, _PRODUCTS = 5, 60, 1 << 31
# Layers that an ensemble reads, about.
_READ = 4


def may_fit(example: Batch) -> bool:
    """Guess whether perturbed inputs mean the same, as those of images and words do."""
    inputs = named_inputs(example).values()
    return any(value.ndim > 2 or not value.is_floating_point() for value in inputs)


def trial_runs(example: Batch, n: float) -> float:
    """Return how often the network runs to test a perturbation: twice more where flips are tried.

    Parameters
    ----------
    example : Batch
        Some inputs.
    n : int
        So many are tried.
    """
    images = any(value.ndim > 3 for value in named_inputs(example).values())
    return n * (5 if images else 3)


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes
    ----------
    task : Task
        What is decoded.
    read : list of Place
        Layers that candidates are fitted to; none where nothing chooses itself.
    sources : mapping of str to Source
        This process's data, by role.
    evaluate : sequence of str
        Where the table's decoders are tried, beside the hold-out.
    trial : float
        Runs of the network that test the perturbation.
    views : int
        Perturbed views.
    fits : bool
        Whether they are fitted to.
    read_out : bool
        Whether the network's read-out is fitted anew.
    controls : bool or "full"
        Which controls there are.
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

    @property
    def line(self) -> str:
        """What is to be done, in a line."""
        lengths = {role: source.length for role, source in self.sources.items()}
        said = {role: "" if n is None else f"{n:,}" for role, n in lengths.items()}
        layers = len(self.task.places)
        line = f"decoding {layers} layer{'s' if layers > 1 else ''} of "
        line += f"{said.pop('train') or 'so far uncounted'} samples"
        runs = [f"1 + {self.views} view{'s' if self.views > 1 else ''}"] if self.views else []
        shown = {"holdout": "hold-out"}
        parts = runs + [f"{shown.get(role, role)} {n}".strip() for role, n in said.items()]
        return line + (f": {', '.join(parts)}" if parts else "")

    def stages(self) -> list[Stage]:
        """Return all stages, in their order."""
        task, train = self.task, self._n("train")
        found = []
        if self.trial:
            found.append(Stage("testing the perturbation", {RUNS: self.trial}))
        found += self._fitted(task.places, train, self.views)
        if self.read:
            found += self._choosing(self.read, train, self.views, self.fits, Settings())
            if self.read_out:
                found[-1] = self._with_read_out(found[-1])
        elif "holdout" in self.sources:
            found.append(self._tried("choosing", self._n("holdout"), True))
        else:
            found.append(Stage("choosing", {RUNS: train / 10}))  # a held-out tenth
        for role in ("holdout", "train", "test") if self.read else ("train", "test"):
            full = role == "holdout" or role in self.evaluate
            # Without an ensemble training data wait until somebody asks for them.
            asked = full or (role == "train" and (bool(self.read) or self.task.processes.size > 1))
            if role in self.sources and asked:
                again = role == "test" or not self.read
                found.append(self._tried(f"decoding {role}", self._n(role) * full, again))
        if self.read and "candidates" in self.evaluate and "test" in self.sources:
            found.append(self._tried("trying all candidates", self._n("test"), True))
        if self.controls:
            found += self.twin([place.tap.name for place in self.read[-_READ:]])
        return found

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
            found = self._fitted(places, n, 0)
            if self.read:
                found += self._choosing(self.read, n, 0, False, once)
            for role in roles:
                runs = role == "test" or not self.read
                found.append(self._tried(f"decoding {role}", self._n(role), runs))
        else:
            n = self._n("train") / step_of(self.sources["train"])
            found = [Stage("reading layers", {RUNS: n})]
            parts = [self._layer(place.width, n, 0, 1, once, 1) for place in places]
            found.append(Stage.of_parts("fitting", parts))
            for role in roles:
                n = self._n(role) / step_of(self.sources[role])
                work = {RUNS: n, PRODUCTS: n * self._answering(places, [])}
                found.append(Stage(f"decoding {role}", work))
        return [Stage(f"random twin: {s.name}", s.work, s.parts) for s in found]

    def _n(self, role: str) -> float:
        return self.sources[role].share_length if role in self.sources else 0.0

    def _fitted(self, places: Sequence[Place], n: float, views: int) -> list[Stage]:
        """Return the stages of the first pass: reading, and each class's subspaces."""
        task = self.task
        kinds = len(task.subspace_labels) + (not self.read and "holdout" not in self.sources)
        work = [
            task.subspace_work(place.tap.name) for place in places if task.probed(place.tap.name)
        ]
        sums = sum(each[0] for each in work) * kinds / task.processes.size
        eigenvectors = [each[1] * kinds / task.processes.size for each in work]
        found = [Stage("reading layers", {RUNS: n * (1 + views), PRODUCTS: sums})]
        return found + ([Stage.of_parts("decomposing", eigenvectors)] if work else [])

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
        said = n * max(1, views) * max(self._lifting(p.width, n, settings) for p in places)
        together = Stage("choosing an ensemble", {PRODUCTS: compared + said})
        parts = [self._layer(place.width, n, views, kinds, settings) for place in places]
        found = [Stage.of_parts("choosing by layer", parts), together]
        if held:
            found.insert(0, Stage("reading the hold-out", {RUNS: held * (1 + (views > 0))}))
        return found

    def _layer(
        self,
        width: int,
        n: float,
        views: int,
        kinds: int,
        settings: Settings,
        fits: int = FOLDS + 1,
    ) -> float:
        """Return the multiply-adds of a layer's candidates: of so many fits of each."""
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
                # Of many samples one view counts.
                moved = views if math.isnan(n) else min(views, math.ceil(most / max(1.0, n)))
                total += n * (1 + moved) * self._lifting(width, n, settings)
        return total

    def _lifting(self, width: float, n: float, settings: Settings) -> float:
        """Return the multiply-adds of the random features of one row."""
        return self._features(n, settings) * (_COSINE + min(width, _DIRECTION))

    def _features(self, n: float, settings: Settings) -> float:
        return settings.features if math.isnan(n) else min(settings.features, n // 2 + 1)

    def _answering(self, read: Sequence[Place], probed: Sequence[Place]) -> float:
        """Return the multiply-adds that one sample takes to decode, by ensembles and subspaces."""
        n = self._n("train")
        # Each layer's ensemble, and that of several layers.
        every = [*read, *(read[-_READ:] if len(read) > 1 else [])]
        lifted = sum(self._lifting(place.width, n, Settings()) for place in every)
        task = self.task
        subspaces = sum(
            task.subspace_work(place.tap.name)[2] / max(1.0, n * task.processes.size)
            for place in probed
            if task.probed(place.tap.name)
        )
        return lifted + subspaces

    def _tried(self, name: str, n: float, runs: bool) -> Stage:
        """Return a pass over n samples, for which the network runs or not."""
        products = n * self._answering(self.read, self.task.places) if n else 0.0
        return Stage(name, {RUNS: n, PRODUCTS: products} if runs else {PRODUCTS: products})

    def _with_read_out(self, stage: Stage) -> Stage:
        """Return the choice of an ensemble, and then of the read-out that is written to it."""
        rows = self._n("train") * (1 + self.views * self.fits)
        width = max((place.width for place in self.read[-1:]), default=0)
        work = 2 * _NARROW * _STEPS * min(rows * width * self.task.n_classes, _PRODUCTS)
        return Stage(stage.name, {PRODUCTS: stage.work[PRODUCTS] + work})
