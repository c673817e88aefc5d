"""A small network, data with noisy labels, and decodes of them."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

import models
import underscript as us

N = 240
X, Y = models.data("rows", N)
TEST_X, TEST_Y = models.data("rows", 100, seed=1)
HOLD_X, HOLD_Y = models.data("rows", 90, seed=2)
GIVEN = us.corrupt_labels(Y, 0.4, seed=1)
HOLD_GIVEN = us.corrupt_labels(HOLD_Y, 0.4, seed=2)
MODEL = models.build("mlp", seed=3)


def run(**options: Any) -> us.Decoding:
    # At a share of 0.99 the subspaces of twelve inputs are the whole space, which is warned about.
    defaults = {"test": (TEST_X, TEST_Y), "true_labels": Y, "variance": 0.9, "progress": False}
    options = defaults | options
    return us.decode(options.pop("model", MODEL), options.pop("train", (X, GIVEN)), **options)


@cache
def everything() -> us.Decoding:
    return run(
        holdout=(HOLD_X, HOLD_GIVEN),
        probes=("masc", "velpic"),
        variance=(0.7, 0.9),
        evaluate=("train", "test", "candidates"),
        controls="full",
    )


@torch.no_grad()
def rows_by_hand(model: nn.Module, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the rows of the MLP's layers."""
    relu1 = torch.relu(model.fc1(x))
    relu2 = torch.relu(model.fc2(relu1))
    return {"input": x.numpy(), "relu1": relu1.numpy(), "relu2": relu2.numpy()}
