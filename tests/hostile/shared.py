"""The data that all cases are made of, and what may become of a case."""

from functools import cache
from typing import Any

import numpy as np
import torch
from situation_data import blobs
from torch import Tensor
from torch.utils.data import TensorDataset

import underscript as us
from hostile.judge import REFUSED, RIGHT, TOLD, Result

WORKS = (RIGHT, TOLD)
ANY = (RIGHT, TOLD, REFUSED)
NEVER = (REFUSED,)

DATA = blobs(n=600, n_test=300)
X, GIVEN, TRUE = DATA.x, DATA.given, DATA.true
PAIRS = TensorDataset(X, GIVEN)
NAMES = np.array(["ant", "bee", "cat", "dog"])


def result(d: us.Decoding, test: Any = DATA.test, true: Any = DATA.test_true) -> Result:
    """Return a decode to be judged by the blobs' own classes."""
    return Result(d, test, true, TRUE.numpy(), GIVEN.numpy())


@cache
def texts() -> tuple[Tensor, Tensor]:
    """Return word numbers and a mask; a text's words tell its true class."""
    rng = torch.Generator().manual_seed(0)
    ids = TRUE[:, None] * 15 + torch.randint(1, 15, (len(TRUE), 8), generator=rng)
    mask = torch.ones_like(ids)
    mask[::2, 5:] = 0
    return ids * mask, mask
