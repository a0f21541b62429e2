"""Three exact ways to contract K_ij = Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ ⟨z_s^b, z_s'^b'⟩ (science of each: kernels/README.md).

A `Factor` is one network's adjoints and inputs. Each order fills the block of K between a few examples on the left and
many on the right; `gram` walks the blocks, halves the work by symmetry, and so bounds the memory beside the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Bytes of a block's largest temporary: about the second-level cache of one core, where the products read it back.
BLOCK_BYTES = {"hadamard": 8 << 20, "propagate": 2 << 20, "dense": 64 << 20}


@dataclass(frozen=True)
class Factor:
    """g [B, O, S, N] and z [B, S, F]; `reach[o]` is the last step at which output o has a non-zero adjoint."""

    g: Tensor
    z: Tensor
    reach: tuple[int, ...]

    def examples(self, start: int, stop: int) -> Factor:
        """The same, of a range of examples."""
        return Factor(self.g[start:stop], self.z[start:stop], self.reach)

    def first(self, s: int) -> int:
        """First output that reaches step s: with `reach` ascending, those that do are a suffix."""
        return sum(reach < s for reach in self.reach)


def hadamard(K: Tensor, left: Factor, right: Factor) -> None:
    """⟨g_s, g_s'⟩ of all pairs of rows that reach s and s', times ⟨z_s, z_s'⟩, summed over s and s'."""
    Ft = torch.tensordot(left.z, right.z, dims=([2], [2]))  # [b, S, B, S']
    g, h = (f.g.permute(2, 1, 0, 3).contiguous() for f in (left, right))  # [S, O, B, N]
    total = K.new_zeros(g.shape[1], len(left.z), h.shape[1], len(right.z))  # [O, b, O', B]
    for s in range(len(g)):
        o = left.first(s)
        for t in range(len(h)):
            p = right.first(t)
            if o == g.shape[1] or p == h.shape[1]:
                continue
            rows, columns = g[s, o:], h[t, p:]
            D = rows.flatten(0, 1) @ columns.flatten(0, 1).mT
            D = D.view(*rows.shape[:2], *columns.shape[:2])
            total[o:, :, p:].addcmul_(D, Ft[:, s, None, :, t])
    K.copy_(total.permute(1, 0, 3, 2))


def propagate(K: Tensor, left: Factor, right: Factor) -> None:
    """Σ_s' ⟨z_s, z_s'⟩ g_s' for each pair of examples, then one product over (s, N)."""
    b, S = left.z.shape[:2]
    O, N = left.g.shape[1], left.g.shape[3]
    Ft = torch.tensordot(right.z, left.z, dims=([2], [2]))  # [B, S', b, S]
    g = left.g.permute(0, 1, 2, 3).reshape(b, O, S * N)
    h = right.g.permute(0, 2, 3, 1).contiguous()  # [B, S', N, O']
    B, P = len(h), h.shape[3]
    buffer = K.new_empty(b * S, N * P)
    for j in range(B):
        torch.mm(Ft[j].flatten(1).mT, h[j].flatten(1), out=buffer)
        K[:, :, j] = torch.bmm(g, buffer.view(b, S * N, P))


def dense(K: Tensor, left: Factor, right: Factor) -> None:
    """Blocks of the Jacobian, written out, multiplied and forgotten."""
    J = jacobian(left)
    step = max(1, BLOCK_BYTES["dense"] // max(1, J[0].nbytes))
    for start in range(0, len(right.z), step):
        H = jacobian(right.examples(start, start + step))
        product = J.flatten(0, 1) @ H.flatten(0, 1).mT
        K[:, :, start : start + step] = product.view(*J.shape[:2], *H.shape[:2])


def jacobian(factor: Factor) -> Tensor:
    """J = Σ_s g_s ⊗ z_s, [B, O, N F]."""
    B, O, S, N = factor.g.shape
    rows = factor.g.permute(0, 1, 3, 2).reshape(B, O * N, S)
    return torch.bmm(rows, factor.z).view(B, O, -1)


ORDERS: dict[str, Callable[[Tensor, Factor, Factor], None]] = {
    "hadamard": hadamard,
    "propagate": propagate,
    "dense": dense,
}


def gram(left: Factor, right: Factor | None, order: str) -> Tensor:
    """K [B, O, B', O'] by one of the orders; with `right` None, of `left` with itself, each pair once."""
    symmetric = right is None
    right = left if right is None else right
    B, O, S, N = left.g.shape
    columns, P = len(right.z), right.g.shape[1]
    K = left.g.new_empty(B, O, columns, P)
    example = {
        "hadamard": O * columns * P,
        "propagate": S * N * P,
        "dense": O * N * left.z.shape[2],
    }[order] * K.element_size()
    step = min(B, max(1, BLOCK_BYTES[order] // example))
    for start in range(0, B, step):
        stop = min(start + step, B)
        first = start if symmetric else 0
        block = K[start:stop, :, first:]
        ORDERS[order](block, left.examples(start, stop), right.examples(first, columns))
        if symmetric:
            # Rounding leaves the diagonal block a little unsymmetric; a kernel is exactly symmetric.
            diagonal = block[:, :, : stop - start]
            diagonal.copy_((diagonal + diagonal.permute(2, 3, 0, 1)) / 2)
            K[stop:, :, start:stop] = block[:, :, stop - start :].permute(2, 3, 0, 1)
    return K


def multiply_adds(order: str, B1: int, B2: int, O1: int, O2: int, S: int, N: int, F: int) -> float:
    """Multiply-adds of an order, without the savings by causality and symmetry that all three share."""
    pairs = float(B1 * B2)
    gram_of_inputs = pairs * S * S * F
    if order == "hadamard":
        return gram_of_inputs + pairs * O1 * O2 * S * S * (N + 1)
    if order == "propagate":
        return gram_of_inputs + pairs * S * O2 * N * (S + O1)
    return pairs * O1 * O2 * N * F + (B1 * O1 + B2 * O2) * float(S * N * F)
