"""A block of rows of a tangent Jacobian, and the kernel between two blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpr_kernels.backend import uses_native
from hpr_kernels.checks import Order, Precision, Reduction
from hpr_kernels.gram import dispatch
from hpr_kernels.gram.factors import Factors
from hpr_kernels.tangent import native
from hpr_kernels.workers import each, threads


@dataclass(frozen=True, eq=False)
class JacobianBlock:
    """The rows of some examples and some outputs (t, k), k = first … first + width - 1 at each step t.

    `factors` hold the columns of W_h and W_x, and `rates` those of w, which count if `by_readout`. If the diagonal of
    W_h is no parameter, `diagonal` holds its columns, whose contribution is subtracted.
    """

    factors: Factors | None
    diagonal: Tensor | None  # [R, b, O, N]
    rates: Tensor  # [R, b, t, N]
    by_readout: bool
    first: int
    width: int
    precision: Precision

    def kernel(
        self, other: JacobianBlock | None, reduce: Reduction, order: Order, memory_budget: int
    ) -> Tensor:
        """K between the rows of this block and of `other`, None for this block, in the forms of `gram.dispatch.gram`.

        The two blocks must have the same outputs k, or none in common.

        Raises:
            NonFinite: the adjoints or inputs of a block overflowed.
        """
        right = other or self
        a, b = self.rates, right.rates
        if self.factors is None:
            (R, B, t, _), (_, C, u, _) = a.shape, b.shape
            O, P = t * self.width, u * right.width
            shapes = {"full": (B * O, C * P), "trace": (B, C), "diagonal": (B, C, O)}
            K = a.new_zeros(R, *shapes[reduce])
        else:
            factors = None if other is None else other.factors
            K = dispatch.gram(
                self.factors, factors, reduce=reduce, order=order,
                memory_budget=memory_budget, precision=self.precision,
            )  # fmt: skip
            # A factor that is not finite spoils its whole row or column of K, so the first of each are enough to see.
            self.check_finite_unless(other, K[:, 0], K[:, :, 0])
        if self.diagonal is not None and right.diagonal is not None:
            add_products(K, -self.diagonal, right.diagonal, 1, reduce, right is self)
        if self.by_readout and self.first == right.first:
            # ∂y_{t,k}/∂w_k' is a_{t+1} if k = k', else zero.
            add_products(K, a, b, self.width, reduce, right is self)
        return K

    def check_finite_unless(self, other: JacobianBlock | None, *results: Tensor) -> None:
        """Check the factors of both blocks for overflow, unless the results that follow from them are finite.

        The arguments of the public functions were checked before, so this costs no pass over the factors as a rule.
        """
        if not all(bool(result.isfinite().all()) for result in results):
            for block in (self, other):
                if block is not None and block.factors is not None:
                    block.factors.check_finite()


# Rows of a product that one thread adds to K at a time.
ROWS = 128


def rows_at_once(rows: int, device: torch.device) -> int:
    """Of how many of some rows of K all threads together hold products or copies."""
    return min(threads(device) * ROWS, rows)


def add_products(
    K: Tensor, left: Tensor, right: Tensor, copies: int, reduce: Reduction, symmetric: bool
) -> None:
    """Add ⟨u_o^b, v_o'^b'⟩ to K, of rows u and v [R, B, O, N].

    A row stands for `copies` outputs of a step, and contributes to K where two of them are the same output.
    """
    if reduce == "full":
        rows = left.flatten(1, 2)
        columns = rows if right is left else right.flatten(1, 2)
        if uses_native(K) and K.stride(2) == 1:
            native.add_row_products(K, rows, columns, copies)
            return
        pairs = K.unflatten(2, (-1, copies)).unflatten(1, (-1, copies))
        add_product(pairs.diagonal(dim1=2, dim2=4), rows, columns, symmetric)
    elif reduce == "trace":
        add_product(K[..., None], copies * left.flatten(2), right.flatten(2), symmetric)
    else:
        outputs = K.unflatten(3, (-1, copies))
        for o in range(left.shape[2]):
            add_product(outputs[:, :, :, o], left[:, :, o], right[:, :, o], symmetric)


def add_product(target: Tensor, left: Tensor, right: Tensor, symmetric: bool) -> None:
    """Add left rightᵀ [R, M1, M2] to every layer of `target` [R, M1, M2, …], a few rows at a time.

    If `symmetric`, the entries left of the diagonal are copied from their mirror images, so K is exactly symmetric.
    """

    def add(start: int) -> None:
        stop = min(start + ROWS, left.shape[1])
        first = start if symmetric else 0
        product = torch.bmm(left[:, start:stop], right[:, first:].mT)
        if symmetric:
            square, beyond = product.split([stop - start, product.shape[2] - stop + start], dim=2)
            square.copy_((square + square.mT) / 2)
            target[:, stop:, start:stop] += beyond.mT[..., None]
        target[:, start:stop, first:] += product[..., None]

    each(add, range(0, left.shape[1], ROWS), target.device)
