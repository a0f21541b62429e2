"""The order "propagate" by the C kernels on the CPU; see `native/gram.h`.

Each thread computes all of a pair of examples, so the result is the same on any number of threads and any CPU.
"""

from __future__ import annotations

from ctypes import Structure, addressof, c_int64, c_void_p

import torch
from torch import Tensor

from hpr_kernels.gram import eager
from hpr_kernels.gram.contraction_plan import TASK_ROWS, ContractionPlan
from hpr_kernels.gram.factors import Factors
from hpr_kernels.memory import on_huge_pages
from hpr_kernels.native.tasks import integer_array, take_tasks
from hpr_kernels.workers import threads

LINE = 64  # bytes


class GramArguments(Structure):
    """`Gram` of native/gram.h."""

    _fields_ = (
        [(name, c_int64) for name in ("B1", "O1", "S1", "B2", "O2", "S2", "N", "F")]
        + [(name, c_int64) for name in ("symmetric", "add", "tile")]
        + [(name, c_void_p) for name in ("reach1", "reach2", "g", "h", "z")]
        + [(name, c_int64) for name in ("z_example", "z_step", "z_column")]
        + [(name, c_void_p) for name in ("y", "K")]
        + [(name, c_int64) for name in ("K_example", "K_output", "K_other")]
        + [("counter", c_void_p)]
    )


class RowArguments(Structure):
    """`Rows` of native/gram.h."""

    _fields_ = (
        [(name, c_int64) for name in ("B", "O", "S", "N")]
        + [("g", c_void_p)]
        + [(name, c_int64) for name in ("example", "output", "step", "unit")]
        + [("out", c_void_p), ("counter", c_void_p)]
    )


class InputArguments(Structure):
    """`Inputs` of native/gram.h."""

    _fields_ = (
        [(name, c_int64) for name in ("B", "S", "F", "tile")]
        + [("y", c_void_p)]
        + [(name, c_int64) for name in ("example", "step", "column")]
        + [("out", c_void_p), ("counter", c_void_p)]
    )


class MirrorArguments(Structure):
    """`Mirror` of native/gram.h."""

    _fields_ = (
        [(name, c_int64) for name in ("B", "O")]
        + [("K", c_void_p)]
        + [(name, c_int64) for name in ("example", "output", "other")]
        + [("counter", c_void_p)]
    )


def contract(
    K: Tensor, left: Factors, right: Factors | None, plan: ContractionPlan, add: bool = False
) -> None:
    """Write K [B, O, B', O'] or add to it, as `gram.eager.contract` does, which serves the other orders."""
    if plan.order == "propagate":
        propagate(K, left, right or left, right is None, add)
    else:
        eager.contract(K, left, right, plan, add)


def propagate(K: Tensor, left: Factors, right: Factors, symmetric: bool, add: bool) -> None:
    """For each pair of examples make Σ_s' ⟨z_s, z_s'⟩ g_s' of a few units and multiply it by g_s at once."""
    g, z, y = left.g[0], left.z[0], right.z[0]
    (B, O, S, N), (C, P, T, _) = g.shape, right.g[0].shape
    packed = pack_rows(g)
    other = packed if right is left else pack_rows(right.g[0])
    tile = max(1, min(C, TASK_ROWS // T))
    inputs = _pack_inputs(y, tile)
    reach1, reach2 = integer_array(left.reach[0]), integer_array(right.reach[0])
    arguments = GramArguments(
        B, O, S, C, P, T, N, z.shape[-1], symmetric, add, tile,
        addressof(reach1), addressof(reach2), packed.data_ptr(), other.data_ptr(),
        z.data_ptr(), *z.stride(), inputs.data_ptr(), K.data_ptr(), *K.stride()[:3],
    )  # fmt: skip
    take_tasks("gram", arguments, K.dtype, threads(K.device))


def per_line(dtype: torch.dtype) -> int:
    """Numbers in a line."""
    return LINE // dtype.itemsize


def pack_rows(g: Tensor) -> Tensor:
    """The adjoints g [B, O, S, N] as [B, lines, S, O, W], W numbers to a line, with zeros beyond N."""
    B, O, S, N = g.shape
    W = per_line(g.dtype)
    packed = on_huge_pages(g.new_empty(B, -(-N // W), S, O, W))
    arguments = RowArguments(B, O, S, N, g.data_ptr(), *g.stride(), packed.data_ptr())
    take_tasks("pack_rows", arguments, g.dtype, threads(g.device))
    return packed


def _pack_inputs(y: Tensor, tile: int) -> Tensor:
    """Inputs y [C, T, F] by tiles of examples, [tiles, panels, F, W]: a lane is a row (example, step)."""
    C, T, F = y.shape
    W = per_line(y.dtype)
    tiles = -(-C // tile)
    packed = y.new_empty(tiles, -(-tile * T // W), F, W)
    arguments = InputArguments(C, T, F, tile, y.data_ptr(), *y.stride(), packed.data_ptr())
    take_tasks("pack_inputs", arguments, y.dtype, threads(y.device))
    return packed


def mirror(K: Tensor) -> None:
    """Make K [B, O, B, O] exactly symmetric from its pairs of examples b ≤ b', as `gram.eager.mirror` does."""
    arguments = MirrorArguments(*K.shape[:2], K.data_ptr(), *K.stride()[:3])
    take_tasks("mirror", arguments, K.dtype, threads(K.device))
