"""Numbers that look drawn by chance, from numbers that do not."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

# The multipliers of SplitMix64, and 2⁶⁴ divided by the golden ratio, which sets streams apart.
_FIRST, _SECOND, _GOLDEN = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a number for each of which every bit depends on all bits, uint64 (n,).

    The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014).
    """
    with np.errstate(over="ignore"):
        found = numbers.astype(np.uint64)
        found = (found ^ (found >> np.uint64(30))) * np.uint64(_FIRST)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(_SECOND)
        return np.asarray(found ^ (found >> np.uint64(31)))


def mixed_tensor(numbers: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Return what `mixed` returns, bit for bit, of int64 tensors on any device."""
    found = (numbers ^ _shifted(numbers, 30)).mul_(_signed(_FIRST))
    found = found.bitwise_xor_(_shifted(found, 27)).mul_(_signed(_SECOND))
    return found.bitwise_xor_(_shifted(found, 31))


def stream_of(numbers: Int[Tensor, "..."], which: int) -> Int[Tensor, "..."]:
    """Return other numbers of the same ones, unrelated for each `which`."""
    return mixed_tensor(numbers + _signed((which + 1) * _GOLDEN))


def below(numbers: Int[Tensor, "..."], count: int) -> Int[Tensor, "..."]:
    """Return mixed numbers as whole ones from 0 up to `count`, evenly."""
    return _shifted(numbers, 1) % count


def fractions(numbers: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return mixed numbers as float64 within [0, 1), evenly."""
    return _shifted(numbers, 11).double().mul_(2.0**-53)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    # torch has no unsigned shift: what an arithmetic one fills in is cut away.
    return (numbers >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Return a number modulo 2⁶⁴ as int64 has it."""
    number %= 1 << 64
    return number - (1 << 64) if number >= 1 << 63 else number
