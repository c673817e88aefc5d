"""What a monitor costs a training run: time as a share of an epoch, and memory.

    python -m benchmarks.overhead [CASE …] [--batches 40]

Each case runs in two processes, one after the other: a few epochs of `--batches` batches (Adam, 128
samples each) with a monitor, and the same without. Data are noise of the named size. An epoch's
time is that of a batch times the number of batches; the monitor's is `update` for so many batches
and one `end_epoch` that is not the first. Exits 1 if `residual-50k` costs more than the bar.
"""

import argparse
import json
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import underscript as us
from underscript.experiments.architectures import build
from underscript.utils.versions import peak_memory

from . import networks

BAR, BAR_BYTES = 0.05, 500_000_000
# Network, shape of a sample, and samples; the last three are small on purpose.
CASES = {
    "residual-50k": ("residual", (3, 32, 32), 50_000),
    "residual-20k": ("residual", (3, 32, 32), 20_000),
    "mlp-55k": ("mlp", (1, 28, 28), 55_000),
    "small-cnn-4k": ("small-cnn", (1, 16, 16), 4_000),
}


def _network(arch: str, shape: tuple[int, ...]) -> nn.Module:
    if arch == "small-cnn":
        return build(arch, shape, 10, 0)
    return networks.network(networks.Recipe("", "", "", 0, arch=arch))


def measure(case: str, batches: int, watched: bool) -> dict[str, float]:
    """Train for two short epochs; return seconds of an epoch and of the monitor, and peak bytes."""
    arch, shape, n = CASES[case]
    torch.manual_seed(0)
    x, y = torch.randn(n, *shape), torch.randint(0, 10, (n,))
    model = _network(arch, shape)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    monitor = us.Monitor((x, y)) if watched else None
    seconds = {"batch": 0.0, "update": 0.0, "end_epoch": 0.0}
    for epoch in range(2):
        for at in torch.randperm(n).split(128)[:batches]:
            began = time.perf_counter()
            logits = model(x[at])
            optimiser.zero_grad()
            cross_entropy(logits, y[at]).backward()
            optimiser.step()
            trained = time.perf_counter()
            if monitor is not None:
                monitor.update(logits, y[at], at)
            if epoch:
                seconds["batch"] += (trained - began) / batches
                seconds["update"] += (time.perf_counter() - trained) / batches
        began = time.perf_counter()
        if monitor is not None:
            monitor.end_epoch(model)
        seconds["end_epoch"] = time.perf_counter() - began
    return {**seconds, "bytes": float(peak_memory() or 0)}


def main() -> None:
    """Measure the cases, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[*CASES])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--one", choices=("with", "without"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.cases[0], arguments.batches, arguments.one == "with")))
        return
    missed = False
    for case in arguments.cases:
        found = {}
        for kind in ("without", "with"):
            command = [sys.executable, "-m", "benchmarks.overhead", case, "--one", kind]
            command += ["--batches", str(arguments.batches)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind] = json.loads(done.stdout.splitlines()[-1])
        steps = CASES[case][2] / 128
        epoch = found["without"]["batch"] * steps
        update, reading = found["with"]["update"] * steps, found["with"]["end_epoch"]
        more = found["with"]["bytes"] - found["without"]["bytes"]
        share = (update + reading) / epoch
        print(
            f"{case}: epoch {epoch:.1f} s; update {update / epoch:.2%}, end_epoch "
            f"{reading / epoch:.2%} ({reading:.2f} s), together {share:.2%}; "
            f"{more / 1e6:.0f} MB more",
            flush=True,
        )
        if case == "residual-50k" and (share > BAR or more > BAR_BYTES):
            print(f"  expected at most {BAR:.0%} and {BAR_BYTES / 1e6:.0f} MB")
            missed = True
    sys.exit(missed)


if __name__ == "__main__":
    main()
