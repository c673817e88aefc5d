"""One contender a process, so that nobody's threads, memory or warm caches are another's.

Run as ``python -m benchmarks.contenders JOB.json``: the job names a function of this module and
its arguments; the answer is one line of JSON.
"""

import json
import pickle
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from underscript.linalg.moments import statistics_for
from underscript.linalg.precision import bfloat16_pays
from underscript.probes.classifier import fit_together
from underscript.probes.subspace import MinimumAngleSubspaceClassifier as Masc
from underscript.probes.subspace import nearest_together
from underscript.utils.distributed import Processes

from . import literal
from .rows import RowSource

Result = dict[str, Any]


def engine(
    train: Result, tests: list[Result], out: str, variances: list[float], memory: int
) -> Result:
    """Fit and predict as `decode` does: statistics batch by batch, then one decomposition."""
    source = RowSource(**train)
    parts = [list(RowSource(**test).batches()) for test in tests]
    held = list(source.batches()) if source.n * source.width < 2**28 else source.batches()
    lap = Lap()
    statistics = statistics_for(source.n_classes, source.width, source.n, memory=memory)
    making = 0.0
    began = time.perf_counter()
    for rows, labels in held:
        # Of rows that are made on the way, the making does not count.
        making += time.perf_counter() - began
        statistics.update(rows, labels)
        began = time.perf_counter()
    lap("sums", less=making)
    decoders = {share: Masc(variance=share) for share in variances}
    fit_together(statistics, list(decoders.values()))
    path = statistics.path
    del statistics, held
    lap("eigenvectors")
    predictions = [
        nearest_together(decoders, rows)[variances[-1]] for part in parts for rows, _ in part
    ]
    lap("predictions")
    first = decoders[variances[-1]]
    np.save(f"{out}.predicted.npy", torch.cat(predictions).numpy())
    if source.width < 4096:
        np.save(f"{out}.basis.npy", first.bases_[0])
    return lap.result(path=path, rank=float(np.mean(first.ranks_)))


def paper(train: Result, tests: list[Result], out: str) -> Result:
    """Fit and predict by the literal procedure."""
    rows, labels = RowSource(**train).arrays()
    queries = np.concatenate([RowSource(**test).arrays()[0] for test in tests])
    lap = Lap()
    bases = literal.fit(rows, labels)
    lap("fit")
    found = literal.cosines(queries, bases)
    predicted = found.argmax(1)
    lap("predictions")
    np.save(f"{out}.predicted.npy", predicted)
    np.save(f"{out}.cosines.npy", found)
    np.save(f"{out}.basis.npy", bases[0])
    return lap.result(rank=float(np.mean([basis.shape[1] for basis in bases])))


def sklearn(train: Result, tests: list[Result], out: str) -> Result:
    """Do the same with scikit-learn's PCA of each class and its negatives."""
    from sklearn.decomposition import PCA

    rows, labels = RowSource(**train).arrays()
    queries = np.concatenate([RowSource(**test).arrays()[0] for test in tests])
    lap = Lap()
    models = []
    for k in np.unique(labels):
        own = rows[labels == k]
        model = PCA(n_components=0.99, svd_solver="covariance_eigh")
        models.append(model.fit(np.concatenate([own, -own])))
    lap("fit")
    energies = np.stack([(model.transform(queries) ** 2).sum(1) for model in models], 1)
    np.save(f"{out}.predicted.npy", energies.argmax(1))
    lap("predictions")
    return lap.result(rank=float(np.mean([model.n_components_ for model in models])))


def authors_way(checkpoint: str, both: bool, train_rows: bool) -> Result:
    """From a model to the table as the authors go: one sample at a time, everything kept."""
    from .network import PROBED, load

    net = load(checkpoint)
    lap = Lap()
    splits = {"train": net.train, "test": net.test}
    with tempfile.TemporaryDirectory() as folder:
        for split, images in splits.items():
            kept: dict[str, list[np.ndarray]] = {name: [] for name in PROBED}
            with torch.no_grad():
                for image in images:
                    value = image[None]
                    for name in PROBED:
                        value = (
                            net.model.flatten(value)
                            if name == "input"
                            else getattr(net.model, name)(value)
                        )
                        kept[name].append(value.numpy()[0])
            for name, rows in kept.items():
                with open(Path(folder, f"{split}-{name}.pickle"), "wb") as file:
                    pickle.dump(rows, file)
        del kept
        lap("activations")
        table = {}
        sets = {"corrupted": net.given, "true": net.truth} if both else {"corrupted": net.given}
        for name in PROBED:
            rows = {}
            for split in splits:
                with open(Path(folder, f"{split}-{name}.pickle"), "rb") as file:
                    rows[split] = np.array(pickle.load(file))
            for kind, labels in sets.items():
                bases = literal.fit(rows["train"], labels)
                for split in splits if train_rows else ("test",):
                    predicted = literal.cosines(rows[split], bases).argmax(1)
                    truth = net.truth if split == "train" else net.test_labels
                    table[f"{name} {kind} {split}"] = float((predicted == truth).mean())
        lap("decoding")
    return lap.result(table=table)


def our_way(checkpoint: str, both: bool, train_rows: bool) -> Result:
    """From a model to the table with `underscript.decode`, which does no more than they do."""
    import underscript as us

    from .network import PROBED, load

    net = load(checkpoint)
    lap = Lap()
    found = us.decode(
        net.model,
        (net.train, net.given),
        test=(net.test, net.test_labels),
        holdout=(net.holdout, net.holdout_given),
        layers=list(PROBED),
        true_labels=net.truth if both else None,
        controls=False,
        auto=False,
        pool="flatten",
        progress=False,
        evaluate=("train", "test") if train_rows else ("test",),
    )
    lap("decode")
    table = {}
    for row in found.table.itertuples():
        kind = "given" if row.split == "test" else "true"
        if row.probe == "masc" and row.labels == kind and row.split in ("train", "test"):
            table[f"{row.layer} {row.subspace_labels} {row.split}"] = row.accuracy
    return lap.result(table=table)


def in_a_team(train: Result, tests: list[Result], rank: int, size: int, store: str) -> Result:
    """Fit and predict with one thread a process, each with its share of the rows."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    group = None
    if size > 1:
        dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
        group = dist.group.WORLD
    processes = Processes(group)
    source = RowSource(**train)
    mine = [b for i, b in enumerate(source.batches()) if i % size == rank]
    queries = [
        b for test in tests for i, b in enumerate(RowSource(**test).batches()) if i % size == rank
    ]
    processes.gather(0)
    lap = Lap()
    statistics = statistics_for(source.n_classes, source.width, source.n)
    for rows, labels in mine:
        statistics.update(rows, labels)
    lap("sums")
    decoder = Masc()
    fit_together(statistics, [decoder], processes=processes)
    lap("eigenvectors")
    counts = torch.zeros(source.n_classes, dtype=torch.int64)
    for rows, _ in queries:
        counts += torch.bincount(decoder.nearest(rows), minlength=source.n_classes)
    counts = processes.total(counts)
    lap("predictions")
    if group is not None:
        dist.destroy_process_group()
    return lap.result(predicted=counts.tolist(), rank=float(np.mean(decoder.ranks_)))


class Lap:
    """Seconds by stage, those of all cores together, and the most memory that was ever held."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = time.perf_counter()
        self._processor = time.process_time()

    def __call__(self, stage: str, less: float = 0.0) -> None:
        """End a stage, some seconds of which do not count."""
        now = time.perf_counter()
        self.stages[stage] = now - self._last - less
        self._last = now

    def result(self, **more: Any) -> Result:
        """Return the seconds, the peak in bytes, and what else there is to say."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "seconds": sum(self.stages.values()),
            "stages": self.stages,
            "peak": peak,
            "processor": time.process_time() - self._processor,
            **more,
        }


def warm_up() -> None:
    """Load what the libraries load at their first call."""
    rows, labels = RowSource(2000, 600, 2, latent=20, decay=0.5).arrays()
    literal.cosines(rows[:200], literal.fit(rows, labels))
    Masc().fit(rows, labels).predict(rows)
    bfloat16_pays("cpu")


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    if job["arguments"].get("rank") is None:
        warm_up()
    answer = globals()[job["contender"]](**job["arguments"])
    Path(sys.argv[1]).with_suffix(".answer").write_text(json.dumps(answer))
