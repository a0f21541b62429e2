"""The tangent kernel as a linear operator: its products with vectors, without the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from hpr_kernels import checks, lanczos
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.progress import Progress, Steps

# A vector over the parameters for each of k columns, by name; only the Jacobian that made it reads it.
Gradients = dict[str, Tensor]


class Jacobian(Protocol):
    """Products with the Jacobian J [R, M, P] of some examples; a plain network counts as R = 1."""

    @property
    def packed(self) -> bool:
        """Whether the vectors of the caller have a leading axis of R."""

    @property
    def networks(self) -> int:
        """R."""

    @property
    def rows(self) -> int:
        """M."""

    @property
    def examples(self) -> int:
        """B, the number of parts of a product that `Steps` counts."""

    @property
    def columns(self) -> int:
        """How many vectors over the parameters fit in the memory budget, at least one."""

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and on the device of the kernel."""

    def pull(self, vectors: Tensor, steps: Steps) -> Gradients:
        """Jᵀ u of u [R, M, k]."""

    def push(self, gradients: Gradients, steps: Steps) -> Tensor:
        """J v, [R, M, k], of v from `pull`."""

    def trace(self, steps: Steps) -> Tensor:
        """Tr J Jᵀ, [R]."""

    def each(self) -> Iterator[Jacobian]:
        """The Jacobian of every network as a pack of one."""


class NTKOperator:
    """The exact tangent kernel K = J(x1) J(x2)ᵀ as a linear operator, of which only products with vectors are computed.

    `ntk_operator` and `leaky_rnn_ntk_operator` make it. K u is J(x1) v with v = J(x2)ᵀ u: a backward pass through the
    network at x2 and a forward pass of tangents at x1. A product takes memory for one vector over the parameters, and
    for as many examples at a time as the memory budget of the operator allows.

    Vectors have the dtype and are on the device of the kernel. Products are outside of autocast and not
    differentiable.
    """

    def __init__(self, left: Jacobian, right: Jacobian | None) -> None:
        self._left, self._right = left, right

    @property
    def shape(self) -> torch.Size:
        """[M1, M2], or [R, M1, M2] for a pack."""
        left, right = self._left, self._right or self._left
        return torch.Size(
            (*((left.networks,) if left.packed else ()), left.rows, right.rows),
        )

    @property
    def dtype(self) -> torch.dtype:
        """That of the kernel, as `ntk` and `leaky_rnn_ntk` return it."""
        return self._left.like.dtype

    @property
    def device(self) -> torch.device:
        """That of the kernel."""
        return self._left.like.device

    @property
    def T(self) -> NTKOperator:
        """Kᵀ = K(x2, x1), of shape [M2, M1], or [R, M2, M1] for a pack."""
        return self if self._right is None else NTKOperator(self._right, self._left)

    @outside_autocast
    def matvec(self, vector: Tensor, *, progress: Progress | None = None) -> Tensor:
        """K u, the kernel times a vector or times several.

        Args:
            vector: u [M2], or [M2, k] for k vectors; for a pack [R, M2] or [R, M2, k].
            progress: called as progress(done, total) with the numbers of examples that are done and that there are;
                those of both sides count, once for each group of vectors that fits in the memory budget.

        Returns:
            [M1] or [M1, k]; for a pack [R, M1] or [R, M1, k].

        Raises:
            ValueError, TypeError: `vector` or `progress` does not fit; `vector` or the product holds NaN or infinity.
        """
        return self._product(vector, self._left, self._right or self._left, "M2", progress)

    @outside_autocast
    def rmatvec(self, vector: Tensor, *, progress: Progress | None = None) -> Tensor:
        """Kᵀ u: a vector [M1] or several [M1, k] give [M2] or [M2, k]; the rest is as in `matvec`."""
        return self._product(vector, self._right or self._left, self._left, "M1", progress)

    def __matmul__(self, vector: Tensor) -> Tensor:
        return self.matvec(vector)

    @outside_autocast
    def trace(self, *, progress: Progress | None = None) -> Tensor:
        """Tr K, exact, [], or [R] for a pack: the sum of the traces of K(x, x) over the examples x.

        Args:
            progress: called as progress(done, total) after each example.

        Raises:
            ValueError: the kernel is of two inputs, or the memory budget is too small for one output of one example.
            TypeError: `progress` cannot be called.
        """
        self._check_one_input()
        found = self._left.trace(Steps(progress, self._left.examples))
        checks.finite("kernel", found)
        return found if self._left.packed else found[0]

    @outside_autocast
    def leading_eigenvalues(self, count: int = 1, *, progress: Progress | None = None) -> Tensor:
        """The largest eigenvalues of K, descending, [count], or [R, count] for a pack; as `leading_eigenvectors`."""
        return self._eigenpairs(count, progress)[0]

    @outside_autocast
    def leading_eigenvectors(
        self, count: int = 1, *, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """The largest eigenvalues of K and their eigenvectors, by SciPy's Lanczos method on vectors in fp64.

        The start is fixed, so the result is a function of the kernel alone. An eigenvector is known up to its sign, and
        those of equal eigenvalues up to a rotation.

        Args:
            count: how many, 1 … M - 1.
            progress: called as progress(done, None) after each product with a vector, and as progress(done, done) at
                the end, since the number of products is not known before.

        Returns:
            Eigenvalues, descending, [count], and orthonormal eigenvectors [M, count]; for a pack [R, count] and
            [R, M, count].

        Raises:
            ImportError: SciPy is missing (it is not among this package's dependencies).
            ValueError, TypeError: the kernel is of two inputs; `count` or `progress` does not fit.
        """
        return self._eigenpairs(count, progress)

    def to_scipy(self, dtype: Any = None) -> Any:
        """The kernel as a `scipy.sparse.linalg.LinearOperator`, for SciPy's solvers of equations and eigenvalues.

        Arrays are moved to the dtype and device of the kernel, where torch computes the products. A product has the
        dtype of the array that SciPy gave, as in `to_scipy` of curvlinops.

        Args:
            dtype: the dtype that the operator has for SciPy; None for NumPy's default, fp64.

        Returns:
            An operator of shape (M1, M2) with `matvec`, `rmatvec`, `matmat` and `rmatmat`.

        Raises:
            ImportError: SciPy is missing.
            ValueError: the kernels are of a pack.
        """
        if self._left.packed:
            raise ValueError(
                f"to_scipy: expected a kernel of one network, got a pack of {self._left.networks}"
            )
        rows, columns = self.shape
        return lanczos.scipy_operator(
            self.matvec, self.rmatvec, (rows, columns), self._left.like, dtype
        )

    def __repr__(self) -> str:
        return f"NTKOperator(shape={list(self.shape)}, dtype={self.dtype}, device={self.device})"

    def _product(
        self,
        vector: Tensor,
        left: Jacobian,
        right: Jacobian,
        symbol: str,
        progress: Progress | None,
    ) -> Tensor:
        lead = (right.networks,) if right.packed else ()
        checks.tensor("vector", vector, (len(lead) + 1, len(lead) + 2), like=right.like)
        single = vector.dim() == len(lead) + 1
        expected: tuple[int | None, ...] = (*lead, right.rows, *(() if single else (None,)))
        symbols = f"[{'R, ' if lead else ''}{symbol}{'' if single else ', k'}]"
        checks.shape("vector", vector, expected, symbols)
        if vector.numel() == 0:
            raise ValueError(f"vector: expected no empty axis, got {list(vector.shape)}")
        checks.finite("vector", vector.detach())
        # Autograd could not use tensors that were made in inference mode.
        with torch.inference_mode(False):
            u = vector.detach().clone().reshape(right.networks, right.rows, -1)
            groups = u.split(min(left.columns, right.columns), dim=-1)
            steps = Steps(progress, len(groups) * (left.examples + right.examples))
            found = [left.push(right.pull(some, steps), steps) for some in groups]
            product = torch.cat(found, dim=-1)
        checks.finite("product", product)
        return product.reshape(*lead, left.rows, *vector.shape[len(lead) + 1 :])

    def _eigenpairs(self, count: int, progress: Progress | None) -> tuple[Tensor, Tensor]:
        self._check_one_input()
        M = self._left.rows
        count = checks.count("count", count, 1, M - 1, f"1 … M - 1 = {M - 1}")
        steps = Steps(progress, None)
        found = [
            lanczos.leading_eigenpairs(_counted(one, steps), M, count, one.like)
            for one in self._left.each()
        ]
        steps.finish()
        values, vectors = (torch.stack(list(parts)) for parts in zip(*found, strict=True))
        return (values, vectors) if self._left.packed else (values[0], vectors[0])

    def _check_one_input(self) -> None:
        if self._right is not None:
            raise ValueError(
                f"x2: expected None, for a symmetric kernel, got a kernel of shape {list(self.shape)}"
            )


def _counted(jacobian: Jacobian, steps: Steps) -> Callable[[Tensor], Tensor]:
    """The product of one network's kernel with a vector [M], which counts as one part."""
    operator = NTKOperator(jacobian, None)

    def product(vector: Tensor) -> Tensor:
        found = operator.matvec(vector[None] if jacobian.packed else vector)
        steps.step()
        return found.flatten()

    return product
