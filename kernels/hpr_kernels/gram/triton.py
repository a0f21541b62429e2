"""The orders of contraction on a GPU, and two kernels' alignment, as launches of `device.py`; see kernels/README.md."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION, launch_options
from hpr_kernels.compiled import PAPER_SIZES, PaperSize, Specimen
from hpr_kernels.gram.device import alignment_kernel, gram_kernel
from hpr_kernels.gram.rows import (
    TILES,
    GramTile,
    Rows,
    copied,
    in_fours,
    padded_to,
    shared_arguments,
)
from hpr_kernels.layout import padded

# Multiply-adds on the ordinary units that build J, and its way to memory and back, in those of tensor cores.
BUILD = 4.0


class Factors(NamedTuple):
    """g [R, B, O, S, N], z [R, B, S, F], and for each output the last step that it reaches, ascending."""

    g: Tensor
    z: Tensor
    reach: tuple[int, ...]


def reduced(factors: Factors, reduce: str) -> tuple[Tensor, tuple[tuple[int, ...], ...]]:
    """The adjoints that `reduce` contracts, [R P, B, O', S, N'], and how far each of the P reaches."""
    g, _, reach = factors
    if reduce == "trace":
        # Σ_o ⟨g^o, g'^o⟩ is the inner product of the outputs' adjoints end to end.
        return g.transpose(2, 3).flatten(3)[:, :, None], (reach[-1:],)
    if reduce == "diagonal":
        return g.transpose(1, 2).flatten(0, 1)[:, :, None], tuple((last,) for last in reach)
    return g, (reach,)


def gram(
    left: Factors,
    right: Factors | None,
    *,
    reduce: str,
    order: str,
    precision: str,
    memory_budget: int,
) -> Tensor:
    """K [R P, B1 O', B2 O'] of `left` with `right`, None for itself; P and O' as in `reduced`.

    `order` is "hadamard", "dense", or "auto" for what `choose` takes.
    """
    g, reach1 = reduced(left, reduce)
    h, reach2 = (g, reach1) if right is None else reduced(right, reduce)
    z1, z2 = left.z, left.z if right is None else right.z
    K = g.new_empty(len(g), g.shape[1] * g.shape[2], h.shape[1] * h.shape[2])
    held = copied(g, left.g) + (0 if right is None else copied(h, right.g))
    if order == "auto":
        order = choose(g, h, z1.shape[-1], reach1, reach2, symmetric=right is None)
    if order == "dense":
        dense(K, (g, z1), None if right is None else (h, z2), precision, memory_budget, held)
    else:
        rows = Rows.of(g, reach1)
        others = rows if right is None else Rows.of(h, reach2)
        hadamard(K, rows, others, z1, z2, precision, memory_budget, held)
    return K


def choose(
    g: Tensor,
    h: Tensor,
    F: int,
    reach1: tuple[tuple[int, ...], ...],
    reach2: tuple[tuple[int, ...], ...],
    *,
    symmetric: bool,
) -> str:
    """The order with fewer multiply-adds; passes over memory do not count, for neither order has any that matter."""
    (_, B1, O1, S1, N), (_, B2, O2, S2, _) = g.shape, h.shape
    half = 0.5 if symmetric else 1.0
    steps = sum(
        sum(last + 1 for last in a) * sum(last + 1 for last in b)
        for a, b in zip(reach1, reach2, strict=True)
    ) / len(reach1)
    by_steps = half * B1 * B2 * (steps * N + S1 * S2 * F)
    built = B1 * O1 * S1 + (0 if symmetric else B2 * O2 * S2)
    by_weights = half * B1 * O1 * B2 * O2 * N * F + BUILD * built * N * F
    return "hadamard" if by_steps <= by_weights else "dense"


def hadamard(
    K: Tensor,
    left: Rows,
    right: Rows,
    z1: Tensor,
    z2: Tensor,
    precision: str,
    memory_budget: int,
    held: int = 0,
) -> None:
    """Σ_{s,s'} ⟨g_s, g_s'⟩ Ft in one launch, or in as many as the memory for Ft asks for; symmetric if left is right.

    `held` bytes of the budget are in use.
    """
    symmetric = left is right
    R, S, P = len(z1), left.g.shape[1], len(left.reach)
    # As the adjoints, but with a step's examples in one piece: [R, S, 1, B', F'].
    z1 = in_fours(z1.transpose(1, 2)[:, :, None])
    z2 = z1 if symmetric else in_fours(z2.transpose(1, 2)[:, :, None])
    sides = [(left, z1)] if symmetric else [(left, z1), (right, z2)]
    fixed = held + sum(z.nbytes + rows.copied for rows, z in sides)
    step = z1.shape[3] * z2.shape[1] * z2.shape[3] * K.element_size()
    networks, steps = parts(R, S, step, fixed, memory_budget)
    for r in range(0, R, networks):
        pack, packs = slice(r, r + networks), slice(r * P, (r + networks) * P)
        g = left.networks(packs)
        h = g if symmetric else right.networks(packs)
        for start in range(0, S, steps):
            stop = min(start + steps, S)
            Ft = weights(z1[pack, start:stop], z2[pack], precision, symmetric)
            contract(K[packs], g, h, Ft, start, stop, precision, symmetric, add=start > 0)


def weights(z1: Tensor, z2: Tensor, precision: str, symmetric: bool) -> Tensor:
    """Ft = ⟨z_s^b, z_s'^b'⟩, [R, S B, S' B'], of z1 [R, S, 1, B, F] and z2 [R, S', 1, B', F]."""
    left, right = (
        Rows(z.flatten(1, 3)[:, None, None], z.shape[1] * z.shape[3], ((0,),)) for z in (z1, z2)
    )
    Ft = z1.new_empty(len(z1), left.B, right.B)
    whole = symmetric and left.B == right.B
    contract(Ft, left, left if whole else right, None, 0, 1, precision, whole)
    return Ft


def dense(
    K: Tensor,
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor] | None,
    precision: str,
    memory_budget: int,
    held: int = 0,
) -> None:
    """J Jᵀ by blocks of J's columns, made by one batched product and contracted as rows of a single step."""
    R, N = len(left[0]), left[0].shape[-1]
    sides = [left] if right is None else [left, right]
    P = R // len(left[1])
    sides = [(g, pad(z, (0, -z.shape[-1] % 4)).repeat_interleave(P, dim=0)) for g, z in sides]
    # What a unit adds to every row: its part of J, and its adjoints in the order of the product that makes it.
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
    J = J.view(R, 1, 1, B * O, -1)
    return Rows(J, B * O, ((0,),))


def parts(R: int, steps: int, one: int, fixed: int, memory_budget: int) -> tuple[int, int]:
    """Networks and steps at a time, `one` byte count for each of both; networks before steps, which are sums.

    Raises:
        BudgetTooSmallError: not even one of each fits.
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
    precision: str,
    symmetric: bool,
    add: bool = False,
) -> None:
    """Launch `gram_kernel` on steps start … stop - 1 of the left, whose Ft is given."""
    arguments, grid, tile = gram_arguments(
        K, left, right, Ft, start, stop, precision, symmetric, add
    )
    with torch.cuda.device_of(K):
        gram_kernel[grid](**arguments, **launch_options(tile.num_warps, tile.num_stages))


def gram_arguments(
    K: Tensor,
    left: Rows,
    right: Rows,
    Ft: Tensor | None,
    start: int,
    stop: int,
    precision: str,
    symmetric: bool,
    add: bool = False,
) -> tuple[dict[str, Any], tuple[int], GramTile]:
    """What `contract` launches."""
    tile = TILES[precision]
    own, count = shared_arguments(left, right, precision, symmetric)
    outputs = {"O1": left.g.shape[2], "O2": right.g.shape[2], "P": len(left.reach)}
    steps = {"start": start, "stop": stop, "S1": left.g.shape[1], "S2": right.g.shape[1]}
    return {**own, **outputs, **steps, "Ft": Ft, "K": K, "ADD": add}, (count * len(K),), tile


class Side(NamedTuple):
    """Some examples of a tangent kernel: by W_h and W_x, by w as rates [R, b, t, N], the diagonal to be taken off."""

    step: Factors
    rates: Tensor | None
    diagonal: Tensor | None  # [R, b, O, 1, N]


def alignment_sums(left: Side, right: Side | None, N_out: int, precision: str) -> Tensor:
    """Σ K_f K_0, Σ K_f², Σ K_0² between the examples of two sides, [3, R] in fp64; no K is stored.

    The networks of K_0 are the first half of the pack of 2 R, those of K_f the second. `right` None: of `left` with
    itself.
    """
    z1, z2 = (in_fours(side.step.z.transpose(1, 2)[:, :, None]) for side in (left, right or left))
    Ft = weights(z1, z2, precision, symmetric=right is None)
    arguments, grid, tile = alignment_arguments(left, right, Ft, N_out, precision)
    with torch.cuda.device_of(left.step.g):
        alignment_kernel[grid](**arguments, **launch_options(tile.num_warps, tile.num_stages))
    # One network at a time: how torch orders a sum depends on how many it makes.
    return torch.stack([one.sum(0) for one in arguments["sums"]], dim=1)


def alignment_arguments(
    left: Side, right: Side | None, Ft: Tensor, N_out: int, precision: str
) -> tuple[dict[str, Any], tuple[int], GramTile]:
    """What `alignment_sums` launches."""
    sides = [left] if right is None else [left, right]
    rows = [Rows.of(side.step.g, (side.step.reach,)) for side in sides]
    own, count = shared_arguments(rows[0], rows[-1], precision, right is None)
    R = len(left.step.g) // 2
    sums = left.step.g.new_empty(R, count, 3, dtype=torch.float64)
    arguments = {
        **own,
        "Ft": Ft,
        "sums": sums,
        "R": R,
        "S": rows[0].g.shape[1],
        "t": 1 if left.rates is None else left.rates.shape[2],
        "N_out": N_out,
    }
    for name in ("rates", "diagonal"):
        for number, side, row in zip("12", (sides[0], sides[-1]), (rows[0], rows[-1]), strict=True):
            value = getattr(side, name)
            if value is not None:
                value = value[:, :, :, None] if name == "rates" else value
                value = padded_to(value.permute(0, 3, 2, 1, 4), row.g.stride(3))
            arguments[name + number] = value
    return arguments, (count * R,), TILES[precision]


def specimens(precision: str = DEFAULT_PRECISION) -> list[Specimen]:
    """The launches for one network at each of the paper's sizes: Ft, the two orders, the alignment of two networks."""
    return [specimen for size in PAPER_SIZES for specimen in _specimens(size, precision)]


def _specimens(size: PaperSize, precision: str) -> list[Specimen]:
    T, B, N, N_in, N_out = size.T, size.B, size.N, size.N_in, size.N_out
    steps = checks.steps(size.outputs, T)
    O, F, columns = len(steps) * N_out, N + N_in, 64
    M = B * O
    reach = tuple(t for t in steps for _ in range(N_out))

    def stored(R: int) -> tuple[Factors, Tensor]:
        """Adjoints and rates as the recurrence leaves them, without memory."""
        g = torch.empty(R, T, O, B, padded(N), device="meta")[..., :N].permute(0, 3, 2, 1, 4)
        z = torch.empty(R, B, T, F, device="meta")
        return Factors(g, z, reach), z.new_empty(R, B, len(steps), N)

    one, _ = stored(1)
    two, rates = stored(2)
    rows = Rows.of(one.g, (reach,))
    z = in_fours(one.z.transpose(1, 2)[:, :, None])
    inputs = Rows(z.flatten(1, 3)[:, None, None], T * B, ((0,),))
    J = Rows(one.g.new_empty(1, 1, 1, M, columns * z.shape[-1]), M, ((0,),))
    K, Ft = one.g.new_empty(1, M, M), one.g.new_empty(1, T * B, T * B)
    reached = [last + 1 for last in reach]
    # Pairs of rows that are computed, and those of them with their pairs of steps.
    pairs, entries = (
        M * (M + 1) // 2,
        B * (B * sum(reached) ** 2 + sum(n * n for n in reached)) // 2,
    )
    adjoints, outside = B * sum(reached) * N, B * T * F
    weights_of = (inputs, inputs, None, 0, 1, precision, True)
    # Its launch, multiply-adds, numbers read and written.
    launches = {
        "Ft": (
            gram_kernel, gram_arguments(Ft, *weights_of), T * B * (T * B + 1) // 2 * F,
            outside + (T * B) ** 2,
        ),
        "hadamard": (
            gram_kernel, gram_arguments(K, rows, rows, Ft, 0, T, precision, True), entries * N,
            adjoints + (T * B) ** 2 + M * M,
        ),
        f"dense, {columns} of {N} columns": (
            gram_kernel, gram_arguments(K, J, J, None, 0, 1, precision, True, add=True),
            pairs * columns * F, M * columns * F + 3 * M * M // 2,
        ),
        "alignment": (
            alignment_kernel, alignment_arguments(Side(two, rates, None), None, Ft, N_out, precision),
            2 * (entries + pairs // N_out) * N, 2 * (adjoints + (T * B) ** 2 + B * len(steps) * N),
        ),
    }  # fmt: skip
    types = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32"}
    return [
        Specimen(
            name=f"gram {name}, N = {N}, T = {T}, B = {B}, O = {O}",
            kernel=kernel,
            arguments={
                key: types[value.dtype] if isinstance(value, Tensor) else value
                for key, value in arguments.items()
            },
            grid=grid,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            flops=2 * products,
            bytes=4 * numbers,
        )
        for name, (kernel, (arguments, grid, tile), products, numbers) in launches.items()
    ]
