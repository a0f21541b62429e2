"""Products of fp32 numbers by three products of TF32 numbers, with sums that do not wait for each other.

`tl.dot` at "tf32x3" adds all three products into one accumulator, one after the other. Here each has its own, so that
the tensor cores work on three at a time, and the largest is added to the total on the ordinary units, which round to
nearest: tensor cores are reported to truncate.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tf32(x):
    """x rounded to the 10 explicit bits of TF32, to nearest, halves away from zero; a NaN becomes NaN or 0."""
    return ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def add_split_product(total, left_rest, right_rest, a, b, PRECISION: tl.constexpr):
    """Add a b [M, K] [K, N] to what `sum_of` adds up, three accumulators [M, N].

    With a = A + α, b = B + β, A and B in TF32: A B goes into `total`, α B into `left_rest` and -A β into `right_rest`.
    α β is below the last bit of fp32. A NaN or an infinity of a or b makes α or β a NaN. At other precisions
    `total` takes all.
    """
    if PRECISION == "tf32x3":
        # With -A, what is added to `total` is subtracted: Triton would make `total` the product's own accumulator.
        minus_A, B = tf32(-a), tf32(b)
        left_rest = tl.dot(a + minus_A, B, left_rest, input_precision="tf32")
        right_rest = tl.dot(minus_A, b - B, right_rest, input_precision="tf32")
        total -= tl.dot(minus_A, B, input_precision="tf32")
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total, left_rest, right_rest


@triton.jit
def plus_product(total, a, b, PRECISION: tl.constexpr):
    """total + a b, [M, K] [K, N], as by `add_split_product` but with one accumulator more instead of three.

    The three products of TF32 numbers follow each other, the largest last. A kernel that has no registers for more
    takes this one. Unlike `tl.dot` at "tf32x3" it keeps a NaN of the two small products.
    """
    if PRECISION == "tf32x3":
        a = -a
        A, B = tf32(a), tf32(b)
        # In this order of the small products the alignment takes the fewest registers.
        part = tl.dot(A, b - B, input_precision="tf32")
        part = tl.dot(a - A, B, part, input_precision="tf32")
        total -= tl.dot(A, B, part, input_precision="tf32")
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def sum_of(total, left_rest, right_rest, PRECISION: tl.constexpr):
    """The product that the three accumulators of `add_split_product` hold."""
    if PRECISION == "tf32x3":
        total += left_rest - right_rest
    return total
