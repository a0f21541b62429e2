"""Three exact ways to contract K_ij = Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ ⟨z_s^b, z_s'^b'⟩ (each is derived in kernels/README.md).

Each order fills the block of K between a few examples on the left and many on the right; `gram` walks the blocks,
halves the work by symmetry, and so bounds the memory beside the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hpr_kernels.gram.plan import Plan


@dataclass(frozen=True)
class Factor:
    """g [B, O, S, N] and z [B, S, F]; `reach[o]`, ascending, is the last step with a non-zero adjoint of output o."""

    g: Tensor
    z: Tensor
    reach: tuple[int, ...]

    def examples(self, start: int, stop: int) -> Factor:
        """The same, of a range of examples."""
        return Factor(self.g[start:stop], self.z[start:stop], self.reach)

    def first(self, s: int) -> int:
        """First output that reaches step s: those that do are a suffix."""
        return sum(reach < s for reach in self.reach)


def hadamard(K: Tensor, left: Factor, right: Factor, *, triangle: bool, memory: int) -> None:
    """⟨g_s, g_s'⟩ of all pairs of rows that reach s and s', times ⟨z_s, z_s'⟩, summed over s and s'."""
    Ft = torch.tensordot(left.z, right.z, dims=([2], [2]))  # [b, S, B, S']
    # Outputs before examples: the rows that reach a step are then one block, and Ft is repeated over it.
    g, h = (f.g.permute(2, 1, 0, 3).contiguous() for f in (left, right))  # [S, O, B, N]
    b, B = len(left.z), len(right.z)
    total = K.new_zeros(g.shape[1], b, h.shape[1], B)  # [O, b, O', B]
    for s in range(len(g)):
        o = left.first(s)
        for t in range(s + 1 if triangle else len(h)):
            p = right.first(t)
            if o == g.shape[1] or p == h.shape[1]:
                continue
            D = (g[s, o:].flatten(0, 1) @ h[t, p:].flatten(0, 1).mT).view(-1, b, h.shape[1] - p, B)
            # In a triangle, s > t stands for its transpose, too, which is added at the end.
            half = 0.5 if triangle and s == t else 1.0
            total[o:, :, p:].addcmul_(D, Ft[:, s, None, :, t], value=half)
    if triangle:
        total = total + total.permute(2, 3, 0, 1)
    K.copy_(total.permute(1, 0, 3, 2))


def propagate(K: Tensor, left: Factor, right: Factor, *, triangle: bool, memory: int) -> None:
    """Σ_s' ⟨z_s, z_s'⟩ g_s' for each pair of examples, then one product over (s, N) for those outputs that reach s."""
    b, O, S, N = left.g.shape
    B, P, T = len(right.z), right.g.shape[1], right.z.shape[1]
    Ft = torch.tensordot(right.z, left.z, dims=([2], [2]))  # [B, S', b, S]
    g = left.g.reshape(b, O, S * N)
    h = right.g.permute(0, 2, 3, 1).reshape(B, T, N * P)
    buffer = K.new_empty(b, S * N, P)
    parts = segments(left)
    for j in range(B):
        n = min(b, j + 1) if triangle else b
        torch.mm(Ft[j, :, :n].flatten(1).mT, h[j], out=buffer[:n].view(n * S, N * P))
        for start, stop, o in parts:
            block = torch.bmm(g[:n, o:, start * N : stop * N], buffer[:n, start * N : stop * N])
            target = K[:n, o:, j]
            if start == 0:
                target.copy_(block)
            else:
                target.add_(block)
    if triangle:
        mirror(K)


def segments(left: Factor) -> list[tuple[int, int, int]]:
    """At most four runs of steps (start, stop, first output that reaches start): later ones have fewer outputs."""
    S, O = left.z.shape[1], left.g.shape[1]
    cuts = sorted(
        {0, *(S * quarter // 4 for quarter in range(1, 4) if left.first(S * quarter // 4))}
    )
    runs = zip(cuts, [*cuts[1:], S], strict=True)
    return [(start, stop, left.first(start)) for start, stop in runs if left.first(start) < O]


def dense(K: Tensor, left: Factor, right: Factor, *, triangle: bool, memory: int) -> None:
    """Blocks of the Jacobian, written out, multiplied and forgotten."""
    for examples, outputs in pieces(left, memory // 2):
        J = jacobian(left.g[examples, outputs], left.z[examples])
        for others, columns in pieces(right, memory // 2):
            H = jacobian(right.g[others, columns], right.z[others])
            product = J.flatten(0, 1) @ H.flatten(0, 1).mT
            K[examples, outputs, others, columns] = product.view(*J.shape[:2], *H.shape[:2])
    if triangle:
        mirror(K)


def pieces(factor: Factor, memory: int) -> Iterator[tuple[slice, slice]]:
    """Examples and outputs whose part of the Jacobian, and of the adjoints that it is made of, fit into `memory`."""
    B, O, S, N = factor.g.shape
    rows = max(1, memory // (N * (S + factor.z.shape[2]) * factor.g.element_size()))
    for b in range(0, B, max(1, rows // O)):
        for o in range(0, O, min(rows, O)):
            yield slice(b, b + max(1, rows // O)), slice(o, o + rows)


def jacobian(g: Tensor, z: Tensor) -> Tensor:
    """J = Σ_s g_s ⊗ z_s, [B, O, N F], of g [B, O, S, N] and z [B, S, F]."""
    B, O, S, N = g.shape
    rows = g.permute(0, 1, 3, 2).reshape(B, O * N, S)
    return torch.bmm(rows, z).view(B, O, -1)


def mirror(K: Tensor) -> None:
    """Make a square block [b, O, b, O] exactly symmetric from its upper triangle of examples."""
    for i in range(len(K)):
        K[i, :, i] = (K[i, :, i] + K[i, :, i].mT) / 2
        K[i + 1 :, :, i] = K[i, :, i + 1 :].permute(1, 2, 0)


ORDERS: dict[str, Callable[..., None]] = {
    "hadamard": hadamard,
    "propagate": propagate,
    "dense": dense,
}


def gram(left: Factor, right: Factor | None, plan: Plan) -> Tensor:
    """K [B, O, B', O'] as planned; with `right` None, of `left` with itself, each pair of examples once."""
    other = left if right is None else right
    B, O = left.g.shape[:2]
    columns, P = other.g.shape[:2]
    K = left.g.new_empty(B, O, columns, P)
    contract = ORDERS[plan.order]
    for start in range(0, B, plan.examples):
        stop = min(start + plan.examples, B)
        rows = left.examples(start, stop)
        first = 0
        if right is None:
            contract(K[start:stop, :, start:stop], rows, rows, triangle=True, memory=plan.memory)
            first = stop
        if first < columns:
            block = K[start:stop, :, first:]
            contract(
                block, rows, other.examples(first, columns), triangle=False, memory=plan.memory
            )
            if right is None:
                K[stop:, :, start:stop] = block.permute(2, 3, 0, 1)
    return K
