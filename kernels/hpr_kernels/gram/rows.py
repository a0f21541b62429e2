"""Rows of a Jacobian as the device code reads them, the tiles of K between them, and the arguments that say so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class GramTile(NamedTuple):
    """Rows and columns of K that a program holds, terms of ⟨g, g'⟩ that it loads at a time, and how it is launched."""

    rows: int
    N: int
    num_warps: int
    num_stages: int


# By precision; the compiler's report for three cards chose them (tests/kernels/test_gram_triton.py reads it).
TILES = {
    "tf32x3": GramTile(rows=64, N=16, num_warps=8, num_stages=3),
    "tf32": GramTile(rows=64, N=32, num_warps=8, num_stages=3),
    "ieee": GramTile(rows=32, N=64, num_warps=4, num_stages=2),
}


@dataclass(frozen=True)
class Rows:
    """Vectors of rows (o, b) as the kernels read them: g [R, S, O, B', N'], of which B examples count.

    B' and N' are B and N padded to fours with zeros. Network r of g is output r % P of network r // P, where outputs
    are taken one by one; `reach` has a tuple for each of the P.
    """

    g: Tensor
    B: int
    reach: tuple[tuple[int, ...], ...]
    copied: int = 0  # bytes

    @classmethod
    def of(cls, g: Tensor, reach: tuple[tuple[int, ...], ...]) -> Rows:
        """Of adjoints [R, B, O, S, N]: a view where they already lie so, as the recurrence leaves them."""
        rows = in_fours(g.permute(0, 3, 2, 1, 4))
        return cls(rows, g.shape[1], reach, copied(rows, g))

    def networks(self, some: slice) -> Rows:
        """The same, of some networks of the pack."""
        return replace(self, g=self.g[some])

    def last_steps(self, tile: int) -> Tensor:
        """For each of the P and for each tile of rows, the last step that one of its rows reaches, [P, tiles]."""
        O, B = self.g.shape[2:4]
        ends = [min(start + tile, O * B) - 1 for start in range(0, O * B, tile)]
        last = [[reach[end // B] for end in ends] for reach in self.reach]
        return torch.tensor(last, dtype=torch.int32, device=self.g.device)


def in_fours(g: Tensor) -> Tensor:
    """`g` [R, S, O, B, N] with B and N padded to fours; itself where nothing is to be padded and rows are aligned."""
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
    """A copy of `g` [R, S, O, B, N] with B and N padded to fours, whose rows are `row` numbers apart."""
    R, S, O, B, N = g.shape
    copy = g.new_zeros(R, S, O, B + -B % 4, row)
    copy[..., :B, :N] = g
    return copy[..., : N + -N % 4]


def copied(tensor: Tensor, source: Tensor) -> int:
    """Bytes of `tensor` where it is no view of `source`."""
    same = tensor.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    return 0 if same else tensor.nbytes


def shared_arguments(
    left: Rows, right: Rows, precision: str, symmetric: bool
) -> tuple[dict[str, Any], int]:
    """The arguments that both kernels have, and how many tiles there are of a network."""
    tile = TILES[precision]
    last1, last2 = left.last_steps(tile.rows), right.last_steps(tile.rows)
    table = tile_table(last1[-1], last2[-1], symmetric)
    arguments: dict[str, Any] = {
        "g": left.g, "h": right.g, "tiles": table, "reach1": last1, "reach2": last2,
        "count": table.shape[1], "SYMMETRIC": symmetric, "quads": left.g.shape[-1] // 4,
        "TILE": tile.rows, "TILE_N": tile.N, "PRECISION": precision,
    }  # fmt: skip
    for side, rows in (("1", left), ("2", right)):
        _, _, O, B, _ = rows.g.shape
        arguments |= {
            f"rows{side}": O * B, f"stride{side}": rows.g.stride(3) // 4,
            f"quads{side}": -(-B // 4), f"B{side}": rows.B,
        }  # fmt: skip
    return arguments, table.shape[1]


def tile_table(last1: Tensor, last2: Tensor, symmetric: bool) -> Tensor:
    """Row and column of each tile of K, [2, count] int32, the lower triangle where K is symmetric; long ones first."""
    size = (len(last1), len(last2))
    if symmetric:
        tiles = torch.tril_indices(*size, device=last1.device)
    else:
        tiles = torch.stack([axis.flatten() for axis in torch.meshgrid(
            *(torch.arange(n, device=last1.device) for n in size), indexing="ij")])  # fmt: skip
    pairs_of_steps = (last1[tiles[0]] + 1) * (last2[tiles[1]] + 1)
    return tiles[:, pairs_of_steps.argsort(descending=True, stable=True)].int().contiguous()
