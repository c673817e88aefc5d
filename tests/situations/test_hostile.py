"""The cases of `make hostile`: none is a fault, and what is a fault is found to be one."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from hostile.__main__ import cases, run
from hostile.judge import FAULT, REFUSED, RIGHT, Case, Result, judged
from underscript.errors import DataError


def refuses():
    raise DataError("x: expected a number of at least 1; found 0")


def raises():
    raise RuntimeError("shape mismatch")


def leaves():
    torch.rand(1)
    return Result()


@pytest.mark.parametrize(
    ("does", "may", "kind"),
    [
        (Result, (RIGHT,), RIGHT),
        (refuses, (REFUSED,), REFUSED),
        (refuses, (RIGHT,), FAULT),
        (Result, (REFUSED,), FAULT),
        (raises, (RIGHT, REFUSED), FAULT),
        (leaves, (RIGHT,), FAULT),
        (lambda: Result(problem="half a run is left"), (RIGHT,), FAULT),
    ],
)
def test_a_case_is_judged_by_what_it_does(does, may, kind):
    assert judged(Case("", "", does, may))[0] == kind


def test_there_are_hundreds_of_cases_each_with_its_name():
    every = cases()
    assert len(every) >= 200
    assert len({(case.group, case.name) for case in every}) == len(every)
    assert sum(case.group == "ends" for case in every) >= 50


@pytest.mark.slow
def test_no_case_is_a_fault(capsys):
    threads = torch.get_num_threads()
    try:
        number, faults = run([])
    finally:
        torch.set_num_threads(threads)
    with capsys.disabled():
        print(f"{number} cases")  # noqa: T201
    assert not faults, faults
