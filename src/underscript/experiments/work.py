"""A cell of a grid and its folder: the data, the network and the files of finished units."""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from ..errors import OutputError
from ..utils.files import write_text
from .architectures import build
from .cell_data import CellData, cell_data
from .plan import Cell, Plan

__all__ = ["DamagedError", "Work", "as_json"]


@dataclass(frozen=True)
class Work:
    """A cell of a grid in a folder."""

    plan: Plan
    cell: Cell
    out: Path
    progress: bool = False

    @property
    def folder(self) -> Path:
        """Where the cell's files are."""
        return self.out / "cells" / self.cell.name

    def of(self, cell: Cell) -> "Work":
        """Return another cell of the same grid."""
        return replace(self, cell=cell)

    def is_done(self, unit: str) -> bool:
        """Say whether a unit is finished."""
        return (self.folder / f"{unit}.json").is_file()

    def record(self, unit: str) -> dict[str, Any]:
        """Return the record that a finished unit wrote as JSON."""
        try:
            record: dict[str, Any] = json.loads((self.folder / f"{unit}.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(unit, "json", error) from error
        return record

    def table(self, unit: str) -> pd.DataFrame:
        """Return a finished unit's table."""
        try:
            return pd.read_csv(self.folder / f"{unit}.csv")
        except (OSError, ValueError) as error:
            raise self._damaged(unit, "csv", error) from error

    def _damaged(self, unit: str, kind: str, error: Exception) -> OutputError:
        return OutputError(
            f"{self.folder / unit}.{kind} is damaged ({error}); remove {unit}.json there and run "
            "the same command again"
        )

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Write a table as a CSV file, whole or not at all."""
        write_text(self.folder / name, table.to_csv(index=False))

    @functools.cached_property
    def data(self) -> CellData:
        """The data that the cell trains and tests with."""
        return cell_data(self.plan, self.cell)

    def network(self) -> nn.Module:
        """Return the cell's trained network.

        Raises
        ------
        DamagedError
            If the file cannot be read.
        """
        path = self.folder / "model.safetensors"
        model = self.untrained()
        try:
            model.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise DamagedError(self, f"{path}: {str(error).splitlines()[0]}") from error
        return model.eval().to(self.plan.device)

    def untrained(self) -> nn.Module:
        """Return the cell's network as it was before training."""
        shape = self.data.train.images.shape[1:]
        arch, width = self.plan.pair.arch, self.plan.recipe.width
        return build(arch, shape, self.data.n_classes, self.cell.seed, width)


class DamagedError(Exception):
    """The file of a trained network is damaged: train that cell again."""

    def __init__(self, work: Work, message: str):
        super().__init__(message)
        self.work = work


def as_json(record: dict[str, Any]) -> str:
    """Return a unit's record as JSON text."""
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
