"""Several jobs at once, with one thread each: for LAPACK, which makes poor use of more."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_limits

# `map`, in this thread or in several.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@contextmanager
def side_by_side(jobs: int) -> Iterator[Map]:
    """Give a `map` whose calls run at once, as many as torch has threads and there are jobs.

    Parameters
    ----------
    jobs : int
        How many calls there will be; with one of them, or one thread, it is Python's own `map`.
    """
    threads = torch.get_num_threads()
    if min(jobs, threads) < 2:
        yield map
        return
    # New threads take over torch's number; numpy's and scipy's libraries have their own.
    try:
        torch.set_num_threads(1)
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(min(jobs, threads)) as pool,
        ):
            yield pool.map
    finally:
        torch.set_num_threads(threads)
