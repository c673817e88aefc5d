"""The data sets of the experiments: find them on disk or download them, and read them.

>>> from underscript.datasets import load_dataset, to_float
>>> data = load_dataset("digits")
>>> data.train_images.shape, data.train_images.dtype
((1437, 1, 8, 8), dtype('uint8'))
>>> inputs = to_float(data.train_images)
>>> float(inputs.min()), float(inputs.max())
(-1.0, 1.0)
"""

from .catalogue import dataset_names, default_root
from .human_labels import human_labels
from .images import ImageData, describe, to_float
from .load import load_dataset

__all__ = [
    "ImageData",
    "dataset_names",
    "default_root",
    "describe",
    "human_labels",
    "load_dataset",
    "to_float",
]
