"""The sums of a tangent kernel alignment by Triton: tiles of both kernels in registers, neither ever in memory."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hpr_kernels.gram import triton
from hpr_kernels.tangent.network import Network, Tile


def sums(before: Network, after: Network, x: Tensor, memory_budget: int) -> Tensor | None:
    """Σ K_f K_0, Σ K_f² and Σ K_0², [3, R] in fp64, of networks as one pack of 2 R; x [R or 1, T, B, N_in].

    None where the budget does not hold one example of all of them.
    """
    pairs = [(n.recurrent, n.input, n.readout) for n in (before, after)]
    recurrent, input, readout = (
        None if old is None or new is None else torch.cat([old, new])
        for old, new in zip(*pairs, strict=True)
    )
    assert recurrent is not None
    assert input is not None
    both = replace(before, recurrent=recurrent, input=input, readout=readout)
    x = x if len(x) == 1 else torch.cat([x, x])
    T, B = x.shape[1:3]
    # The adjoints take half of the budget; ⟨z_s, z_s'⟩ between all examples of a tile shall fit a quarter.
    inner = int((memory_budget / 4 / (len(recurrent) * T * T * x.element_size())) ** 0.5)
    size = min(both.examples(x, memory_budget) // len(recurrent), inner)
    if size < 1:
        return None
    total = torch.zeros(3, len(before.recurrent), dtype=torch.float64, device=x.device)
    for start in range(0, B, size):
        left = both.tile(x[:, :, start : start + size])
        for first in range(start, B, size):
            # Off the diagonal a block stands for its transpose, too.
            weight = 1.0 if first == start else 2.0
            right = None
            if first != start:
                right = side(both, both.tile(x[:, :, first : first + size]))
            total += weight * triton.alignment_sums(
                side(both, left), right, both.N_out, both.precision
            )
    return total


def side(network: Network, tile: Tile) -> triton.Side:
    """What a tile of examples contributes, by parameter group."""
    assert tile.step is not None
    return triton.Side(
        triton.Factors(*tile.step.as_pack()),
        tile.rates if "readout" in network.groups else None,
        None if tile.diagonal is None else tile.diagonal[:, :, :, None],
    )
