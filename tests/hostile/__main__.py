"""Try all cases, print what became of them, and fail on a fault: ``make hostile``.

    python -m hostile [GROUP …] [--verbose]

in the folder of the tests, with `tests/situations` on the path.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import torch

from hostile import forms, networks, processes, settings
from hostile.judge import FAULT, REFUSED, RIGHT, TOLD, Case, judged

SOURCES: list[Callable[[], Iterator[Case]]] = [
    networks.networks,
    forms.forms,
    settings.settings,
    settings.sources,
    settings.surroundings,
    processes.streams,
    processes.arguments,
    processes.ends,
]


def cases() -> list[Case]:
    """Return all cases."""
    return [case for source in SOURCES for case in source()]


def run(groups: list[str], verbose: bool = False) -> tuple[int, list[str]]:
    """Try the cases of some groups, or all; return how many there were, and the faults."""
    torch.set_num_threads(1)
    every = [case for case in cases() if not groups or case.group in groups]
    counts: dict[str, Counter[str]] = {}
    faults = []
    for case in every:
        start = time.perf_counter()
        kind, why = judged(case)
        counts.setdefault(case.group, Counter())[kind] += 1
        if kind == FAULT:
            faults.append(f"{case.group}: {case.name}: {why}")
        if verbose or kind == FAULT:
            seconds = time.perf_counter() - start
            print(f"{kind:8} {seconds:5.1f} s  {case.group}: {case.name}: {why}", flush=True)
    kinds = (RIGHT, TOLD, REFUSED, FAULT)
    print(f"\n| group | cases | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}")
    for group, found in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        row = " | ".join(str(found[kind]) for kind in kinds)
        print(f"| {group} | {found.total()} | {row} |")
    return len(every), faults


def main() -> int:
    """Return 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    number, faults = run(options.groups, options.verbose)
    print(f"\n{number} cases, {len(faults)} faults")
    return int(bool(faults) or not number)


if __name__ == "__main__":
    sys.exit(main())
