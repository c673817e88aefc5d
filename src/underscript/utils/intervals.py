"""Confidence interval of a share of n samples."""

__all__ = ["LIMIT", "of_share"]

# The 97.5 % limit, in standard errors.
LIMIT = 1.96


def of_share(share: float, n: float) -> tuple[float, float]:
    r"""Return the 95 % confidence interval of a share of n samples (Wilson, 1927).

    >>> low, high = of_share(0.961, 360)
    >>> round(low, 3), round(high, 3)
    (0.936, 0.977)
    """
    z = LIMIT
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
