"""A callback for skorch's nets, and a loader that says which sample is which."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from .._monitor import Monitor
from ..activations.hooks import extract_logits
from ..errors import DataError
from ..utils.device import device_of
from ..utils.extras import optional_package
from .common import any_process, check_goes_on, named_scalars

__all__ = ["IndexedLoader", "MonitorCallback"]

_skorch: Any = optional_package("skorch", "skorch", "for the callback of skorch")
optional_package("skorch.callbacks", "skorch", "for the callback of skorch")


class MonitorCallback(_skorch.callbacks.Callback):  # type: ignore[misc]
    """Watches a net of skorch while it is fitted.

    The net needs ``iterator_train=IndexedLoader``, so that each batch says which samples it holds.
    Numbers go to `net.history`, as ``monitor_network_memory`` and the like, and from there to
    skorch's own loggers; put this callback before them.

    Parameters
    ----------
    monitor : Monitor
        What watches. Its steps are the epochs in `net.history`.
    stop : bool
        Whether training stops once `monitor.stop` says that it may.
    name : str
        Begins the names of the numbers.
    """

    def __init__(self, monitor: Monitor, stop: bool = False, name: str = "monitor"):
        self.monitor, self.stop, self.name = monitor, stop, name

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Check that no epoch is counted twice.

        Raises
        ------
        DataError
            If one would be.
        """
        check_goes_on(self.monitor, len(net.history))

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Give a training batch to the monitor.

        Raises
        ------
        DataError
            If the batch does not say which samples it holds.
        """
        if not training:
            return
        if not isinstance(batch, IndexedBatch):
            raise DataError(
                "batch: expected one that says which samples it holds; found "
                f"{type(batch).__name__}. Give the net iterator_train=IndexedLoader, from "
                "underscript.adapters.skorch"
            )
        logits = extract_logits(kwargs["y_pred"], len(batch.places), "the module").detach()
        criterion = net.criterion_
        if isinstance(net, _skorch.NeuralNetClassifier) and isinstance(criterion, torch.nn.NLLLoss):
            # The module then gives probabilities, of which skorch takes the logarithm so.
            logits = torch.log(logits + torch.finfo(logits.dtype).eps)
        self.monitor.update(logits, batch[1], batch.places)

    def on_epoch_end(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """End an epoch."""
        self.monitor.end_epoch(net.module_, step=len(net.history))
        for key, value in named_scalars(self.monitor, self.name).items():
            net.history.record(key, value)
        if self.stop and any_process(self.monitor.stop is not None, device_of(net.module_)):
            raise KeyboardInterrupt  # as skorch's own callbacks stop


class IndexedBatch(list[Any]):
    """A batch ``[x, y]`` that says which samples it holds.

    Attributes
    ----------
    places : Tensor of int64, shape (n,)
        Their places in what `fit` was given.
    """

    places: Tensor


class IndexedLoader(DataLoader[Any]):
    """A loader whose batches say which samples they hold.

    It takes what `torch.utils.data.DataLoader` takes, by name. Of a part of a data set, such as
    skorch splits off for training, places are those in the whole.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        **kwargs: Any,
    ):
        collate = _CollatesPlaces(collate_fn or default_collate)
        super().__init__(_WithPlaces(dataset), collate_fn=collate, **kwargs)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch, places in super().__iter__():
            indexed = IndexedBatch(batch)
            indexed.places = places
            yield indexed


class _WithPlaces(Dataset[Any]):
    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> Any:
        return self.dataset[place], place_in_whole(self.dataset, place)


class _CollatesPlaces:
    def __init__(self, collate: Callable[[list[Any]], Any]):
        self.collate = collate

    def __call__(self, samples: list[Any]) -> tuple[Any, Tensor]:
        batch = self.collate([sample for sample, _ in samples])
        return batch, torch.tensor([place for _, place in samples])


def place_in_whole(dataset: Any, place: int) -> int:
    """Return where a sample of a part of a data set is in the whole."""
    while isinstance(dataset, Subset):
        place, dataset = int(dataset.indices[place]), dataset.dataset
    return place
