"""Checks of Lemma 2, Eq. 18 and Eq. 21 by Monte Carlo over tasks, and of Theorem 1 by optimisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpr.theory import equations
from hpr.theory.check import ROUNDOFF, Check, CheckCase, extreme, standard_errors
from hpr.theory.networks import isotropic_spectrum, normal, orthonormal
from hpr.theory.statements import STATEMENTS
from hpr.theory.two_layer_checks import SETTINGS

Constant = Callable[[int], float]
TASKS_PER_CHUNK = 50_000
# Rounding error of sums of fp64 numbers of size 1. It matters if the values hardly vary.
ROUNDING = 1e-12
# The optimiser stops when the objective changes by less.
OPTIMISER_TOLERANCE = 1e-15


def monte_carlo(
    value: Callable[[Tensor], Tensor], d: int, n: int, near: float, seed: int
) -> tuple[float, float]:
    """Mean and s.d. of value(β) over n Gaussian tasks; `near`, about the mean, is subtracted against cancellation."""
    rng = torch.Generator().manual_seed(seed)
    total = squares = 0.0
    for first in range(0, n, TASKS_PER_CHUNK):
        beta = normal(min(TASKS_PER_CHUNK, n - first), d, rng=rng) / d**0.5
        excess = value(beta) - near
        total += float(excess.sum())
        squares += float(excess.square().sum())
    mean = total / n
    return near + mean, max(squares / n - mean**2, 0.0) ** 0.5


def check_constant(n: int, c: Constant = equations.mean_square_direction) -> Check:
    """Check Lemma 2's constant: the mean of β̂_1² over n tasks."""

    def first_square(beta: Tensor) -> Tensor:
        return beta[:, 0].square() / beta.square().sum(-1)

    ds = (2, 3, 5, 10, 20)
    z = standard_errors(len(ds))
    cases = [
        _expectation_case(f"d = {d}", first_square, d, n, lambda value: value, c, z) for d in ds
    ]
    return Check(STATEMENTS["constant"], tuple(cases))


def check_general_moment(n: int, c: Constant = equations.mean_square_direction) -> Check:
    """Check Eq. 18 for Gaussian W_1 and several ‖W_2‖."""
    settings = ((2, 0.0), (3, 0.3), (8, 0.1), (20, 1.0))
    cases = []
    for d, norm in settings:
        W_1 = normal(d + 1, d, rng=torch.Generator().manual_seed(d)) / d
        M_0 = W_1.mT @ W_1 + norm**2 * torch.eye(d, dtype=torch.float64)
        value, expected = partial(equations.task_alignment, M_0), _eq_18(M_0)
        z = standard_errors(len(settings))
        cases.append(_expectation_case(f"d = {d}, ‖W_2‖ = {norm:g}", value, d, n, expected, c, z))
    return Check(STATEMENTS["general moment"], tuple(cases))


def check_expectation(n: int, c: Constant = equations.mean_square_direction) -> Check:
    """Check Eq. 21 for W_1 with equal singular values at several ranks and ‖W_1‖ = ‖W_2‖ = σ."""
    cases = []
    for d, rank in SETTINGS:
        s = isotropic_spectrum(d, rank, 1.0)
        V = orthonormal(d, d, rng=torch.Generator().manual_seed(d))
        M_0 = V * s.square() @ V.mT + torch.eye(d, dtype=torch.float64)
        value, expected = partial(equations.task_alignment, M_0), _eq_21(s)
        z = standard_errors(len(SETTINGS))
        cases.append(_expectation_case(f"d = {d}, rank {rank}", value, d, n, expected, c, z))
    return Check(STATEMENTS["expectation"], tuple(cases))


def _eq_18(M_0: Tensor) -> Callable[[float], float]:
    return lambda c: float(equations.expected_alignment(M_0, c))


def _eq_21(s: Tensor) -> Callable[[float], float]:
    return lambda c: float(equations.expected_alignment_of_spectrum(s, c))


def _expectation_case(
    label: str,
    value: Callable[[Tensor], Tensor],
    d: int,
    n: int,
    expected: Callable[[float], float],
    c: Constant,
    z: float,
) -> CheckCase:
    predicted = expected(c(d))
    mean, sd = monte_carlo(value, d, n, predicted, seed=d)
    # The error is fine enough if it separates c = 1/d from 1/(d + 1).
    resolution = abs(expected(1 / d) - expected(1 / (d + 1))) / 2
    error = z * sd / n**0.5 + ROUNDING
    return CheckCase(label, mean, predicted, error, n, sd, resolution=resolution)


@dataclass(frozen=True)
class Optimum:
    """The spectra s_j² / σ² at the starts and the ends of S optimisations."""

    starts: NDArray[np.float64]  # [S, d]
    ends: NDArray[np.float64]  # [S, d]


def optimise(d: int, S: int) -> Optimum:
    """Maximise Eq. 18 over singular values with Σ s_j² = σ² = 1, from S starts, by SciPy's SLSQP.

    Every other start is close to rank 1, where Eq. 18 is minimal.

    Raises:
        RuntimeError: the optimiser failed.
    """
    from scipy.optimize import minimize

    c = equations.mean_square_direction(d)
    eye = torch.eye(d, dtype=torch.float64)

    def objective(s: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Minus Eq. 18, and the gradient of it."""
        leaf = torch.tensor(s, requires_grad=True)
        loss = -equations.expected_alignment(torch.diag(leaf.square()) + eye, c)
        (gradient,) = torch.autograd.grad(loss, [leaf])
        return float(loss.detach()), gradient.numpy()

    rng = np.random.default_rng(d)
    starts, ends = [], []
    for start in range(S):
        s = rng.standard_normal(d)
        if start % 2:
            s[1:] *= 0.01
        s /= np.linalg.norm(s)
        found = minimize(
            objective,
            s,
            jac=True,
            method="SLSQP",
            constraints={"type": "eq", "fun": lambda s: s @ s - 1, "jac": lambda s: 2 * s},
            options={"ftol": OPTIMISER_TOLERANCE, "maxiter": 1000},
        )
        if not found.success:
            raise RuntimeError(f"optimiser: expected success, got {found.message!r}")
        starts.append(s**2)
        ends.append(found.x**2)
    return Optimum(np.array(starts), np.array(ends))


def check_maximiser(S: int) -> tuple[Check, Optimum]:
    """Check Theorem 1 by the ends of S optimisations; also return those at d = 5 for the figure."""
    cases = []
    optima = {d: optimise(d, S) for d in (2, 5, 20)}
    for d, optimum in optima.items():
        # Near the maximum, Eq. 18 is lower by the share Σ (u_j - 1/d)² d / (2 (d+1)²), u_j = s_j²/σ². A share
        # below the optimiser's tolerance plus rounding is not resolved, which limits the precision of u_j.
        error = (2 * (d + 1) ** 2 / d * (OPTIMISER_TOLERANCE + 8 * ROUNDOFF)) ** 0.5
        distance = torch.from_numpy(np.abs(optimum.ends - 1 / d).max(axis=1))
        cases.append(extreme(f"d = {d}", distance, "at most", 0.0, error))
    check = Check(
        STATEMENTS["maximiser"],
        tuple(cases),
        note="objective: Eq. 18; half of the starts lie near rank 1",
    )
    return check, optima[5]
