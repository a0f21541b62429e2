"""The activations f and their slopes f' within the kernels of `triton.py`, chosen when a kernel is compiled."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rate_of(h, ACTIVATION: tl.constexpr):
    """f(h) of "relu", "tanh" or "linear"; a NaN stays a NaN."""
    if ACTIVATION == "relu":
        # This comparison keeps a NaN, which `tl.maximum` would replace by 0.
        h = tl.where(h < 0, 0.0, h)
    elif ACTIVATION == "tanh":
        h = tanh(h)
    return h


@triton.jit
def times_slope(value, rate, ACTIVATION: tl.constexpr):
    """`value` times f'(h), which follows from the rate a = f(h): [a > 0] for ReLU, 1 - a² for tanh."""
    if ACTIVATION == "relu":
        value = tl.where(rate <= 0, 0.0, value)
    elif ACTIVATION == "tanh":
        value *= 1 - rate * rate
    return value


@triton.jit
def tanh(h):
    """tanh(h) within three units in the last place of fp32, without a library that the interpreter lacks.

    Below 0.6, 1 - 2 / (exp(2 |h|) + 1) would cancel. Lambert's continued fraction h / (1 + h² / (3 + h² / (5 + …)))
    stands there instead, cut after five terms and written as h minus a correction, which rounds less. Its own error is
    below 1e-9 of the result.
    """
    size = tl.abs(h)
    # exp(-2 |h|) underflows where exp(2 |h|) would overflow.
    e = tl.exp(-2 * size)
    large = 1 - 2 * e / (1 + e)
    # A NaN is not below the bound, so that it passes through `large`; and h² of a large h would overflow.
    below = size < 0.6
    near = tl.where(below, size, 0.0)
    s = near * near
    small = near - near * s * (315 + 14 * s) / (945 + s * (420 + 15 * s))
    value = tl.where(below, small, large)
    return tl.where(h < 0, -value, value)
