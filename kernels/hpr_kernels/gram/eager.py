"""Three exact orders of contracting K_ij = Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ ⟨z_s^b, z_s'^b'⟩ by torch, on any device.

`docs/derivations.md` derives each. Each fills K [B, O, B', O'] in blocks of the plan's size, which fit a core's cache.
If K is symmetric, an order computes only pairs of examples b ≤ b', and `mirror` writes the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpr_kernels.checks import Order
from hpr_kernels.gram.contraction_plan import ContractionPlan, first_output, halves, tile_examples
from hpr_kernels.gram.factors import Factors
from hpr_kernels.workers import each


def contract(
    K: Tensor, left: Factors, right: Factors | None, plan: ContractionPlan, add: bool = False
) -> None:
    """Write K [B, O, B', O'] of two packs of one by the planned order, or add to K.

    `right` None stands for `left`. Only the pairs of examples b ≤ b' are right then, until `mirror` writes the others.
    """
    one_step = left.z.shape[2] == (right or left).z.shape[2] == 1
    # Only where K is added to: otherwise "hadamard" must round as it did when records were written.
    if add and one_step and plan.order == "hadamard":
        _add_one_step(K, left, right or left, right is None, plan)
    else:
        ORDERS[plan.order](K, left, right or left, right is None, plan, add)


def hadamard(
    K: Tensor, left: Factors, right: Factors, symmetric: bool, plan: ContractionPlan, add: bool
) -> None:
    """For each s and s', multiply g_s by g_s' of all rows of a block that reach them; add this times ⟨z_s, z_s'⟩."""
    (reach1,), (reach2,) = left.reach, right.reach

    def block(corner: tuple[int, int]) -> None:
        rows, columns = (slice(start, start + plan.block) for start in corner)
        # With outputs before examples the rows that reach a step are one block, over which ⟨z, z'⟩ is broadcast.
        g = left.g[0, rows].permute(2, 1, 0, 3).contiguous()  # [S, O, b, N]
        triangle = symmetric and rows == columns
        h = (
            g if triangle else right.g[0, columns].permute(2, 1, 0, 3).contiguous()
        )  # [S', O', b', N]
        z, y = left.z[0, rows].transpose(0, 1), right.z[0, columns].transpose(0, 1)  # [S, b, F]
        b, c = g.shape[2], h.shape[2]
        total = K.new_zeros(g.shape[1], b, h.shape[1], c)
        for s in range(len(g)):
            o = first_output(reach1, s)
            for t in range(s + 1 if triangle else len(h)):
                p = first_output(reach2, t)
                if o == g.shape[1] or p == h.shape[1]:
                    continue
                D = (g[s, o:].flatten(0, 1) @ h[t, p:].flatten(0, 1).mT).view(
                    -1, b, h.shape[1] - p, c
                )
                # In a triangle the transpose of the terms s > t is added at the end, so s = t counts half.
                half = 0.5 if triangle and s == t else 1.0
                total[o:, :, p:].addcmul_(D, (z[s] @ y[t].mT)[:, None], value=half)
        if triangle:
            total = total + total.permute(2, 3, 0, 1)
        total = total.permute(1, 0, 3, 2)
        if add:
            K[rows, :, columns] += total
        else:
            K[rows, :, columns] = total

    each(block, _corners(K, plan.block, symmetric), K.device)


def _add_one_step(
    K: Tensor, left: Factors, right: Factors, symmetric: bool, plan: ContractionPlan
) -> None:
    """Add ⟨g, g'⟩ ⟨z, z'⟩ to K as "hadamard" does, where there is one step on both sides.

    The adjoints are taken in the order of K, without copies, so that a block may be larger in the same memory.
    """
    size = plan.block * 4 // 3

    def block(corner: tuple[int, int]) -> None:
        rows, columns = (slice(start, start + size) for start in corner)
        g, h = left.g[0, rows, :, 0], right.g[0, columns, :, 0]
        inputs = left.z[0, rows, 0] @ right.z[0, columns, 0].mT
        products = (g.flatten(0, 1) @ h.flatten(0, 1).mT).unflatten(0, g.shape[:2])
        # One factor per column is multiplied 2 times faster than one that is broadcast over the outputs.
        products *= inputs.repeat_interleave(h.shape[1], 1)[:, None]
        K[rows, :, columns] += products.unflatten(2, h.shape[:2])

    each(block, _corners(K, size, symmetric), K.device)


def _corners(K: Tensor, size: int, symmetric: bool) -> list[tuple[int, int]]:
    """The first examples of each block of K."""
    return [
        (i, j)
        for i in range(0, len(K), size)
        for j in range(i if symmetric else 0, K.shape[2], size)
    ]


def propagate(
    K: Tensor, left: Factors, right: Factors, symmetric: bool, plan: ContractionPlan, add: bool
) -> None:
    """For each left example sum ⟨z_s, z_s'⟩ g_s' over s' for rows on the right, then multiply by g over (s, N)."""
    g, h = left.g[0], right.g[0]
    z, y = left.z[0], right.z[0]
    (B, O, S, N), (C, P, T, _) = g.shape, h.shape
    g = g.contiguous()
    h = (g if right is left else h.contiguous()).view(C * P, T, N)
    g = g.view(B, O, S * N)
    flat = K.view(B, O, C * P)
    parts = halves(left.reach[0], S)
    tile = tile_examples(C, P, T, N, K.element_size(), B)

    def row(item: tuple[int, int]) -> None:
        start, b = item
        stop = min(start + tile, C)
        start = max(start, b) if symmetric else start
        some = y[start:stop]
        if T == 1 or some.stride(1) > 1:
            Ft = (some.flatten(0, 1) @ z[b].mT).view(-1, T, S)
        else:
            # Inputs with the steps last can't be joined without a copy.
            Ft = torch.bmm(some, z[b].mT.expand(len(some), -1, -1))
        owner = torch.arange(start * P, stop * P, device=h.device) // P - start
        buffer = h.new_empty(min(plan.block, len(owner)), S, N)
        for first in range(start * P, stop * P, plan.block):
            last = min(first + plan.block, stop * P)
            factors = Ft[owner[first - start * P : last - start * P]].mT
            block = torch.bmm(factors, h[first:last], out=buffer[: last - first]).flatten(1)
            for begin, end, o in parts:
                steps = slice(begin * N, end * N)
                target = flat[b, o:, first:last]
                # The first part has all outputs and overwrites K; the second adds to it.
                beta = float(add or begin > 0)
                torch.addmm(target, g[b, o:, steps], block[:, steps].mT, beta=beta, out=target)

    each(
        row,
        [
            (start, b)
            for start in range(0, C, tile)
            for b in range(min(B, start + tile) if symmetric else B)
        ],
        K.device,
    )


def dense(
    K: Tensor, left: Factors, right: Factors, symmetric: bool, plan: ContractionPlan, add: bool
) -> None:
    """For a few hidden units at a time, write out the Jacobian by their weights and add its Gram matrix to K."""
    O, N = left.g.shape[2], left.g.shape[4]
    matrix = K.view(left.rows, -1)
    for start in range(0, N, plan.block):
        units = slice(start, start + plan.block)
        J = jacobian(left.g[0, ..., units], left.z[0])
        H = J if right is left else jacobian(right.g[0, ..., units], right.z[0])
        for first in range(0, len(J), DENSE_ROWS):
            rows = slice(first, first + DENSE_ROWS)
            columns = slice(first // O * O if symmetric else 0, None)
            target = matrix[rows, columns]
            beta = float(add or start > 0)
            torch.addmm(target, J[rows], H[columns].mT, beta=beta, out=target)


# `dense` computes so many rows of K at a time: enough for the product's full speed, few enough to gain by symmetry.
DENSE_ROWS = 256


def jacobian(g: Tensor, z: Tensor) -> Tensor:
    """J = Σ_s g_s ⊗ z_s, [B O, N F], of g [B, O, S, N] and z [B, S, F]."""
    B, O, S, N = g.shape
    rows = g.permute(0, 1, 3, 2).reshape(B, O * N, S)
    return torch.bmm(rows, z).view(B * O, -1)


def mirror(K: Tensor) -> None:
    """Make K [B, O, B, O] exactly symmetric from its pairs of examples b ≤ b'."""
    B, O = K.shape[:2]
    # Some examples at a time, so that the entries of one write lie close together in memory.
    size = max(1, 128 // O)

    def block(start: int) -> None:
        stop = min(start + size, B)
        if size == 1:
            symmetrise(K[start, :, start])
        else:
            # Blocks of few outputs are written together, because each alone takes longer to call than to write.
            square = K[start:stop, :, start:stop]
            number = torch.arange(stop - start, device=K.device)
            below = (number[:, None] > number)[:, None, :, None]
            square.copy_(torch.where(below, square.permute(2, 3, 0, 1), square))
            own = square.diagonal(dim1=0, dim2=2)  # [O, O, examples]
            own.copy_((own + own.transpose(0, 1)) / 2)
        K[stop:, :, start:stop] = K[start:stop, :, stop:].permute(2, 3, 0, 1)

    each(block, range(0, B, size), K.device)


def symmetrise(block: Tensor) -> None:
    """Replace a square block by the mean of itself and its transpose, some rows at a time."""
    for start in range(0, len(block), 256):
        rows, below = slice(start, start + 256), slice(start, None)
        mean = (block[rows, below] + block[below, rows].mT) / 2
        block[rows, below] = mean
        block[below, rows] = mean.mT


ORDERS: dict[Order, Callable[[Tensor, Factors, Factors, bool, ContractionPlan, bool], None]] = {
    "hadamard": hadamard,
    "propagate": propagate,
    "dense": dense,
}
