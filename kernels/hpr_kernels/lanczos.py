"""SciPy's view of matrices that are known by their products alone; SciPy is imported where it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def leading_eigenpairs(product: Product, M: int, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of a symmetric matrix, descending, [count], and their eigenvectors [M, count].

    By SciPy's Lanczos method (`eigsh`) on vectors in fp64.

    Args:
        product: the matrix times a vector [M], of the dtype and on the device of `like`.
        M: the number of rows.
        count: how many eigenvalues, 1 … M - 1.
        like: a tensor whose dtype and device the result has.

    Raises:
        ImportError: SciPy is missing.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    zero = True

    def apply(u: Any) -> Any:
        nonlocal zero
        found = product(_tensor(u, like).flatten()).detach().double().cpu()
        zero = zero and not bool(found.any())
        return found.numpy()

    operator = LinearOperator((M, M), matvec=apply, dtype="float64")
    # A fixed start makes the result a function of the matrix alone. It is no vector of ones, whose product
    # is zero where the outputs of a network sum to a constant, and ARPACK does not start from such a vector.
    start = torch.arange(1, M + 1, dtype=torch.float64, device="cpu").cos()
    # A product in fp32 is no more exact than its rounding, and SciPy's default asks for that of fp64.
    tolerance = 0.0 if like.dtype == torch.float64 else torch.finfo(like.dtype).eps
    try:
        values, vectors = eigsh(operator, k=count, which="LA", v0=start.numpy(), tol=tolerance)
    except ArpackError:
        if not zero:
            raise
        # ARPACK does not accept a matrix of zeros, of which every vector is an eigenvector.
        return like.new_zeros(count), torch.eye(M, count, dtype=like.dtype, device=like.device)
    order = values.argsort()[::-1]
    return _tensor(values[order], like), _tensor(vectors[:, order], like)


def scipy_operator(
    product: Product, adjoint: Product, shape: tuple[int, int], like: Tensor, dtype: Any
) -> Any:
    """A `scipy.sparse.linalg.LinearOperator` of `dtype`, None for NumPy's default, whose products torch computes.

    Args:
        product: the matrix times [shape[1], k], of the dtype and on the device of `like`.
        adjoint: the transposed matrix times [shape[0], k].
        shape: of the matrix.
        like: a tensor of the dtype and on the device in which the products are computed.
        dtype: what SciPy takes for the dtype of the matrix; a product has the dtype of the array that it is given.

    Raises:
        ImportError: SciPy is missing.
    """
    import numpy as np
    from scipy.sparse.linalg import LinearOperator

    def by_torch(function: Product) -> Callable[[Any], Any]:
        def apply(array: Any) -> Any:
            columns = _tensor(array.reshape(len(array), -1), like)
            found = function(columns).detach().cpu().numpy().astype(array.dtype)
            return found.reshape(-1, *array.shape[1:])

        return apply

    times, transposed = by_torch(product), by_torch(adjoint)
    return LinearOperator(
        shape, matvec=times, rmatvec=transposed, matmat=times, rmatmat=transposed,
        dtype=np.dtype(dtype),
    )  # fmt: skip


def _tensor(array: Any, like: Tensor) -> Tensor:
    """A copy of an array of NumPy, of any strides, which torch does not take where they are negative."""
    return torch.as_tensor(array.copy(), dtype=like.dtype, device=like.device)
