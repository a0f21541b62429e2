"""Arithmetic of the C kernels in NumPy, each operation rounded once in fp32 or fp64: see docs/bits.md."""

from __future__ import annotations

from fractions import Fraction
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[Any]  # of float32 or float64

TERMS = 128


def fma(a: Reals, b: Reals, c: Reals) -> Reals:
    """`a b + c` with one rounding; the types of `c` and of the result are one."""
    return (_double if c.dtype == np.float64 else _single)(a, b, c)


def _single(a: Reals, b: Reals, c: Reals) -> Reals:
    """`a b + c` of fp32 numbers.

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


def _one_double(a: float, b: float, c: float) -> float:
    """`a b + c` of fp64 numbers, by a fraction that is rounded once."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    # A fraction has no negative zero. If the exact sum is 0, then the floating-point sum is exact.
    return float(exact) if exact else a * b + c


def _double(a: Reals, b: Reals, c: Reals) -> Reals:
    return np.asarray(np.frompyfunc(_one_double, 3, 1)(a, b, c), np.float64)


def product(left: Reals, right: Reals) -> Reals:
    """Σ_k left[…, k] right[…, k] in blocks of 128 terms, k ascending; broadcasts the other axes.

    Each block is one chain of fused multiply-adds that begins at 0. The sums of the blocks are added in order.
    """
    shape = np.broadcast_shapes(left.shape, right.shape)
    left, right = np.broadcast_to(left, shape), np.broadcast_to(right, shape)
    total = np.zeros(shape[:-1], left.dtype)
    for begin in range(0, shape[-1], TERMS):
        chain = np.zeros(shape[:-1], left.dtype)
        for k in range(begin, min(begin + TERMS, shape[-1])):
            chain = fma(left[..., k], right[..., k], chain)
        total = total + chain if begin else chain
    return total


def constant(value: float, like: Reals) -> Reals:
    """`value`, rounded to the type of `like`, in its shape."""
    return np.full_like(like, value)


def _format(x: Reals) -> tuple[type[np.signedinteger[Any]], int, Reals, Reals]:
    """Return the integers of a number's size, the bits of its mantissa, and ln 2 in two parts, of the type of `x`."""
    if x.dtype == np.float32:
        return np.int32, 23, constant(0.693359375, x), constant(-2.12194440e-4, x)
    high, low = map(float.fromhex, ("0x1.62e42fee00000p-1", "0x1.a39ef35793c76p-33"))
    return np.int64, 52, constant(high, x), constant(low, x)


def _exp_parts(x: Reals) -> tuple[Reals, Reals]:
    """Return p and 2^n with exp(x) = 2^n (1 + p), x <= 0."""
    single = x.dtype == np.float32
    whole, bits, high, low = _format(x)
    x = np.maximum(x, constant(-87.0 if single else -708.0, x))
    magic = constant(1.5 * 2.0**bits, x)
    shifted = fma(x, constant(1.44269504088896340736, x), magic)
    n = shifted - magic
    power = ((shifted.view(whole) << bits) + constant(1, x).view(whole)).view(x.dtype)
    r = fma(n, -low, fma(n, -high, x))
    p = constant(0, x)
    for i in range(5 if single else 11, -1, -1):
        p = fma(p, r, constant(1 / factorial(i + 2), x))
    return fma(p, r * r, r), power


def exp(x: Reals) -> Reals:
    """`exp1` of native/elementary.h."""
    p, power = _exp_parts(x)
    return fma(p, power, power)


def tanh(h: Reals) -> Reals:
    """`tanh1` of native/elementary.h."""
    p, power = _exp_parts(constant(-2, h) * np.abs(h))
    E = fma(p, power, power - constant(1, h))
    value = -E / (constant(2, h) + E)
    return np.where(h < 0, -value, value)


def log(x: Reals) -> Reals:
    """`log1` of native/elementary.h, for a finite x."""
    single = x.dtype == np.float32
    whole, bits, high, low = _format(x)
    e = (x.view(whole) - whole(0x3F3504F3 if single else 0x3FE6A09E667F3BCD)) >> bits
    f = (x.view(whole) - (e << bits)).view(x.dtype) - constant(1, x)
    s = f / (constant(2, x) + f)
    square, p = s * s, constant(0, x)
    for i in range(4 if single else 10, 0, -1):
        p = fma(p, square, constant(2 / (2 * i + 1), x))
    log_m = fma(s * square, p, constant(2, x) * s)
    exponent = e.astype(x.dtype)
    return fma(exponent, high, fma(exponent, low, log_m))
