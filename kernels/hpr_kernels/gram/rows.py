"""Rows of a Jacobian as the device code reads them, and the arguments of a launch that describe them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpr_kernels.checks import Precision
from hpr_kernels.gram.factors import Factors


class LaunchConfig(NamedTuple):
    """Rows and columns of K per program, terms of ⟨g, g'⟩ per load, and options of the launch."""

    rows: int
    N: int
    num_warps: int
    num_stages: int
    maxnreg: int | None = None


# Chosen from the compiler's report for three cards, which tests/kernels/test_gram_triton.py checks.
CONFIGS: dict[Precision, LaunchConfig] = {
    "tf32x3": LaunchConfig(rows=64, N=16, num_warps=4, num_stages=3, maxnreg=255),
    "tf32": LaunchConfig(rows=64, N=32, num_warps=8, num_stages=3),
    "ieee": LaunchConfig(rows=32, N=64, num_warps=4, num_stages=2),
}
# The alignment holds two tiles of kernels, which at "ieee" leaves too few registers for the configuration above.
ALIGNMENT_CONFIGS: dict[Precision, LaunchConfig] = {
    **CONFIGS,
    "ieee": LaunchConfig(rows=32, N=32, num_warps=8, num_stages=2),
}


@dataclass(frozen=True, eq=False)
class Rows:
    """The g of `Factors` as the kernels read it: vectors of rows (o, b) in g [R P, S, O, B', N'].

    B' and N' are B and N padded with zeros to multiples of four. `reach` is that of the factors.
    """

    g: Tensor
    B: int
    reach: tuple[tuple[int, ...], ...]
    copied: int = 0  # bytes

    @classmethod
    def of(cls, factors: Factors) -> Rows:
        """A view where g already lies so in memory, as the recurrence leaves it; else a copy."""
        g = in_fours(factors.g.permute(0, 3, 2, 1, 4))
        return cls(g, factors.g.shape[1], factors.reach, copied_bytes(g, factors.g))

    @classmethod
    def of_one_step(cls, vectors: Tensor, B: int) -> Rows:
        """Vectors [R, B', N'] as rows of a single step and output."""
        return cls(vectors[:, None, None], B, ((0,),))

    def networks(self, some: slice) -> Rows:
        """The rows of some entries of g's first axis."""
        return replace(self, g=self.g[some])

    def last_steps(self, tile: int) -> Tensor:
        """For each of the P and for each tile of rows, the last step that one of its rows reaches, [P, tiles]."""
        O, B = self.g.shape[2:4]
        ends = [min(start + tile, O * B) - 1 for start in range(0, O * B, tile)]
        last = [[reach[end // B] for end in ends] for reach in self.reach]
        return torch.tensor(last, dtype=torch.int32, device=self.g.device)


def inputs_in_fours(z: Tensor) -> Tensor:
    """z [R, B, S, F] in the layout of `Rows.g`, [R, S, 1, B', F'], where the examples of a step lie together."""
    return in_fours(z.transpose(1, 2)[:, :, None])


def in_fours(g: Tensor) -> Tensor:
    """`g` [R, S, O, B, N] with B and N padded to multiples of four; `g` itself if it needs neither padding nor copy."""
    _, S, O, B, N = g.shape
    row = g.stride(3)
    strides = (S * O * B * row, O * B * row, B * row, row, 1)
    even = all(
        size == 1 or stride == wanted
        for size, stride, wanted in zip(g.shape, g.stride(), strides, strict=True)
    )
    if even and B % 4 == N % 4 == row % 4 == g.data_ptr() % 16 == 0:
        return g
    return padded_to(g, N + -N % 4)


def padded_to(g: Tensor, row: int) -> Tensor:
    """A copy of `g` [R, S, O, B, N] with B and N padded to multiples of four, and rows at a distance of `row`."""
    R, S, O, B, N = g.shape
    copy = g.new_zeros(R, S, O, B + -B % 4, row)
    copy[..., :B, :N] = g
    return copy[..., : N + -N % 4]


def copied_bytes(tensor: Tensor, source: Tensor) -> int:
    """Bytes of `tensor` if it is not a view of `source`, else 0."""
    same = tensor.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    return 0 if same else tensor.nbytes


def shared_arguments(
    left: Rows, right: Rows, config: LaunchConfig, precision: Precision, symmetric: bool
) -> tuple[dict[str, Any], int]:
    """The arguments that both kernels have, and the number of tiles per network."""
    last1, last2 = left.last_steps(config.rows), right.last_steps(config.rows)
    table = tile_table(last1[-1], last2[-1], symmetric)
    arguments: dict[str, Any] = {
        "g": left.g, "h": right.g, "tiles": table, "reach1": last1, "reach2": last2,
        "count": table.shape[1], "SYMMETRIC": symmetric, "quads": left.g.shape[-1] // 4,
        "TILE": config.rows, "TILE_N": config.N, "PRECISION": precision,
    }  # fmt: skip
    for side, rows in (("1", left), ("2", right)):
        _, _, O, B, _ = rows.g.shape
        arguments |= {
            f"rows{side}": O * B, f"stride{side}": rows.g.stride(3) // 4,
            f"quads{side}": -(-B // 4), f"B{side}": rows.B,
        }  # fmt: skip
    return arguments, table.shape[1]


def tile_table(last1: Tensor, last2: Tensor, symmetric: bool) -> Tensor:
    """Row and column of each tile of K, [2, count] int32, in descending order of work.

    If K is symmetric, only the lower triangle.
    """
    size = (len(last1), len(last2))
    if symmetric:
        tiles = torch.tril_indices(*size, device=last1.device)
    else:
        tiles = torch.stack([axis.flatten() for axis in torch.meshgrid(
            *(torch.arange(n, device=last1.device) for n in size), indexing="ij")])  # fmt: skip
    pairs_of_steps = (last1[tiles[0]] + 1) * (last2[tiles[1]] + 1)
    return tiles[:, pairs_of_steps.argsort(descending=True, stable=True)].int().contiguous()
