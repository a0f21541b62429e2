"""The C kernels give the bits that docs/bits.md defines: an emulation in NumPy computes each sum in the same order."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import emulated
import numpy as np
import pytest
import torch
from fused import TERMS, Reals, fma
from hypothesis import given
from hypothesis import strategies as st

from hpr_kernels import layout
from hpr_kernels.gram import native
from hpr_kernels.gram.factors import Factors
from hpr_kernels.internal import iterations
from hpr_kernels.native import library
from hpr_kernels.recurrence import native as recurrence
from hpr_kernels.tangent import native as tangent

needs_kernels = pytest.mark.skipif(bool(library.obstacle()), reason=library.obstacle() or "-")
singles = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)
doubles = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@given(drawn=st.data())
def test_the_emulated_multiply_add_is_rounded_once(real: type, drawn: st.DataObject) -> None:
    a, b, c = (drawn.draw(singles if real is np.float32 else doubles) for _ in range(3))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    got = fma(*(np.array([value], real) for value in (a, b, c)))[0]
    below, above = np.nextafter(got, real(-np.inf)), np.nextafter(got, real(np.inf))
    distance = abs(Fraction(float(got)) - exact)
    for other in (below, above):
        further = abs(Fraction(float(other)) - exact)
        # Of two numbers that are equally near, the one with an even last bit.
        even = got.view(np.int32 if real is np.float32 else np.int64) % 2 == 0
        assert distance < further or (distance == further and even)


def normal(rng: np.random.Generator, real: Any, *shape: int) -> Reals:
    return rng.standard_normal(shape).astype(real)


@needs_kernels
@pytest.mark.parametrize(
    ("B", "O", "S", "N", "F", "causal", "real"),
    [
        (3, 5, 4, 19, 6, False, np.float32),
        (2, 6, 6, 33, 3, True, np.float32),
        (4, 1, 7, 16, 5, False, np.float32),
        (2, 13, 2, 5, 1, True, np.float32),
        (2, 2, 2, 5, 2 * TERMS + 1, False, np.float32),
        (1, 2, TERMS + 2, 3, 2, True, np.float32),
        (2, 3, 3, 9, 2, True, np.float64),
    ],
)
def test_the_gram(B: int, O: int, S: int, N: int, F: int, causal: bool, real: type) -> None:
    rng = np.random.default_rng(1)
    reach = tuple((o + 1) * S // O - 1 if causal else S - 1 for o in range(O))
    reach = tuple(max(0, last) for last in reach)
    g, z = normal(rng, real, B, O, S, N), normal(rng, real, B, S, F)
    for o, last in enumerate(reach):
        g[:, o, last + 1 :] = 0
    K = torch.empty(B, O, B, O, dtype=torch.from_numpy(g).dtype)
    factors = Factors(torch.from_numpy(g)[None], torch.from_numpy(z)[None], (reach,))
    native.propagate(K, factors, factors, False, False)
    assert np.array_equal(K.numpy(), emulated.gram(g, z, reach))


@needs_kernels
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize(("M", "N", "copies"), [(1, 1, 1), (67, 5, 3), (50, TERMS + 3, 1)])
def test_what_is_added_to_a_kernel(M: int, N: int, copies: int, real: type) -> None:
    rng = np.random.default_rng(5)
    K, u, v = (
        normal(rng, real, M * copies, 2 * copies),
        normal(rng, real, M, N),
        normal(rng, real, 2, N),
    )
    added = torch.from_numpy(K.copy())[None]
    rows, columns = (torch.from_numpy(side)[None] for side in (u, v))
    tangent.add_row_products(added, rows, columns, copies)
    assert np.array_equal(added[0].numpy(), emulated.row_products(K, u, v, copies))
    square = torch.zeros(1, M * copies, M * copies, dtype=rows.dtype)
    tangent.add_row_products(square, rows, rows, copies)
    assert torch.equal(square, square.mT)


@needs_kernels
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 13), (130, 129)])
def test_the_sums_of_an_alignment(shape: tuple[int, int], real: type) -> None:
    rng = np.random.default_rng(6)
    kernels = normal(rng, real, 2, 2, *shape)
    sums = tangent.block_sums(*(torch.from_numpy(K) for K in kernels))
    for r in range(2):
        wanted = emulated.kernel_sums(kernels[0, r], kernels[1, r], tangent.BLOCK)
        assert np.array_equal(sums[:, r].numpy(), wanted)


@needs_kernels
@pytest.mark.parametrize(
    ("T", "B", "N", "N_in", "real"),
    [
        (3, 5, 19, 2, np.float32),
        (4, 2, 33, 1, np.float32),
        (1, 7, 4, 3, np.float32),
        (2, 1, TERMS + 2, TERMS + 1, np.float32),
        (3, 2, 5, 2, np.float64),
    ],
)
@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize("activation", recurrence.ACTIVATIONS)
def test_the_recurrence(
    T: int, B: int, N: int, N_in: int, real: type, rho: float, activation: str
) -> None:
    """Rates, swept gradients and adjoints: an adjoint is a sweep that begins at its step with a row of the readout."""
    rng = np.random.default_rng(2)
    x, g, readout = (normal(rng, real, *shape) for shape in ((T, B, N_in), (T, B, N), (2, N)))
    W = normal(rng, real, N, N + N_in) / real(2)
    weights = torch.from_numpy(W)[None]
    trace = layout.empty_trace(1, T, B, N, N_in, like=weights)
    trace[0, :-1, :, N : N + N_in] = torch.from_numpy(x)
    recurrence.forward(trace, weights, rho, activation)
    rates = emulated.rates(x, W, rho, activation)
    assert np.array_equal(trace[0, 1:, :, :N].numpy(), rates)
    swept = torch.from_numpy(g.copy())[None]
    recurrence.sweep(swept, trace, weights, rho, activation)
    assert np.array_equal(swept[0].numpy(), emulated.sweep(g, rates, W[:, :N], rho, activation))
    steps = tuple(sorted({0, T - 1}))
    got = recurrence.adjoints(
        trace, weights, torch.from_numpy(readout)[None], rho, steps, activation
    )
    for i, step in enumerate(steps):
        for k, row in enumerate(readout):
            begin = np.zeros_like(g)
            begin[step] = row
            wanted = emulated.sweep(begin, rates, W[:, :N], rho, activation)
            assert np.array_equal(got[0, :, 2 * i + k].numpy(), wanted)


# T, B, N, N_in, N_out, and what differs from the usual options; a long sum has more than 128 terms.
CASES: dict[str, tuple[tuple[int, int, int, int, int], dict[str, Any]]] = {
    "classes": ((3, 5, 19, 2, 3), {}),
    "one of each": ((1, 1, 1, 1, 1), {"rho": 0.0}),
    "linear": ((4, 3, 7, 1, 2), {"activation": "linear"}),
    "last step": ((4, 3, 17, 3, 5), {"first": 3}),
    "outputs": ((3, 5, 9, 2, 3), {"squared": True}),
    "last output": ((3, 2, 9, 2, 1), {"squared": True, "first": 2}),
    "constrained": ((3, 4, 19, 2, 3), {"constrained": True, "learning_rate": 0.5}),
    "long sums over rows": ((3, TERMS + 3, 5, 2, 2), {}),
    "long sums over units": ((2, 3, TERMS + 5, 2, 2), {"rho": 0.5}),
    "long sums over outputs": ((2, 2, 5, 2, 2 * TERMS + 40), {}),
    "two layers": ((1, 7, 19, 4, 3), {"rho": None}),
    "two layers, outputs": (
        (1, 5, 9, 4, 2),
        {"rho": None, "squared": True, "activation": "linear"},
    ),
    "two layers, long sums": ((1, 2 * TERMS + 1, 3, TERMS + 4, 2), {"rho": None, "momentum": 0.0}),
}
SMALL = ("one of each", "last step", "outputs", "constrained", "two layers")


@needs_kernels
@pytest.mark.parametrize(
    ("case", "real"),
    [(name, np.float32) for name in CASES] + [(name, np.float64) for name in SMALL],
)
def test_a_training_iteration(case: str, real: type) -> None:
    """Two iterations: weights, velocities, losses and accuracies."""
    (T, B, N, N_in, N_out), change = CASES[case]
    usual = {"rho": 0.9, "activation": "relu", "first": 0, "learning_rate": 0.05, "momentum": 0.9}
    how = usual | {k: v for k, v in change.items() if k in usual}
    rng = np.random.default_rng(3)
    columns = N_in + (0 if how["rho"] is None else N)
    weights = normal(rng, real, N, columns) * real(1.5 / columns**0.5)
    kinds = None
    if "constrained" in change:
        kinds = rng.integers(-1, 3, weights.shape).astype(np.int8)
        weights = np.where(np.abs(kinds) == 1, np.abs(weights) * kinds, weights).astype(real)
    net = emulated.Network(
        weights, normal(rng, real, N, columns) / real(8), normal(rng, real, N_out, N) / real(2),
        normal(rng, real, N_out, N) / real(8), kinds,
    )  # fmt: skip
    x = normal(rng, real, 2, T, B, N_in)
    squared = "squared" in change
    targets: Any = (
        normal(rng, real, 2, T, B, N_out) if squared else rng.integers(N_out, size=(2, T, B))
    )
    state = {
        name: torch.from_numpy(getattr(net, name).copy())[None]
        for name in ("weights", "velocity", "readout", "readout_velocity")
    }
    losses, accuracies = iterations.train_networks(
        torch.from_numpy(x)[None], torch.from_numpy(targets)[None], **state, **how,
        trials=torch.zeros(1, dtype=torch.int64),
        constraint=None if kinds is None else torch.from_numpy(kinds)[None],
    )  # fmt: skip
    points = [emulated.iterate(net, x[i], targets[i], how) for i in range(2)]
    assert losses[0].tolist() == [point[0] for point in points]
    if accuracies is not None:
        assert accuracies[0].tolist() == [point[1] for point in points]
    for name, value in state.items():
        assert np.array_equal(value[0].numpy(), getattr(net, name)), name
    if kinds is not None:
        assert not net.velocity[kinds == emulated.FROZEN].any()
