"""Data that say which sample is which."""

from typing import Any

from torch.utils.data import Dataset

from ..data.batches import INDEX_KEYS, is_mapping
from ..errors import DataError

__all__ = ["Indexed"]


class Indexed(Dataset[Any]):
    """A data set that adds each sample's number, from 0.

    A sample ``(x, y)`` becomes ``(x, y, number)``, and a dict gets the entry ``index``.

    Parameters
    ----------
    dataset : Dataset
        With a length, and samples ``(x, y)`` or dicts.

    Raises
    ------
    DataError
        If the data set has no length, or when a sample of another form is read.

    Examples
    --------
    >>> Indexed([(0.5, 1), (0.25, 0)])[1]
    (0.25, 0, 1)
    """

    def __init__(self, dataset: Any):
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"Indexed: expected a data set with a length; found {type(dataset).__name__}. Let "
                "the data themselves yield (x, y, number)"
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        sample = self.dataset[number]
        if is_mapping(sample):
            return {**sample, INDEX_KEYS[0]: number}
        if isinstance(sample, tuple | list) and len(sample) == 2:
            return (*sample, number)
        raise DataError(f"Indexed: expected samples (x, y) or dicts; found {_form(sample)}")


def _form(sample: Any) -> str:
    kind = type(sample).__name__
    return f"{kind} of {len(sample)}" if isinstance(sample, tuple | list) else kind
