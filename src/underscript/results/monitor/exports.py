"""What other tools read: the CSV of the package aum, and cartography's JSON lines."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError
from ...utils.files import write_tensors, write_text

__all__ = ["KeptLogits", "write_aum", "write_cartography"]


class KeptLogits:
    """The logits of every epoch: in a folder if there is one, else in memory."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._in_memory: dict[int, dict[str, Tensor]] = {}

    def add(
        self,
        epoch: int,
        index: NDArray[np.int64],
        labels: NDArray[np.int64],
        logits: NDArray[np.float32],
    ) -> None:
        """Keep an epoch's indices (n,), labels (n,) and logits (n, K).

        Raises
        ------
        OutputError
            If the folder cannot be written; they then are in memory.
        """
        parts = {"index": index, "labels": labels, "logits": logits}
        tensors = {name: torch.from_numpy(part) for name, part in parts.items()}
        self._in_memory[epoch] = tensors
        if self.folder is not None:
            write_tensors(self._file(self.folder, epoch), tensors)
            del self._in_memory[epoch]

    def of(self, epoch: int) -> dict[str, Tensor]:
        """Return what `add` was given.

        Raises
        ------
        DataError
            If it is missing or damaged.
        """
        if epoch in self._in_memory:
            return self._in_memory[epoch]
        if self.folder is None:
            raise DataError(f"to_cartography_jsonl: the logits of epoch {epoch} are missing")
        path = self._file(self.folder, epoch)
        try:
            return safetensors.torch.load(path.read_bytes())
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise DataError(f"{path} is missing or damaged: the logits of an epoch") from error

    @staticmethod
    def _file(folder: Path, epoch: int) -> Path:
        return folder / f"logits-{epoch:06d}.safetensors"


def write_aum(samples: pd.DataFrame, path: Path) -> None:
    """Write `sample_id` and `aum`, the largest first, as the package aum does."""
    table = samples[["index", "aum"]].rename(columns={"index": "sample_id"})
    table = table.sort_values("aum", ascending=False, kind="stable")
    write_text(path, table.to_csv(index=False))


def write_cartography(kept: KeptLogits, epochs: int, folder: Path) -> None:
    """Write `dynamics_epoch_0.jsonl`, …: a line for each sample that an epoch saw."""
    for number in range(epochs):
        parts = kept.of(number + 1)
        columns = (parts[name].tolist() for name in ("index", "labels", "logits"))
        lines = [
            json.dumps({"guid": guid, f"logits_epoch_{number}": logits, "gold": gold}) + "\n"
            for guid, gold, logits in zip(*columns, strict=True)
        ]
        write_text(folder / f"dynamics_epoch_{number}.jsonl", "".join(lines))
