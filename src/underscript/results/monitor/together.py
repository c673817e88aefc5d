"""Several processes that train one network: process 0 reads it and keeps the records of all."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ...activations.given_model import as_module
from ...errors import DataError, ModelError
from ...utils.distributed import ALONE, Processes
from .samples import SampleRecords

__all__ = ["gather_epoch", "processes_of", "unwrapped"]

_SHARDED = ("FullyShardedDataParallel", "DeepSpeedEngine")


def processes_of(group: Any) -> Processes:
    """Return the processes of a group; of `"all"`, those of torch.distributed if it is running.

    Raises
    ------
    DataError
        If the group is none, or this process is not in it.
    """
    running = dist.is_available() and dist.is_initialized()
    if group is None or (group == "all" and not running):
        return ALONE
    if not running or (isinstance(group, str) and group != "all"):
        raise DataError(
            f"group: expected all, None or a process group of torch.distributed; found {group!r}"
        )
    group = dist.group.WORLD if isinstance(group, str) else group
    size = dist.get_world_size(group)
    if size < 1:
        raise DataError("group: expected a group that this process is in; found another")
    if size == 1:
        return ALONE
    # Such as "cpu:gloo,cuda:nccl".
    if "cpu:" in dist.get_backend_config(group):
        return Processes(group, "cpu")
    return Processes(group, torch.device("cuda", torch.cuda.current_device()))


def unwrapped(model: Any) -> nn.Module:
    """Return the network itself, without wrappers of torch.compile and of data parallel training.

    A wrapper would talk to the other processes, which do not run the network at that time.

    Raises
    ------
    ModelError
        If it is no network, or this process does not have all of its weights.
    """
    network = as_module(model)
    while isinstance(network, nn.parallel.DistributedDataParallel):
        network = as_module(network.module)
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ModelError(
            "end_epoch: expected a network with weights; found some on the device meta, which have "
            "no values"
        )
    kinds = {type(module).__name__ for module in network.modules()}
    kinds |= {type(parameter).__name__ for parameter in network.parameters()}
    if cut := kinds & {*_SHARDED, "DTensor"}:
        raise ModelError(
            "end_epoch: expected a network whose weights are whole in each process; found "
            f"{', '.join(sorted(cut))}, which cuts them into parts. Give a network with whole "
            "weights (summon_full_params, full_tensor), or a copy that has them"
        )
    return network


def gather_epoch(records: SampleRecords, processes: Processes) -> None:
    """Bring the epoch that runs in all processes to process 0; the others forget it.

    A sample that several processes have seen counts as in the latest of their calls of `update`, of
    equal ones in that of the last process: as if one process had been given all first batches, then
    all second ones, and so on.

    Raises
    ------
    DataError
        In all processes, if their networks have different numbers of classes.
    """
    facts: list[Any] = processes.gather((records.n_classes, dict(records.notes)))
    classes = {k for k, _ in facts if k}
    if len(classes) > 1:
        raise DataError(
            "update: expected logits of as many classes in all processes; found "
            f"{' and '.join(map(str, sorted(classes)))}"
        )
    if not classes:
        return
    for _, notes in facts:
        for kind, message in notes.items():
            records.notes.setdefault(kind, message)
    gathered = {}
    # With the notes of all, all processes keep the same parts.
    for name, part in records.running_epoch(classes.pop()).items():
        nothing = [part[:0]] * (processes.size - 1)
        gathered[name] = processes.exchange([part, *nothing])
    if processes.rank:
        records.forget_epoch()
        return
    for rank in range(1, processes.size):
        records.merge({name: parts[rank].cpu() for name, parts in gathered.items()})
