"""All eigenvalues and the leading eigenvectors of a symmetric matrix, by LAPACK's own steps.

A solver for all eigenvectors spends more than half of its time on those that a decoder throws away.
Here the matrix is made tridiagonal (``sytrd``), all eigenvalues are computed (``sterf``), and only
the requested vectors (``stemr``) are transformed back.
"""

import logging
from collections.abc import Callable

import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

logger = logging.getLogger(__name__)

# Columns per block, like LAPACK's own block sizes.
_COLUMNS = 64
# Largest accepted entry of VᵀV − I. Relatively robust representations exceed it on matrices glued
# from equal parts; then another LAPACK solver is used.
_ORTHOGONAL = 1e-10


def leading_eigenpairs(
    matrix: Float[Tensor, "d d"], count: Callable[[Float[Tensor, " d"]], int]
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d m"]] | None:
    """Return all eigenvalues, largest first, and the first m eigenvectors.

    Parameters
    ----------
    matrix : Tensor of float64, shape (d, d)
        Symmetric and finite, in memory.
    count : callable
        Takes all eigenvalues, largest first, and returns m; for 0 or less the result is None.

    Returns
    -------
    tuple of Tensor, or None
        None if LAPACK fails, or the vectors are not orthonormal.
    """
    width = len(matrix)
    lapack = scipy.linalg.lapack
    # The transpose of a symmetric matrix is the same, and in LAPACK's memory order.
    reduced, diagonal, beside, scales, failed = lapack.dsytrd(
        matrix.numpy().T, lower=1, lwork=_COLUMNS * width
    )
    if failed:
        return None
    try:
        values = scipy.linalg.eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf")
        descending = torch.from_numpy(values[::-1].copy())
        wanted = count(descending)
        if wanted <= 0:
            return None
        inner = scipy.linalg.eigh_tridiagonal(
            diagonal,
            beside,
            select="i",
            select_range=(width - wanted, width - 1),
            lapack_driver="stemr",
        )[1]
    except scipy.linalg.LinAlgError:
        logger.info("the tridiagonal eigensolver gave up")
        return None
    vectors = torch.from_numpy(inner[:, ::-1].copy())
    # No reflection changes the first row.
    vectors[1:] = torch.ormqr(
        torch.from_numpy(reduced)[1:, : width - 1], torch.from_numpy(scales), vectors[1:]
    )
    products = vectors.T @ vectors
    products.diagonal().sub_(1)
    if float(products.abs().max()) > _ORTHOGONAL:
        logger.info("eigenvectors of a tridiagonal matrix are not orthogonal enough")
        return None
    return descending, vectors
