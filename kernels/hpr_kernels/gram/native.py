"""The order "propagate" by the C kernels on the CPU; see `native/gram.h`.

Each thread computes all of a pair of examples, so the result is the same on any number of threads and any CPU.
"""

from __future__ import annotations

from ctypes import Structure, addressof, c_int64, c_void_p

from torch import Tensor

from hpr_kernels.gram import eager
from hpr_kernels.gram.contraction_plan import TASK_ROWS, ContractionPlan
from hpr_kernels.gram.factors import Factors
from hpr_kernels.memory import scratch
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
    # torch keeps some views, as the imaginary part of a conjugate, with the opposite sign in memory.
    g, h, z, y = (value[0].resolve_neg() for value in (left.g, right.g, left.z, right.z))
    (B, O, S, N), (C, P, T, _), F = g.shape, h.shape, z.shape[-1]
    W = LINE // g.element_size()
    lines, tile = -(-N // W), max(1, min(C, TASK_ROWS // T))
    # In lines of W numbers: adjoints of each side, and right inputs, whose lanes are rows (example, step).
    sizes = [
        B * lines * S * O,
        0 if right is left else C * lines * T * P,
        -(-C // tile) * -(-tile * T // W) * F,
    ]
    reach1, reach2 = integer_array(left.reach[0]), integer_array(right.reach[0])
    with scratch(W * sum(sizes), g.dtype) as memory:
        packed, other, inputs = memory.split([W * size for size in sizes])
        _pack_rows(g, packed)
        if right is left:
            other = packed
        else:
            _pack_rows(h, other)
        _take(
            "pack_inputs",
            InputArguments(C, T, F, tile, y.data_ptr(), *y.stride(), inputs.data_ptr()),
            y,
        )
        arguments = GramArguments(
            B, O, S, C, P, T, N, F, symmetric, add, tile,
            addressof(reach1), addressof(reach2), packed.data_ptr(), other.data_ptr(),
            z.data_ptr(), *z.stride(), inputs.data_ptr(), K.data_ptr(), *K.stride()[:3],
        )  # fmt: skip
        _take("gram", arguments, K)


def mirror(K: Tensor) -> None:
    """Make K [B, O, B, O] exactly symmetric from its pairs of examples b ≤ b', as `gram.eager.mirror` does."""
    _take("mirror", MirrorArguments(*K.shape[:2], K.data_ptr(), *K.stride()[:3]), K)


def _pack_rows(g: Tensor, packed: Tensor) -> None:
    """The adjoints g [B, O, S, N] to [B, lines, S, O, W], W numbers to a line, with zeros beyond N."""
    _take("pack_rows", RowArguments(*g.shape, g.data_ptr(), *g.stride(), packed.data_ptr()), g)


def _take(name: str, arguments: Structure, like: Tensor) -> None:
    take_tasks(name, arguments, like.dtype, threads(like.device))
