"""A fused multiply-add of fp32 numbers in NumPy, rounded once, to test what the C kernels promise of their bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Single = NDArray[np.float32]


def fma(a: Single, b: Single, c: Single) -> Single:
    """`a b + c` with one rounding.

    The product of two fp32 numbers is exact in fp64. The sum is rounded to odd in fp64, where a lost part sets the last
    bit, so that the rounding to fp32 is that of the exact sum (Boldo and Melquiond 2008).
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = product + addend
    # The rounding error of a sum, exactly (Knuth's two-sum).
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    odd = np.where((lost != 0) & even, np.nextafter(total, np.copysign(np.inf, lost)), total)
    return odd.astype(np.float32)


def chain(left: Single, right: Single, start: Single | None = None) -> Single:
    """Σ_k left[…, k] right[…, k] as one chain of fused multiply-adds, k ascending; broadcasts the other axes."""
    shape = np.broadcast_shapes(left.shape, right.shape)
    left, right = np.broadcast_to(left, shape), np.broadcast_to(right, shape)
    total = np.zeros(shape[:-1], np.float32) if start is None else start
    for k in range(shape[-1]):
        total = fma(left[..., k], right[..., k], total)
    return total
