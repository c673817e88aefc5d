"""Stand-ins for FiftyOne and Renumics Spotlight, which are too large to be installed for the tests.

They have what their documentation says of the parts that are used here, and refuse what it does not
name: FiftyOne 1.22 (its API reference: `fiftyone.core.dataset.Dataset`, `core.sample.Sample`,
`core.labels.Classification`) and Spotlight 1.8 (`renumics.spotlight.DataIssue`, `show`).
"""

import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import pandas as pd


@dataclass
class Classification:
    label: str | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        # FiftyOne's fields are of one type; a NumPy number is none of them.
        assert self.label is None or type(self.label) is str
        assert self.confidence is None or type(self.confidence) is float


class Sample:
    def __init__(self, filepath: str, tags: list[str] | None = None, **fields: Any):
        assert type(filepath) is str
        self.filepath = os.path.abspath(filepath)
        self.tags = list(tags or [])
        self.fields = fields
        for name, value in fields.items():
            assert name.isidentifier()
            assert name not in {"id", "filepath", "tags", "metadata", "created_at"}
            assert type(value) in {str, int, float, bool, Classification}, (name, type(value))

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


class View:
    def __init__(self, samples: Iterable[Sample]):
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Any:
        return iter(self.samples)

    def match_tags(self, tags: str) -> "View":
        return View(sample for sample in self.samples if tags in sample.tags)

    def sort_by(self, name: str, reverse: bool = False) -> "View":
        return View(sorted(self.samples, key=lambda sample: sample[name], reverse=reverse))


class FiftyOneDataset(View):
    known: dict[str, "FiftyOneDataset"]

    def __init__(self, name: str | None = None):
        super().__init__([])
        self.name = name or f"2026.01.01.00.00.{len(self.known):02d}"
        if self.name in self.known:
            raise ValueError(f"Dataset name '{self.name}' is not available")
        self.known[self.name] = self
        self.persistent = False

    def add_samples(self, samples: Iterable[Sample]) -> list[str]:
        self.samples += samples
        return [str(place) for place in range(len(self.samples))]

    def delete(self) -> None:
        del self.known[self.name]


def fiftyone() -> ModuleType:
    """Return a module in which no data set is known yet."""
    module: Any = ModuleType("fiftyone")
    module.Sample, module.Classification = Sample, Classification
    module.Dataset = type("Dataset", (FiftyOneDataset,), {"known": {}})
    module.dataset_exists = lambda name: name in module.Dataset.known
    module.launch_app = lambda dataset=None: dataset
    return module  # type: ignore[no-any-return]


Severity = Literal["low", "medium", "high"]


@dataclass
class DataIssue:
    title: str
    rows: list[int]
    severity: Severity = "medium"
    columns: list[str] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        assert type(self.title) is str
        assert type(self.description) is str
        assert all(type(row) is int for row in self.rows)
        assert self.severity in get_args(Severity)


def _show(
    dataset: pd.DataFrame,
    *,
    dtype: dict[str, Any] | None = None,
    issues: list[DataIssue] | None = None,
    no_browser: bool = False,
    wait: bool | str = "auto",
) -> None:
    assert all(type(name) is str for name in dataset.columns)
    assert set(dtype or {}) <= set(dataset.columns)
    for issue in issues or []:
        assert set(issue.rows) <= set(range(len(dataset)))
        assert set(issue.columns or []) <= set(dataset.columns)


def spotlight() -> tuple[ModuleType, ModuleType]:
    """Return the namespace `renumics` and `renumics.spotlight`."""
    above, module = ModuleType("renumics"), ModuleType("renumics.spotlight")
    parts: dict[str, Any] = {"DataIssue": DataIssue, "Image": object(), "show": _show}
    vars(module).update(parts)
    vars(above).update(spotlight=module, __path__=[])
    return above, module


def install() -> None:
    """Put in those that are not installed, for the page's examples in a process of their own."""
    if importlib.util.find_spec("fiftyone") is None:
        sys.modules["fiftyone"] = fiftyone()
    if importlib.util.find_spec("renumics") is None:
        above, module = spotlight()
        sys.modules |= {"renumics": above, "renumics.spotlight": module}
