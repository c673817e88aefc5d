"""Control the rounding of matrix products, whatever the user set for the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from ..utils.device import product_seconds


@contextmanager
def exact_products() -> Iterator[None]:
    """Run the block with float32 products in float32, and bfloat16 ones added up in float32.

    The user may have allowed TF32 or bfloat16 products, but then the decoders' error bounds do
    not hold. The settings are restored, also if the block raises.
    """
    cuda: Any = torch.backends.cuda.matmul
    settings: list[tuple[Any, str, Any]] = [
        (
            cuda,
            "allow_bf16_reduced_precision_reduction",
            cuda.allow_bf16_reduced_precision_reduction,
        )
    ]
    mkldnn: Any = getattr(torch.backends.mkldnn, "matmul", None)
    legacy = None
    if hasattr(mkldnn, "fp32_precision"):
        settings += [(place, "fp32_precision", place.fp32_precision) for place in (cuda, mkldnn)]
    else:  # torch before 2.9
        legacy = torch.get_float32_matmul_precision()
    try:
        cuda.allow_bf16_reduced_precision_reduction = False
        for place, name, _ in settings[1:]:
            setattr(place, name, "ieee")
        if legacy is not None:
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        for place, name, value in settings:
            setattr(place, name, value)
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)


@cache
def bfloat16_pays(kind: str) -> bool:
    """Say whether a device multiplies bfloat16 matrices at least twice as fast as float32 ones.

    Measured once per kind of device (``"cpu"``, ``"cuda"``): processors with matrix units do;
    others convert each number and are slower. It affects speed, never results.
    """
    device = torch.device(kind)
    try:
        with exact_products():
            exact, rounded = (
                product_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16)
            )
            return exact > 2 * rounded
    except (RuntimeError, NotImplementedError):
        return False
