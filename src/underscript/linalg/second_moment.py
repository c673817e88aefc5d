"""The second moment of rows, added up batch by batch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .products import add_products, in_float64, mirrored

__all__ = ["SecondMoment"]


class SecondMoment:
    """``Σ x xᵀ`` and ``Σ x`` of rows, which wait until they are worth one large product.

    Parameters
    ----------
    width : int
        Number of values a row.
    waiting : int
        So many rows wait.
    device : torch.device
        Where to keep the sums: float64, or float32 where the device has no float64.
    exact : bool
        Whether products are computed in the precision of the sums. Otherwise they are computed in
        that of the rows, which is faster.
    sums : Tensor, shape (width,), optional
        Where to add the rows up; a part of somebody's matrix, for example.
    buffer : list of Tensor, optional
        Shared room for rows in float64; see `in_float64`.
    """

    def __init__(
        self,
        width: int,
        waiting: int,
        device: torch.device | str = "cpu",
        *,
        exact: bool = True,
        sums: Float[Tensor, " width"] | None = None,
        buffer: list[Tensor] | None = None,
    ):
        self.width, self.n = width, 0
        precise = torch.float32 if torch.device(device).type == "mps" else torch.float64
        if sums is None:
            sums = torch.zeros(width, dtype=precise, device=device)
        self.sums = sums
        # Only the tiles on and above the diagonal are kept up to date.
        self._second: Tensor | None = None
        self._exact, self._room = exact, waiting
        self._buffer = [] if buffer is None else buffer
        self._waiting: Tensor | None = None
        self._filled = 0

    def update(self, rows: Float[Tensor, "n width"], chosen: Int[Tensor, " m"]) -> None:
        """Add some of the rows, by their places."""
        self.n += len(chosen)
        if self._waiting is not None and self._waiting.dtype != rows.dtype:
            self._flush()
            self._waiting = None
        if self._waiting is None:
            shape = self._room, self.width
            self._waiting = torch.empty(shape, dtype=rows.dtype, device=self.sums.device)
        while len(chosen):
            filled = self._filled
            part, chosen = chosen[: self._room - filled], chosen[self._room - filled :]
            torch.index_select(rows, 0, part, out=self._waiting[filled : filled + len(part)])
            self._filled += len(part)
            if self._filled == self._room:
                self._flush()

    def add(self, other: "SecondMoment") -> None:
        """Add the sums of another part of the rows, which stay as they are."""
        self._flush()
        second = other.second()
        self.n += other.n
        self.sums += other.sums.to(self.sums)
        if second is None:
            return
        if self._second is None:
            self._second = second.to(self.sums.device, copy=True)
        else:
            self._second += second.to(self.sums.device)

    def second(self) -> Float[Tensor, "width width"] | None:
        """Return ``Σ x xᵀ``, right on and above the diagonal; None before there are rows."""
        self._flush()
        return self._second

    def whole(self) -> Float[Tensor, "width width"]:
        """Return ``Σ x xᵀ`` as a new symmetric matrix."""
        second = self.second()
        if second is None:
            return self.sums.new_zeros(self.width, self.width)
        return mirrored(second.clone())

    def few(self) -> Float[Tensor, "n width"] | None:
        """Return the rows themselves if there are fewer than they are wide; otherwise None."""
        if self._second is not None or self._waiting is None or self._filled >= self.width:
            return None
        return self._waiting[: self._filled]

    def _flush(self) -> None:
        """Add what waits."""
        filled, self._filled = self._filled, 0
        if not filled:
            return
        assert self._waiting is not None
        rows = self._waiting[:filled]
        first = self._second is None
        if self._second is None:
            # Not zeros: to fill them costs a pass over memory.
            self._second = self.sums.new_empty(self.width, self.width)
        if self._exact:
            rows = in_float64(rows, self._buffer) if self.sums.dtype == torch.float64 else rows
            self.sums += rows.sum(0)
            add_products(self._second, rows, first)
            return
        self.sums += rows.sum(0, dtype=self.sums.dtype)
        product = rows.new_empty(self.width, self.width)
        add_products(product, rows, first=True)
        self._second = self._second.copy_(product) if first else self._second.add_(product)
