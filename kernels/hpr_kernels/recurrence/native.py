"""The recurrence by the C kernels on the CPU; see `native/recurrence.h`.

Each row, an example or a pair of output and example, is computed by itself, so the result is the same on any number of
threads and any CPU.
"""

from __future__ import annotations

from ctypes import Structure, addressof, c_double, c_int64, c_void_p

from torch import Tensor

from hpr_kernels.backend import uses_native
from hpr_kernels.memory import on_huge_pages
from hpr_kernels.native.tasks import integer_array, take_tasks
from hpr_kernels.workers import threads

# Rows that one task takes through all steps at most, so that they stay in the caches between two products.
TASK_ROWS = 96
ACTIVATIONS = ("linear", "relu", "tanh")  # by their numbers in native/recurrence.h


class RecurrenceArguments(Structure):
    """`Recurrence` of native/recurrence.h."""

    _fields_ = (
        [(name, c_int64) for name in ("R", "T", "B", "N", "F")]
        + [(name, c_int64) for name in ("O", "outputs", "activation", "task_rows")]
        + [(name, c_double) for name in ("rho", "rest", "scale")]
        + [(name, kind) for name, kind in (("weights", c_void_p), ("weights_run", c_int64), ("weights_row", c_int64))]
        + [("trace", c_void_p)]
        + [(name, c_int64) for name in ("trace_run", "trace_step", "trace_row")]
        + [("g", c_void_p)]
        + [(name, c_int64) for name in ("g_run", "g_step", "g_row")]
        + [(name, c_void_p) for name in ("readout", "steps", "counter")]
    )  # fmt: skip


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors: numbers on the CPU, without gaps within a row."""
    return uses_native(tensors[0]) and all(tensor.stride(-1) == 1 for tensor in tensors)


def forward(trace: Tensor, weights: Tensor, rho: float, activation: str) -> None:
    """Fill the rates of `trace` [R, T + 1, B, P], as `recurrence.eager.forward` does."""
    _call("recurrence_forward", trace, weights, rho, activation)


def sweep(g: Tensor, trace: Tensor, weights: Tensor, rho: float, activation: str) -> None:
    """Turn ∂L/∂a_{s+1} in `g` [R, T, B, Q] into ∂L/∂h_{s+1} in place, in columns 0 … N - 1."""
    _call("recurrence_back", trace, weights, rho, activation, g=g)


def adjoints(
    trace: Tensor,
    weights: Tensor,
    readout: Tensor,
    rho: float,
    steps: tuple[int, ...],
    activation: str,
    scale: float = 1.0,
) -> Tensor:
    """`scale` times the adjoints [R, T, O, B, N] of the outputs (t, k), t in ascending `steps`."""
    (R, steps_, B, _), (N_out, N) = trace.shape, readout.shape[1:]
    g = on_huge_pages(trace.new_empty(R, steps_ - 1, len(steps) * N_out, B, N))
    _call(
        "recurrence_back", trace, weights, rho, activation,
        g=g.flatten(2, 3), readout=readout.contiguous(), steps=steps, scale=scale,
    )  # fmt: skip
    return g


def _call(
    name: str,
    trace: Tensor,
    weights: Tensor,
    rho: float,
    activation: str,
    *,
    g: Tensor | None = None,
    readout: Tensor | None = None,
    steps: tuple[int, ...] = (),
    scale: float = 1.0,
) -> None:
    (R, steps_, B, _), (N, F) = trace.shape, weights.shape[1:]
    if not R * B:
        return
    N_out = 0 if readout is None else readout.shape[1]
    O = max(1, len(steps) * N_out)
    reached = integer_array(steps)
    workers = threads(trace.device)
    # Fewer networks than threads are cut into parts for all threads.
    parts = -(-workers // R)
    arguments = RecurrenceArguments(
        R, steps_ - 1, B, N, F, O, N_out,
        ACTIVATIONS.index(activation), max(1, min(TASK_ROWS, -(-O * B // parts))),
        rho, 1 - rho, scale, weights.data_ptr(), *weights.stride()[:2],
        trace.data_ptr(), *trace.stride()[:3],
        *((None, 0, 0, 0) if g is None else (g.data_ptr(), *g.stride()[:3])),
        None if readout is None else readout.data_ptr(),
        addressof(reached) if steps else None,
    )  # fmt: skip
    take_tasks(name, arguments, trace.dtype, workers)
