"""Run several jobs at once, one thread each: LAPACK gains little from more threads."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_limits

# Python's `map`, or one that runs in several threads.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@contextmanager
def side_by_side(jobs: int) -> Iterator[Map]:
    """Give a `map` whose calls run in parallel, in at most as many threads as torch uses.

    Parameters
    ----------
    jobs : int
        How many calls there will be; for one call, or one thread, it is Python's own `map`.
    """
    threads = torch.get_num_threads()
    if min(jobs, threads) < 2:
        yield map
        return
    # New threads inherit torch's setting; numpy's and scipy's libraries have their own.
    try:
        torch.set_num_threads(1)
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(min(jobs, threads)) as pool,
        ):
            yield pool.map
    finally:
        torch.set_num_threads(threads)
