"""All eigenvalues and the leading eigenvectors of a symmetric matrix, by LAPACK's own steps.

A solver for all eigenvectors spends more than half of its time on those that a decoder throws away.
Here the matrix is made tridiagonal (``sytrd``), all eigenvalues are found (``sterf``), and only the
vectors asked for (``stemr``) are turned back.
"""

import logging
from collections.abc import Callable

import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

logger = logging.getLogger(__name__)

# Columns that are worked on at once, as LAPACK's own block sizes are.
_COLUMNS = 64
# Largest entry of VᵀV − I; relatively robust representations lose more on matrices that are glued
# of equal parts, and LAPACK's other solvers are asked then.
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
        From all eigenvalues, largest first, to m; with 0 or less None is returned.

    Returns
    -------
    tuple of Tensor, or None
        None where LAPACK gives up, or the vectors are not orthonormal.
    """
    width = len(matrix)
    lapack = scipy.linalg.lapack
    # Of a symmetric matrix the transpose is the same, and in LAPACK's order.
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
    # The first row is no part of any reflection.
    vectors[1:] = torch.ormqr(
        torch.from_numpy(reduced)[1:, : width - 1], torch.from_numpy(scales), vectors[1:]
    )
    products = vectors.T @ vectors
    products.diagonal().sub_(1)
    if float(products.abs().max()) > _ORTHOGONAL:
        logger.info("eigenvectors of a tridiagonal matrix are not orthogonal enough")
        return None
    return descending, vectors
