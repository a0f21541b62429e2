"""The C kernels give the bits that docs/bits.md defines: an emulation in NumPy computes each sum in the same order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from fused import Single, chain, fma
from hypothesis import given, settings
from hypothesis import strategies as st

from hpr_kernels import layout
from hpr_kernels.gram import native
from hpr_kernels.gram.factors import Factors
from hpr_kernels.native import library
from hpr_kernels.recurrence import native as recurrence

needs_kernels = pytest.mark.skipif(bool(library.obstacle()), reason=library.obstacle() or "-")
LANES = 16
singles = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)


@settings(deadline=None)
@given(a=singles, b=singles, c=singles)
def test_the_emulated_multiply_add_is_rounded_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    got = fma(*(np.float32(value)[None] for value in (a, b, c)))[0]
    below, above = np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))
    distance = abs(Fraction(float(got)) - exact)
    for other in (below, above):
        further = abs(Fraction(float(other)) - exact)
        # Of two numbers that are equally near, the one with an even last bit.
        assert distance < further or (distance == further and got.view(np.int32) % 2 == 0)


def line_sum(line: Single) -> Single:
    """The sum of the last axis: its second half is added to its first until one number is left."""
    while line.shape[-1] > 1:
        half = line.shape[-1] // 2
        line = line[..., :half] + line[..., half:]
    return line[..., 0]


def emulated_gram(g: Single, z: Single, reach: tuple[int, ...]) -> Single:
    """K [B, O, B, O] of g [B, O, S, N] and z [B, S, F], as docs/bits.md defines it."""
    B, O, S, N = g.shape
    lines = -(-N // LANES)
    padded = np.zeros((B, O, S, lines * LANES), np.float32)
    padded[..., :N] = g
    padded = padded.reshape(B, O, S, lines, LANES)
    factors = chain(z[:, :, None, None], z[None, None])  # [B, S, B', S']
    sums = np.zeros((B, O, B, O, LANES), np.float32)
    for line in range(lines):
        for p, last in enumerate(reach):
            right = padded[:, p, : last + 1, line]  # [B', S', W]
            # [B, S, B', W]: the chain runs over s'.
            made = chain(factors[:, :, :, None, : last + 1], right.swapaxes(1, 2)[None, None])
            for o, own in enumerate(reach):
                for s in range(own + 1):
                    left = padded[:, o, s, line][:, None]
                    sums[:, o, :, p] = fma(
                        np.broadcast_to(left, made[:, s].shape), made[:, s], sums[:, o, :, p]
                    )
    return line_sum(sums)


@needs_kernels
@pytest.mark.parametrize(
    ("B", "O", "S", "N", "F", "causal"),
    [(3, 5, 4, 19, 6, False), (2, 6, 6, 33, 3, True), (4, 1, 7, 16, 5, False), (2, 13, 2, 5, 1, True)],
)  # fmt: skip
def test_the_gram(B: int, O: int, S: int, N: int, F: int, causal: bool) -> None:
    rng = np.random.default_rng(1)
    reach = tuple(o * S // O if causal else S - 1 for o in range(O))
    g = rng.standard_normal((B, O, S, N), np.float32)
    for o, last in enumerate(reach):
        g[:, o, last + 1 :] = 0
    z = rng.standard_normal((B, S, F), np.float32)
    K = torch.empty(B, O, B, O)
    given = Factors(torch.from_numpy(g)[None], torch.from_numpy(z)[None], (reach,))
    native.propagate(K, given, given, False, False)
    assert np.array_equal(K.numpy(), emulated_gram(g, z, reach))


def emulated_rates(x: Single, W_h: Single, W_x: Single, rho: float) -> Single:
    """Rates [T, B, N] of ReLU units on x [T, B, N_in], as docs/bits.md defines them."""
    rest, rho_ = np.float32(1 - rho), np.float32(rho)
    rates: list[Single] = []
    h = np.zeros(0, np.float32)
    for t, inputs in enumerate(x):
        if t == 0:
            h = rest * chain(inputs[:, None], W_x[None])
        else:
            columns = np.concatenate([rates[-1], inputs], -1)
            s = chain(columns[:, None], np.concatenate([W_h, W_x], -1)[None])
            h = fma(rest, s, rho_ * h)
        rates.append(np.where(h < 0, np.float32(0), h))
    return np.stack(rates)


def emulated_sweep(g: Single, rates: Single, W_h: Single, rho: float) -> Single:
    """∂L/∂h [T, B, N] of ∂L/∂a in g [T, B, N], as docs/bits.md defines it."""
    rest, rho_ = np.float32(1 - rho), np.float32(rho)
    found = g.copy()
    for s in range(len(g) - 1, -1, -1):
        value = g[s]
        if s < len(g) - 1:
            value = fma(rest, chain(found[s + 1][:, None], W_h.T[None]), value)
        value = np.where(rates[s] <= 0, np.float32(0), value)
        found[s] = value if s == len(g) - 1 else fma(rho_, found[s + 1], value)
    return found


@needs_kernels
@pytest.mark.parametrize(("T", "B", "N", "N_in"), [(3, 5, 19, 2), (4, 2, 33, 1), (1, 7, 4, 3)])
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_recurrence(T: int, B: int, N: int, N_in: int, rho: float) -> None:
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal((T, B, size), np.float32) for size in (N_in, N))
    W_h, W_x = (rng.standard_normal((N, size), np.float32) / 2 for size in (N, N_in))
    weights = torch.from_numpy(np.concatenate([W_h, W_x], -1))[None]
    trace = layout.empty_trace(1, T, B, N, N_in, like=weights)
    trace[0, :-1, :, N : N + N_in] = torch.from_numpy(x)
    recurrence.forward(trace, weights, rho, "relu")
    rates = emulated_rates(x, W_h, W_x, rho)
    assert np.array_equal(trace[0, 1:, :, :N].numpy(), rates)
    swept = torch.from_numpy(g.copy())[None]
    recurrence.sweep(swept, trace, weights, rho, "relu")
    assert np.array_equal(swept[0].numpy(), emulated_sweep(g, rates, W_h, rho))
