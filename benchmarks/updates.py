"""What `Monitor.update` costs a batch, on one thread.

    python -m benchmarks.updates

CPU time of `SampleRecords.update`, in microseconds a batch: the best of some epochs, the first
apart, in which memory is taken; and with the share of `end_epoch`.
"""

import time

import torch

from underscript.results.monitor.samples import SampleRecords

# Samples of a batch, classes, samples of an epoch.
CASES = ((64, 10, 10_000), (128, 10, 50_000), (512, 1_000, 15_360))
_EPOCHS = 7


def cost(size: int, n_classes: int, n: int) -> tuple[float, float, float]:
    """Return microseconds a batch: in the first epoch, in the best later one, and with its end."""
    torch.manual_seed(0)
    logits = [torch.randn(size, n_classes) for _ in range(8)]
    labels = torch.randint(n_classes, (n,))
    records = SampleRecords()
    updates, wholes = [], []
    for epoch in range(1, _EPOCHS + 1):
        batches = [(at, labels[at]) for at in torch.randperm(n).split(size)]
        began = time.thread_time()
        for number, (at, given) in enumerate(batches):
            records.update(logits[number % 8][: len(at)], given, at)
        updated = time.thread_time()
        records.end_epoch(epoch)
        updates.append(1e6 * (updated - began) / len(batches))
        wholes.append(1e6 * (time.thread_time() - began) / len(batches))
    return updates[0], min(updates[1:]), min(wholes[1:])


def main() -> None:
    """Print a line for each case."""
    torch.set_num_threads(1)
    print("batch          first epoch   later   with end_epoch   (microseconds)")
    for size, n_classes, n in CASES:
        first, later, whole = cost(size, n_classes, n)
        print(f"{size:4} × {n_classes:<6} {first:12.1f} {later:8.1f} {whole:16.1f}")


if __name__ == "__main__":
    main()
