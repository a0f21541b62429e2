"""The sums of a tangent kernel alignment by Triton: tiles of both kernels stay in registers, neither is in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hpr_kernels.backend import DEFAULT_PRECISION, launch_options
from hpr_kernels.checks import Precision
from hpr_kernels.compiled import PAPER_SIZES, PaperSize, Specimen
from hpr_kernels.gram.device import alignment_kernel
from hpr_kernels.gram.factors import Factors
from hpr_kernels.gram.rows import (
    ALIGNMENT_CONFIGS,
    LaunchConfig,
    Rows,
    inputs_in_fours,
    padded_to,
    shared_arguments,
)
from hpr_kernels.gram.triton import as_types, pairs_with_steps, stored, weights
from hpr_kernels.progress import Progress, Steps
from hpr_kernels.tangent.block import JacobianBlock
from hpr_kernels.tangent.network import NetworkPack


def alignment_sums(
    before: NetworkPack,
    after: NetworkPack,
    x: Tensor,
    memory_budget: int,
    progress: Progress | None = None,
) -> Tensor | None:
    """Σ K_f K_0, Σ K_f² and Σ K_0², [3, R] in fp64, of two packs as one pack of 2 R; x [R or 1, T, B, N_in].

    None if one example of all networks exceeds the budget.
    """
    weights: dict[str, Any] = {
        group: None
        if old is None or (new := after.weights[group]) is None
        else torch.cat([old, new])
        for group, old in before.weights.items()
    }
    both = replace(before, **weights)
    x = x if len(x) == 1 else torch.cat([x, x])
    T, B = x.shape[1:3]
    # The adjoints may take half of the budget, and ⟨z_s, z_s'⟩ of two tiles a quarter.
    inner = int((memory_budget / 4 / (len(both.recurrent) * T * T * x.element_size())) ** 0.5)
    size = min(both.examples(x, memory_budget) // len(both.recurrent), inner)
    if size < 1:
        return None
    parts = -(-B // size)
    steps = Steps(progress, parts * (parts + 1) // 2)
    total = torch.zeros(3, len(before.recurrent), dtype=torch.float64, device=x.device)
    for start in range(0, B, size):
        left = both.block(x[:, :, start : start + size])
        for first in range(start, B, size):
            right = None if first == start else both.block(x[:, :, first : first + size])
            sums = block_sums(left, right, both.N_out)
            left.check_finite_unless(right, sums)
            # A block off the diagonal counts for its transpose, too.
            total += (1.0 if right is None else 2.0) * sums
            steps.step()
    return total


def block_sums(left: JacobianBlock, right: JacobianBlock | None, N_out: int) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0² between two blocks, [3, R] in fp64; `right` None stands for `left`.

    The first half of the pack of 2 R networks makes K_0, the second half K_f. Both blocks must have `factors`.
    """
    z1, z2 = (inputs_in_fours(_factors(side).z) for side in (left, right or left))
    Ft = weights(z1, z2, left.precision, symmetric=right is None)
    arguments, grid, config = alignment_arguments(left, right, Ft, N_out)
    with torch.cuda.device_of(Ft):
        options = launch_options(config.num_warps, config.num_stages, config.maxnreg)
        alignment_kernel[grid](**arguments, **options)
    # Each network has a sum of its own, because torch's order of summation depends on the number of sums.
    return torch.stack([one.sum(0) for one in arguments["sums"]], dim=1)


def alignment_arguments(
    left: JacobianBlock, right: JacobianBlock | None, Ft: Tensor, N_out: int
) -> tuple[dict[str, Any], tuple[int], LaunchConfig]:
    """The arguments, grid and configuration of the launch by `block_sums`."""
    sides = [left] if right is None else [left, right]
    rows = [Rows.of(_factors(side)) for side in sides]
    config = ALIGNMENT_CONFIGS[left.precision]
    own, count = shared_arguments(rows[0], rows[-1], config, left.precision, right is None)
    R = len(left.rates) // 2
    arguments: dict[str, Any] = {
        **own,
        "Ft": Ft,
        "sums": Ft.new_empty(R, count, 3, dtype=torch.float64),
        "R": R,
        "S": rows[0].g.shape[1],
        "t": left.rates.shape[2] if left.by_readout else 1,
        "N_out": N_out,
    }
    for number, side, row in zip("12", (sides[0], sides[-1]), (rows[0], rows[-1]), strict=True):
        rates = side.rates[:, :, :, None] if side.by_readout else None
        diagonal = None if side.diagonal is None else side.diagonal[:, :, :, None]
        for name, value in (("rates", rates), ("diagonal", diagonal)):
            if value is not None:
                value = padded_to(value.permute(0, 3, 2, 1, 4), row.g.stride(3))
            arguments[name + number] = value
    return arguments, (count * R,), config


def _factors(block: JacobianBlock) -> Factors:
    assert block.factors is not None
    return block.factors


def specimens(precision: Precision = DEFAULT_PRECISION) -> list[Specimen]:
    """The alignment of two networks at each of the paper's sizes."""
    return [_specimen(size, precision) for size in PAPER_SIZES]


def _specimen(size: PaperSize, precision: Precision) -> Specimen:
    T, B, N, N_out = size.T, size.B, size.N, size.N_out
    factors = stored(size, 2)
    M, reach = factors.rows, factors.reach[0]
    rates = factors.z.new_empty(2, B, M // B // N_out, N)
    left = JacobianBlock(factors, None, rates, True, 0, N_out, precision)
    Ft = factors.z.new_empty(1, T * B, T * B)
    arguments, grid, config = alignment_arguments(left, None, Ft, N_out)
    entries, adjoints = pairs_with_steps(size), B * N * sum(last + 1 for last in reach)
    return Specimen(
        name=f"tangent alignment, N = {N}, T = {T}, B = {B}, O = {M // B}",
        kernel=alignment_kernel,
        arguments=as_types(arguments),
        grid=grid,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        maxnreg=config.maxnreg,
        flops=4 * (entries + M * (M + 1) // 2 // N_out) * N,
        bytes=8 * (adjoints + (T * B) ** 2 + M // N_out * N),
    )
