"""``make bench``: seconds, ratios, the floor, memory and agreement, side by side in one run.

``python -m benchmarks [CASE …] [--small] [--json FILE]``; without a case, all of them. Contenders
of a case run one after the other, each in a process of its own.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import machine, network
from .rows import RowSource

Result = dict[str, Any]
Line = dict[str, str]

logger = logging.getLogger("benchmarks")

# Ranks at a variance share of 0.99 near 1,400 and near 100, of a width of 2,048.
MANY = RowSource(60_000, 2048, 10, latent=700, decay=0.4)
FEW = RowSource(60_000, 2048, 10, latent=100, decay=0.95, bias=0.35)
TEST = 10_000


class Bench:
    """Runs contenders in a folder of its own, and measures the machine once."""

    def __init__(self, folder: Path, small: bool):
        self.folder, self.small = folder, small
        self._rates: dict[torch.dtype, float] = {}
        self._number = 0

    def sized(self, source: RowSource) -> RowSource:
        """Return the source, or one of a size for trying the benchmark out."""
        if not self.small:
            return source
        n, width = max(400, source.n // 100), max(32, source.width // 16)
        return replace(source, n=n, width=width, latent=max(8, source.latent // 8))

    def start(self, contender: str, **arguments: Any) -> "Running":
        """Start a contender in a process of its own."""
        self._number += 1
        job = self.folder / f"{self._number}.json"
        job.write_text(json.dumps({"contender": contender, "arguments": arguments}))
        logger.info("%s …", contender)
        command = [sys.executable, "-m", "benchmarks.contenders", str(job)]
        return Running(subprocess.Popen(command), job)

    def run(self, contender: str, **arguments: Any) -> Result:
        """Run a contender to its end."""
        return self.start(contender, **arguments).result()

    def out(self, name: str) -> str:
        """Return where a contender leaves its arrays."""
        return str(self.folder / name)

    def rate(self, dtype: torch.dtype) -> float:
        """Return multiply-adds a second."""
        if dtype not in self._rates:
            self._rates[dtype] = machine.product_rate(dtype, 256 if self.small else 2048)
        return self._rates[dtype]


class Running:
    """A contender at work."""

    def __init__(self, process: "subprocess.Popen[bytes]", job: Path):
        self.process, self.job = process, job

    def result(self) -> Result:
        """Wait for it, and return what it measured."""
        if self.process.wait():
            raise SystemExit(f"the contender of {self.job} failed; its message is above")
        found: Result = json.loads(self.job.with_suffix(".answer").read_text())
        return found


def layer(bench: Bench, source: RowSource) -> list[Line]:
    """Read one layer: fit, then predict test and training rows."""
    source = bench.sized(source)
    tests = [asdict(replace(source, n=max(100, source.n // 6), part=1)), asdict(source)]
    jobs = {"train": asdict(source), "tests": tests}
    ours = bench.run("engine", **jobs, out=bench.out("ours"), variances=[0.99], memory=4 << 30)
    shares = [0.25, 0.5, 0.75, 0.9, 0.99]
    five = bench.run("engine", **jobs, out=bench.out("five"), variances=shares, memory=4 << 30)
    skl = bench.run("sklearn", **jobs, out=bench.out("sklearn"))
    paper = bench.run("paper", **jobs, out=bench.out("paper"))
    n_rows = sum(test["n"] for test in tests)
    floor = _floor(bench, source, n_rows, ours["rank"])
    agreement = _agreement(bench, "ours")
    error = _projector_error(bench)
    case = f"{source.n:,} × {source.width:,}, ranks near {ours['rank']:,.0f}"

    def line(who: str, found: Result, note: str = "") -> Line:
        return {
            "case": case,
            "contender": who,
            "seconds": f"{found['seconds']:.2f} ({_stages(found)})",
            "× literal": f"{paper['seconds'] / found['seconds']:.1f}",
            "of the floor": f"{floor / found['seconds']:.0%}",
            "peak": _size(found["peak"]),
            "agreement": note,
        }

    paper_line = line("literal", paper)
    return [
        line("underscript", ours, f"{agreement}; projector error {error}"),
        line(
            "underscript, five variance shares",
            five,
            f"{_agreement(bench, 'five')}; "
            f"{five['seconds'] / ours['seconds']:.2f} × the time of one",
        ),
        line("scikit-learn (PCA a class)", skl, _agreement(bench, "sklearn")),
        paper_line,
        {
            **dict.fromkeys(paper_line, ""),
            "case": case,
            "contender": "float32 sums, if we took them",
            "agreement": f"projector error {_float32_error(source)}",
        },
    ]


def end_to_end(bench: Bench) -> list[Line]:
    """Go from a model to its table, for what a user needs and for what the paper prints."""
    checkpoint = network.prepare()
    lines = []
    for both, case in (
        (False, "MLP on MNIST, test rows, one kind of subspaces"),
        (True, "MLP on MNIST, test and training rows, both kinds"),
    ):
        options = {"checkpoint": checkpoint, "both": both, "train_rows": both}
        ours = bench.run("our_way", **options)
        theirs = bench.run("authors_way", **options)
        apart = max(abs(theirs["table"][key] - ours["table"][key]) for key in theirs["table"])
        for who, found in (("underscript", ours), ("the authors' way", theirs)):
            lines.append(
                {
                    "case": case,
                    "contender": who,
                    "seconds": f"{found['seconds']:.1f} ({_stages(found)}; "
                    f"of all cores {found['processor']:.0f})",
                    "× literal": f"{theirs['seconds'] / found['seconds']:.1f}",
                    "of the floor": "",
                    "peak": _size(found["peak"]),
                    "agreement": f"{len(found['table'])} accuracies, at most {apart:.2%} apart"
                    if found is ours
                    else "",
                }
            )
    return lines


def wide(bench: Bench) -> list[Line]:
    """Read a layer wider than its classes are large; the literal way cannot hold it."""
    source = bench.sized(RowSource(50_000, 16_384, 10, latent=2000, decay=0.3))
    return [_alone(bench, source, 1 << 30)]


def many_classes(bench: Bench) -> list[Line]:
    """Read a thousand classes at three sizes: memory within bounds, time linear in n."""
    lines = []
    for n in (50_000, 100_000, 200_000):
        source = bench.sized(RowSource(n, 2048, 1000, latent=400, decay=0.5))
        lines.append(_alone(bench, source, 2 << 30))
    return lines


def processes(bench: Bench) -> list[Line]:
    """Run one process with one thread against two."""
    source = bench.sized(MANY)
    tests = [asdict(replace(source, n=max(100, source.n // 6), part=1)), asdict(source)]
    lines = []
    alone = None
    for size in (1, 2):
        store = bench.out(f"store-{size}")
        running = [
            bench.start(
                "in_a_team", train=asdict(source), tests=tests, rank=rank, size=size, store=store
            )
            for rank in range(size)
        ]
        found = max((each.result() for each in running), key=lambda each: each["seconds"])
        alone = found if alone is None else alone
        same = found["predicted"] == alone["predicted"]
        lines.append(
            {
                "case": f"{source.n:,} × {source.width:,}, one thread a process",
                "contender": f"underscript, {size} process{'es' if size > 1 else ''}",
                "seconds": f"{found['seconds']:.2f} ({_stages(found)})",
                "× literal": "",
                "of the floor": "",
                "peak": _size(found["peak"]),
                "agreement": f"{alone['seconds'] / found['seconds']:.2f} × one process; "
                f"predictions {'equal' if same else 'DIFFER'}",
            }
        )
    return lines


CASES: dict[str, Callable[[Bench], list[Line]]] = {
    "many-directions": lambda bench: layer(bench, MANY),
    "few-directions": lambda bench: layer(bench, FEW),
    "end-to-end": end_to_end,
    "wide": wide,
    "many-classes": many_classes,
    "processes": processes,
}


def _alone(bench: Bench, source: RowSource, memory: int) -> Line:
    tests = [asdict(replace(source, n=max(100, 10_000 if not bench.small else 100), part=1))]
    found = bench.run(
        "engine",
        train=asdict(source),
        tests=tests,
        out=bench.out("alone"),
        variances=[0.99],
        memory=memory,
    )
    return {
        "case": f"{source.n:,} × {source.width:,}, {source.n_classes:,} classes, "
        f"ranks near {found['rank']:,.0f}",
        "contender": f"underscript ({found['path']}, --memory {memory >> 30}GiB)",
        "seconds": f"{found['seconds']:.1f} ({_stages(found)})",
        "× literal": "",
        "of the floor": "",
        "peak": _size(found["peak"]),
        "agreement": "",
    }


def _floor(bench: Bench, source: RowSource, n_rows: int, rank: float) -> float:
    """Return the seconds below which float32 and LAPACK cannot go (see docs/engine.md)."""
    sums = source.n * source.width**2 / 2
    columns = min(rank, source.width - rank)
    predictions = n_rows * source.width * source.n_classes * columns
    rows = torch.from_numpy(replace(source, n=source.n // source.n_classes).arrays()[0])
    second = rows.T @ rows
    eigen = source.n_classes * machine.eigen_seconds(second)
    return (sums + predictions) / bench.rate(torch.float32) + eigen


def _agreement(bench: Bench, name: str) -> str:
    """Return the share of rows on which a contender and the literal way agree, ties aside."""
    cosines = np.load(bench.out("paper") + ".cosines.npy") ** 2
    best = np.sort(cosines, 1)
    clear = best[:, -1] - best[:, -2] > 1e-6
    predicted = np.load(bench.out(name) + ".predicted.npy")
    return f"{(predicted == cosines.argmax(1))[clear].mean():.3%} of {clear.mean():.2%}"


def _projector_error(bench: Bench) -> str:
    """Return ‖P − P̂‖₂ of the first class, float64 against ours."""
    literal = np.load(bench.out("paper") + ".basis.npy")
    ours = np.load(bench.out("ours") + ".basis.npy").astype(np.float64)
    if literal.shape != ours.shape:
        return f"ranks {ours.shape[1]} and {literal.shape[1]}"
    apart = ours - literal @ (literal.T @ ours)
    return f"{np.sqrt(np.linalg.eigvalsh(apart.T @ apart)[-1]):.0e}"


def _float32_error(source: RowSource) -> str:
    """Return ‖P − P̂‖₂ of the first class if its second moment were added up in float32."""
    rows, labels = source.arrays()
    own = torch.from_numpy(rows[labels == 0])
    double, single = (
        torch.linalg.eigh(second.double())
        for second in (own.double().T @ own.double(), own.T @ own)
    )
    shares = double.eigenvalues.flip(0).cumsum(0) / double.eigenvalues.sum()
    rank = int((shares <= 0.99).sum()) + 1
    exact, rough = (found.eigenvectors[:, -rank:] for found in (double, single))
    apart = rough - exact @ (exact.T @ rough)
    return f"{float(torch.linalg.matrix_norm(apart, 2)):.0e}"


def _stages(found: Result) -> str:
    return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in found["stages"].items())


def _size(peak: int) -> str:
    return f"{peak / 2**30:.1f} GiB"


def main() -> None:
    """Run the cases asked for and print their table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--small", action="store_true", help="sizes for trying the command out")
    parser.add_argument("--json", type=Path, help="also write the table there")
    given = parser.parse_args()
    unknown = [case for case in given.cases if case not in CASES]
    if unknown:
        parser.error(f"expected some of {', '.join(CASES)}; found {', '.join(unknown)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    about = machine.description()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="underscript-bench-") as folder:
        bench = Bench(Path(folder), given.small)
        for case in given.cases or CASES:
            logger.info("%s:", case)
            lines += CASES[case](bench)
        rates = {
            name: f"{2 * bench.rate(dtype) / 1e9:,.0f} GFLOP/s"
            for name, dtype in (
                ("float32", torch.float32),
                ("float64", torch.float64),
                ("bfloat16", torch.bfloat16),
            )
        }
    words = [f"{name} {value}" for name, value in {**about, **rates}.items()]
    sys.stdout.write(", ".join(words) + "\n\n" + _table(lines))
    if given.json:
        given.json.write_text(json.dumps({"machine": {**about, **rates}, "lines": lines}, indent=2))


def _table(lines: list[Line]) -> str:
    """Return a Markdown table."""
    names = list(lines[0])
    widths = [max(len(name), *(len(line[name]) for line in lines)) for name in names]
    rows = [names, ["-" * width for width in widths], *([line[n] for n in names] for line in lines)]
    padded = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join(padded) + "\n"


if __name__ == "__main__":
    main()
