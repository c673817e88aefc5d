"""Hash integers to numbers that look random."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

# The multipliers of SplitMix64, and 2⁶⁴ divided by the golden ratio, which separates streams.
_FIRST, _SECOND, _GOLDEN = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of each number; every bit depends on all bits, uint64 (n,).

    The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014).
    """
    with np.errstate(over="ignore"):
        bits = numbers.astype(np.uint64)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
        return np.asarray(bits ^ (bits >> np.uint64(31)))


def mixed_tensor(numbers: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Return the same bits as `mixed`, for int64 tensors on any device."""
    bits = (numbers ^ _shifted(numbers, 30)).mul_(_signed(_FIRST))
    bits = bits.bitwise_xor_(_shifted(bits, 27)).mul_(_signed(_SECOND))
    return bits.bitwise_xor_(_shifted(bits, 31))


def stream_of(numbers: Int[Tensor, "..."], which: int) -> Int[Tensor, "..."]:
    """Return new random numbers from the same ones; each `which` gives an unrelated stream."""
    return mixed_tensor(numbers + _signed((which + 1) * _GOLDEN))


def below(numbers: Int[Tensor, "..."], count: int) -> Int[Tensor, "..."]:
    """Return mixed numbers as uniform integers from 0 to `count` − 1."""
    return _shifted(numbers, 1) % count


def fractions(numbers: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return mixed numbers as uniform float64 in [0, 1)."""
    return _shifted(numbers, 11).double().mul_(2.0**-53)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    # torch has no unsigned shift: mask the sign bits that the arithmetic one fills in.
    return (numbers >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Return a number modulo 2⁶⁴ as a signed int64 value."""
    number %= 1 << 64
    return number - (1 << 64) if number >= 1 << 63 else number
