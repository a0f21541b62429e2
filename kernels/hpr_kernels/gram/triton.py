"""The orders of contraction on a GPU, as launches of `device.py`; docs/gpu.md describes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION, launch_options
from hpr_kernels.checks import Order, Precision, Reduction
from hpr_kernels.compiled import PAPER_SIZES, PaperSize, Specimen
from hpr_kernels.gram.device import gram_kernel
from hpr_kernels.gram.factors import Factors
from hpr_kernels.gram.rows import (
    CONFIGS,
    LaunchConfig,
    Rows,
    copied_bytes,
    inputs_in_fours,
    shared_arguments,
)
from hpr_kernels.layout import padded

# Building an entry of J on the ordinary units and moving it to memory and back, in multiply-adds of tensor cores.
BUILD = 4.0


def gram(
    left: Factors,
    right: Factors | None,
    *,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
    precision: Precision,
) -> Tensor:
    """K [R P, B1 O', B2 O'] of `left` and `right`, None for `left` itself; P and O' as in `Factors.reduced`.

    `order` is "hadamard", "dense", or "auto" for the choice of `choose`.
    """
    first = left.reduced(reduce)
    second = None if right is None else right.reduced(reduce)
    K = first.g.new_empty(len(first.g), first.rows, (second or first).rows)
    held = copied_bytes(first.g, left.g)
    if right is not None and second is not None:
        held += copied_bytes(second.g, right.g)
    if order == "auto":
        order = choose(first, second)
    contraction = dense if order == "dense" else hadamard
    contraction(K, first, second, precision, memory_budget, held)
    return K


def choose(left: Factors, right: Factors | None) -> Order:
    """The order with fewer multiply-adds. Passes over memory do not count: they take little time in either order."""
    other = right or left
    (_, B1, O1, S1, N), (_, B2, O2, S2, _), F = left.g.shape, other.g.shape, left.z.shape[-1]
    half = 0.5 if right is None else 1.0
    steps = sum(
        sum(last + 1 for last in a) * sum(last + 1 for last in b)
        for a, b in zip(left.reach, other.reach, strict=True)
    ) / len(left.reach)
    by_steps = half * B1 * B2 * (steps * N + S1 * S2 * F)
    built = B1 * O1 * S1 + (0 if right is None else B2 * O2 * S2)
    by_weights = half * B1 * O1 * B2 * O2 * N * F + BUILD * built * N * F
    return "hadamard" if by_steps <= by_weights else "dense"


def hadamard(
    K: Tensor,
    left: Factors,
    right: Factors | None,
    precision: Precision,
    memory_budget: int,
    held: int = 0,
) -> None:
    """Write Σ_{s,s'} ⟨g_s, g_s'⟩ Ft to K in one launch, or in several if Ft of all steps exceeds the memory budget.

    `held` bytes of the budget are in use. `right` None stands for `left`.
    """
    symmetric = right is None
    R, S, P = len(left.z), left.g.shape[3], len(left.reach)
    rows1, z1 = Rows.of(left), inputs_in_fours(left.z)
    rows2, z2 = (rows1, z1) if right is None else (Rows.of(right), inputs_in_fours(right.z))
    sides = [(rows1, z1)] if symmetric else [(rows1, z1), (rows2, z2)]
    fixed = held + sum(z.nbytes + rows.copied for rows, z in sides)
    step = z1.shape[3] * z2.shape[1] * z2.shape[3] * K.element_size()
    networks, steps = parts(R, S, step, fixed, memory_budget)
    for r in range(0, R, networks):
        pack, packs = slice(r, r + networks), slice(r * P, (r + networks) * P)
        g = rows1.networks(packs)
        h = g if symmetric else rows2.networks(packs)
        for start in range(0, S, steps):
            stop = min(start + steps, S)
            Ft = weights(z1[pack, start:stop], z2[pack], precision, symmetric)
            contract(K[packs], g, h, Ft, start, stop, precision, symmetric, add=start > 0)


def weights(z1: Tensor, z2: Tensor, precision: Precision, symmetric: bool) -> Tensor:
    """Ft = ⟨z_s^b, z_s'^b'⟩, [R, S B, S' B'], of z1 [R, S, 1, B, F] and z2 [R, S', 1, B', F]."""
    left, right = (Rows.of_one_step(z.flatten(1, 3), z.shape[1] * z.shape[3]) for z in (z1, z2))
    Ft = z1.new_empty(len(z1), left.B, right.B)
    whole = symmetric and left.B == right.B
    contract(Ft, left, left if whole else right, None, 0, 1, precision, whole)
    return Ft


def dense(
    K: Tensor,
    left: Factors,
    right: Factors | None,
    precision: Precision,
    memory_budget: int,
    held: int = 0,
) -> None:
    """Write J Jᵀ to K by blocks of J's columns. A batched product makes a block, whose rows have a single step.

    `held` bytes of the budget are in use. `right` None stands for `left`.
    """
    R, N, P = len(left.g), left.g.shape[-1], len(left.reach)
    sides = [
        (side.g, pad(side.z, (0, -side.z.shape[-1] % 4)).repeat_interleave(P, dim=0))
        for side in ([left] if right is None else [left, right])
    ]
    # Per unit: every row's part of J, and a copy of its adjoints in the layout of the product that makes J.
    unit = sum(
        g[0, ..., 0, 0].numel() * (g.shape[3] + z.shape[-1]) * K.element_size() for g, z in sides
    )
    fixed = held + sum(z.nbytes for _, z in sides)
    networks, columns = parts(R, N, unit, fixed, memory_budget)
    for r in range(0, R, networks):
        for n in range(0, N, columns):
            blocks = [
                block(g[r : r + networks, ..., n : n + columns], z[r : r + networks])
                for g, z in sides
            ]
            contract(
                K[r : r + networks], blocks[0], blocks[-1], None, 0, 1, precision, right is None, add=n > 0
            )  # fmt: skip


def block(g: Tensor, z: Tensor) -> Rows:
    """Columns of J = Σ_s g_s ⊗ z_s, of g [R, B, O, S, n] and z [R, B, S, F'], as rows of a single step."""
    R, B, O, S, n = g.shape
    J = torch.bmm(g.mT.reshape(R * B, O * n, S), z.flatten(0, 1))
    return Rows.of_one_step(J.view(R, B * O, -1), B * O)


def parts(R: int, steps: int, one: int, fixed: int, memory_budget: int) -> tuple[int, int]:
    """Numbers of networks and of steps per launch, at `one` byte count per network and step.

    Steps are divided only if all steps of one network do not fit, because further steps must be added to K.

    Raises:
        BudgetTooSmallError: one step of one network does not fit.
    """
    fit = (memory_budget - fixed) // one
    if fit < 1:
        raise checks.BudgetTooSmallError(fixed + one, memory_budget)
    networks = max(1, min(R, fit // steps))
    return networks, min(steps, fit // networks)


def contract(
    K: Tensor,
    left: Rows,
    right: Rows,
    Ft: Tensor | None,
    start: int,
    stop: int,
    precision: Precision,
    symmetric: bool,
    add: bool = False,
) -> None:
    """Launch `gram_kernel` on steps start … stop - 1 of the left; Ft holds the weights of these steps."""
    arguments, grid, config = gram_arguments(
        K, left, right, Ft, start, stop, precision, symmetric, add
    )
    with torch.cuda.device_of(K):
        options = launch_options(config.num_warps, config.num_stages, config.maxnreg)
        gram_kernel[grid](**arguments, **options)


def gram_arguments(
    K: Tensor,
    left: Rows,
    right: Rows,
    Ft: Tensor | None,
    start: int,
    stop: int,
    precision: Precision,
    symmetric: bool,
    add: bool = False,
) -> tuple[dict[str, Any], tuple[int], LaunchConfig]:
    """The arguments, grid and configuration of the launch by `contract`."""
    config = CONFIGS[precision]
    own, count = shared_arguments(left, right, config, precision, symmetric)
    outputs = {"O1": left.g.shape[2], "O2": right.g.shape[2], "P": len(left.reach)}
    steps = {"start": start, "stop": stop, "S1": left.g.shape[1], "S2": right.g.shape[1]}
    arguments = {**own, **outputs, **steps, "Ft": Ft, "K": K, "ADD": add}
    return arguments, (count * len(K),), config


def specimens(precision: Precision = DEFAULT_PRECISION) -> list[Specimen]:
    """The launches for one network at each of the paper's sizes: Ft and the two orders."""
    return [specimen for size in PAPER_SIZES for specimen in _specimens(size, precision)]


def stored(size: PaperSize, R: int) -> Factors:
    """Factors of R networks in the memory layout of the recurrence, as tensors without memory."""
    steps = checks.steps(size.outputs, size.T)
    O = len(steps) * size.N_out
    g = torch.empty(R, size.T, O, size.B, padded(size.N), device="meta")[..., : size.N]
    z = torch.empty(R, size.B, size.T, size.N + size.N_in, device="meta")
    reach = tuple(t for t in steps for _ in range(size.N_out))
    return Factors(g.permute(0, 3, 2, 1, 4), z, (reach,))


def pairs_with_steps(size: PaperSize) -> int:
    """Pairs of rows of a symmetric K, each counted once per pair of steps that its rows reach."""
    reached = [t + 1 for t in checks.steps(size.outputs, size.T) for _ in range(size.N_out)]
    return size.B * (size.B * sum(reached) ** 2 + sum(n * n for n in reached)) // 2


def as_types(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a launch as a specimen has them: a tensor becomes its type in Triton's notation."""
    types = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32"}
    return {
        key: types[value.dtype] if isinstance(value, Tensor) else value
        for key, value in arguments.items()
    }


def _specimens(size: PaperSize, precision: Precision) -> list[Specimen]:
    T, B, N, columns = size.T, size.B, size.N, 64
    one = stored(size, 1)
    M, F, rows = one.rows, one.z.shape[-1], Rows.of(one)
    z = inputs_in_fours(one.z)
    inputs = Rows.of_one_step(z.flatten(1, 3), T * B)
    J = Rows.of_one_step(one.g.new_empty(1, M, columns * z.shape[-1]), M)
    K, Ft = one.g.new_empty(1, M, M), one.g.new_empty(1, T * B, T * B)
    pairs, entries = M * (M + 1) // 2, pairs_with_steps(size)
    adjoints = B * N * sum(last + 1 for last in one.reach[0])
    # Per launch: its arguments, multiply-adds, and numbers read and written.
    launches = {
        "Ft": (
            gram_arguments(Ft, inputs, inputs, None, 0, 1, precision, True),
            T * B * (T * B + 1) // 2 * F, B * T * F + (T * B) ** 2,
        ),
        "hadamard": (
            gram_arguments(K, rows, rows, Ft, 0, T, precision, True), entries * N,
            adjoints + (T * B) ** 2 + M * M,
        ),
        f"dense, {columns} of {N} columns": (
            gram_arguments(K, J, J, None, 0, 1, precision, True, add=True),
            pairs * columns * F, M * columns * F + 3 * M * M // 2,
        ),
    }  # fmt: skip
    return [
        Specimen(
            name=f"gram {name}, N = {N}, T = {T}, B = {B}, O = {M // B}",
            kernel=gram_kernel,
            arguments=as_types(arguments),
            grid=grid,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            maxnreg=config.maxnreg,
            flops=2 * products,
            bytes=4 * numbers,
        )
        for name, ((arguments, grid, config), products, numbers) in launches.items()
    ]
