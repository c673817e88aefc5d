"""Share one decoding among processes, with plain `torch.distributed`.

The processes divide the data and add up their sums; each class is decomposed by its owner.
Without a process group everything here does nothing, so one process runs the same pipeline.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import DistributedError, UnderscriptError

T = TypeVar("T")


class Processes:
    """One process and the others that share the work.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        The process group; without it this process works alone.
    device : torch.device
        Where tensors travel: CUDA for NCCL, the CPU for gloo.
    """

    def __init__(self, group: Any = None, device: torch.device | str = "cpu"):
        self.group, self.device = group, torch.device(device)
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' tensors (one shape and dtype), on its own device."""
        if self.size == 1:
            return values
        sent = values.to(self.device, copy=True)
        with _peer_errors_named("adding up"):
            dist.all_reduce(sent, group=self.group)
        return sent.to(values.device)

    def scattered_sum(self, values: Sequence[Tensor | None]) -> Tensor | None:
        """Return, in process r, the sum of all processes' ``values[r]``; values are not changed.

        ``values[r]`` has the same shape in all processes, or is None in all.
        """
        own = values[self.rank] if self.rank < len(values) else None
        if self.size == 1:
            return own
        others = [rank for rank in range(self.size) if rank != self.rank]
        sent = {r: values[r] for r in others if r < len(values)}
        moves = [
            dist.P2POp(dist.isend, part.to(self.device), self._global(rank), self.group)
            for rank, part in sent.items()
            if part is not None
        ]
        got = [] if own is None else [torch.empty_like(own, device=self.device) for _ in others]
        moves += [
            dist.P2POp(dist.irecv, part, self._global(rank), self.group)
            for rank, part in zip(others, got, strict=False)
        ]
        with _peer_errors_named("adding up"):
            for move in dist.batch_isend_irecv(moves) if moves else []:
                move.wait()
        if own is None:
            return None
        total = got[0]
        for part in got[1:]:
            total += part
        return total.to(own.device).add_(own)

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in the order of ranks; for small objects only."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _peer_errors_named("gathering"):
            dist.all_gather_object(values, value, group=self.group)
        return values

    def share(self, tensors: Sequence[Tensor] | None, owner: int) -> list[Tensor]:
        """Return the owner's tensors in every process; the other processes pass None."""
        if self.size == 1:
            assert tensors is not None
            return list(tensors)
        is_owner = self.rank == owner
        shapes: list[Any] = [
            [(tuple(t.shape), t.dtype) for t in tensors]
            if is_owner and tensors is not None
            else None
        ]
        with _peer_errors_named("sharing a class's subspace"):
            dist.broadcast_object_list(shapes, self._global(owner), group=self.group)
            given = list(tensors) if is_owner and tensors is not None else []
            sent = [t.to(self.device).contiguous() for t in given] or [
                torch.empty(shape, dtype=dtype, device=self.device) for shape, dtype in shapes[0]
            ]
            for tensor in sent:
                if tensor.numel():
                    dist.broadcast(tensor, self._global(owner), group=self.group)
        return given or sent

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Send ``parts[r]`` (n_r, …) to process r, and return what each process sent here."""
        if self.size == 1:
            return list(parts)
        rows = self.gather([len(part) for part in parts])
        sent = torch.cat([part.to(self.device) for part in parts])
        counts = [rows[r][self.rank] for r in range(self.size)]
        got = torch.empty(sum(counts), *sent.shape[1:], dtype=sent.dtype, device=self.device)
        with _peer_errors_named("exchanging rows"):
            dist.all_to_all_single(
                got, sent, counts, [len(part) for part in parts], group=self.group
            )
        return list(torch.split(got, counts))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block without communication; if it fails in one process, it fails in all.

        Raises
        ------
        UnderscriptError
            In every process: the error of the first process that failed.
        """
        if self.size == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except DistributedError:
            raise
        except Exception as raised:
            failure = raised
        # Our own errors are raised again in every process; others only say where they happened.
        report: Any = None
        if failure is not None:
            ours = isinstance(failure, UnderscriptError)
            report = (
                (type(failure), str(failure))
                if ours
                else (DistributedError, _unforeseen(failure, self.rank))
            )
        errors = self.gather(report)
        if failure is not None:
            raise failure
        for error in errors:
            if error is not None:
                raise error[0](error[1])

    def _global(self, rank: int) -> int:
        return int(dist.get_global_rank(self.group, rank))


def _unforeseen(error: Exception, rank: int) -> str:
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"process {rank} failed: {type(error).__name__}: {reason}"


@contextmanager
def _peer_errors_named(what: str) -> Iterator[None]:
    """Turn torch's error into one line that says that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        # Gloo's messages begin with a source file and end with advice.
        reason = (str(error).strip().splitlines() or [""])[0].rsplit("] ", 1)[-1].split(". ")[0]
        raise DistributedError(
            f"{what}: another process stopped or cannot be reached ({reason}); "
            "see its own message, and start all of them again"
        ) from error


@contextmanager
def joined(device: str | None) -> Iterator[tuple[Processes, str | None]]:
    """Join the processes that ``torchrun`` started, if any, and leave them at the end.

    Parameters
    ----------
    device : str, optional
        What the user asked for; ``"cuda"`` becomes this process's own GPU.

    Yields
    ------
    Processes
        All processes; without ``torchrun``, this one alone.
    str or None
        The device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE, device
        return
    cuda = device is not None and torch.device(device).type == "cuda"
    if device is not None and cuda:
        if torch.device(device).index is None:
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    with _peer_errors_named("joining"):
        # Long timeout: processes wait for the slowest. A dead one is noticed by its closed
        # connections.
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(days=1))
    yield Processes(dist.group.WORLD, device if device and cuda else "cpu"), device
    # Not after an error: the other processes may be gone.
    dist.destroy_process_group()


ALONE = Processes()
