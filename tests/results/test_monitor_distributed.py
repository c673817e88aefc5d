"""A monitor in several processes that train one network, as `torchrun` starts them."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import models
import underscript as us
from underscript.errors import DataError, ModelError
from underscript.results.monitor.samples import SampleRecords
from underscript.results.monitor.together import processes_of, unwrapped

# With 83 samples the sampler gives one of them to both processes.
TRAINING = """
import json, sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import underscript as us

N, EPOCHS = 83, 4


def data():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, N)
    x = rng.normal(size=(N, 6)) + 3 * np.eye(3, 6)[true]
    y = np.where(rng.random(N) < 0.25, rng.integers(0, 3, N), true)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def alone(kept, folder):
    # The same batches in one process: all first ones, then all second ones.
    monitor = us.Monitor(data(), n_probe=60, keep_logits=True, folder=folder, group=None)
    for epoch in range(EPOCHS):
        parts = [torch.load(kept / f"{epoch}-{rank}.pt") for rank in range(2)]
        for pair in zip(*(part["batches"] for part in parts), strict=True):
            for batch in pair:
                monitor.update(*batch)
        model = network()
        model.load_state_dict(parts[0]["weights"])
        monitor.end_epoch(model)
    return monitor


def facts(monitor):
    parts = {name: getattr(monitor, name) for name in ("alarm", "recommended", "stop")}
    return json.dumps({
        **{name: str(part) for name, part in parts.items()},
        "history": monitor.history.to_csv(),
        "scalars": monitor.scalars(),
    })


def main():
    out = Path(sys.argv[1])
    # As with a trainer that starts its processes later.
    monitor = us.Monitor(data(), n_probe=60, keep_logits=True, folder=out / "together")
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    x, y = data()
    sampler = DistributedSampler(range(N), seed=1)
    loader = DataLoader(TensorDataset(x, y, torch.arange(N)), batch_size=10, sampler=sampler)
    model = DistributedDataParallel(network())
    optimiser = torch.optim.SGD(model.parameters(), 0.2)
    for epoch in range(EPOCHS):
        if epoch == 2:  # the job starts anew; only process 0 can see the folder
            folder = out / "together" if rank == 0 else out / "nowhere"
            monitor = us.Monitor.resume(folder, data())
        sampler.set_epoch(epoch)
        batches = []
        for inputs, labels, index in loader:
            logits = model(inputs)
            optimiser.zero_grad()
            nn.functional.cross_entropy(logits, labels).backward()
            optimiser.step()
            monitor.update(logits, labels, index)
            batches.append((logits.detach().clone(), labels, index))
        kept = {"batches": batches, "weights": model.module.state_dict()}
        torch.save(kept, out / f"{epoch}-{rank}.pt")
        monitor.end_epoch(model)
    (out / f"facts-{rank}.json").write_text(facts(monitor))
    if rank:
        try:
            monitor.label_issues()
        except us.errors.DataError as error:
            (out / "refused.txt").write_text(str(error))
    monitor.to_aum_csv(out / "aum.csv")
    # What fails in process 0 ends all, in one line.
    try:
        us.Monitor(data(), folder=out / "together")
    except us.errors.OutputError as error:
        (out / f"failed-{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_two_processes_have_what_one_with_the_same_batches_has(tmp_path, monkeypatch):
    (tmp_path / "training.py").write_text(TRAINING)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *start, "training.py", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    import training

    alone = training.alone(tmp_path, tmp_path / "alone")
    for rank in range(2):
        assert json.loads((tmp_path / f"facts-{rank}.json").read_text()) == json.loads(
            training.facts(alone)
        )
        assert "holds a monitor already" in (tmp_path / f"failed-{rank}.txt").read_text()
    assert "process 0; this is process 1" in (tmp_path / "refused.txt").read_text()
    assert not (tmp_path / "nowhere").exists()
    together = us.Monitor.resume(tmp_path / "together", training.data())
    pd.testing.assert_frame_equal(together.samples, alone.samples)
    assert len(alone.samples) == training.N
    assert (alone.samples["epochs"] == training.EPOCHS).all()
    for monitor, name in ((together, "one"), (alone, "other")):
        monitor.to_cartography_jsonl(tmp_path / name)
    for epoch in range(training.EPOCHS):
        lines = [
            sorted((tmp_path / name / f"dynamics_epoch_{epoch}.jsonl").read_text().splitlines())
            for name in ("one", "other")
        ]
        assert lines[0] == lines[1]
        assert len(lines[0]) == training.N


def batches(seed=0):
    """Return 4 calls of 2 processes: logits (10, 3), labels, indices; some of them in both."""
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    for _ in range(4):
        found = []
        for _ in range(2):
            index = rng.integers(0, 60, 10)
            found.append((rng.normal(size=(10, 3)).astype(np.float32), labels[index], index))
        yield found


def test_of_a_sample_in_two_processes_the_later_call_counts():
    alone, first, second = SampleRecords(), SampleRecords(), SampleRecords()
    for epoch in range(1, 4):
        for one, other in batches(epoch):
            for batch in (one, other):
                alone.update(*batch)
            first.update(*one)
            second.update(*other)
        for records in (first, second):
            records.count()
        first.merge(second.running_epoch(3))
        second.forget_epoch()
        first.end_epoch(epoch)
        alone.end_epoch(epoch)
    pd.testing.assert_frame_equal(first.table(), alone.table())
    assert second.table().empty


def test_a_process_without_batches_adds_nothing():
    one, none = SampleRecords(), SampleRecords()
    for first, _ in batches():
        one.update(*first)
    one.count()
    one.merge(none.running_epoch(3))
    # And the other way round, as in process 0.
    none.merge(one.running_epoch(3))
    one.end_epoch(1)
    none.end_epoch(1)
    pd.testing.assert_frame_equal(
        one.table().reset_index(drop=True), none.table().reset_index(drop=True)
    )


def test_without_torch_distributed_a_process_is_alone():
    assert processes_of("all").size == processes_of(None).size == 1
    for group in ("gloo", object()):
        with pytest.raises(DataError, match="group: expected all, None or a process group"):
            us.Monitor((np.eye(4), np.arange(4) % 2), group=group)


class FullyShardedDataParallel(nn.Module):
    """What torch calls its wrapper."""

    def __init__(self):
        super().__init__()
        self.module = models.mlp()


def test_the_network_inside_is_read_if_it_is_whole():
    network = models.mlp()
    assert unwrapped(network) is network
    # Without its constructor, which wants a process group.
    wrapper = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = network
    assert unwrapped(wrapper) is network
    with pytest.raises(ModelError, match="FullyShardedDataParallel, which cuts them"):
        unwrapped(nn.Sequential(FullyShardedDataParallel()))
    with pytest.raises(ModelError, match=r"expected a torch\.nn\.Module"):
        unwrapped(torch.zeros(2))
