"""Checks of steps of Appendix B that don't hold as printed; no conclusion depends on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hpr.theory import equations
from hpr.theory.check import ROUNDOFF, Check, CheckCase
from hpr.theory.networks import isotropic_spectrum, normal, orthonormal
from hpr.theory.statements import STATEMENTS

# The accuracy of SciPy's quadrature; the other rounding errors are far smaller.
ACCURACY = 1.5e-8


def check_printed_steps() -> list[Check]:
    """Compare Eq. 12, 15, 20 and the solutions of Eq. 22 as printed with the equations around them."""
    return [_final_norm(), _gaussian_density(), _squared_moment(), _stationary_points()]


def _printed_case(label: str, measured: float, expected: float) -> CheckCase:
    return CheckCase(label, measured, expected, ACCURACY * abs(expected), 1)


def _final_norm() -> Check:
    rng = torch.Generator().manual_seed(0)
    cases = []
    for d in (2, 5, 20):
        beta, X = normal(d, rng=rng), orthonormal(d + 3, d, rng=rng).mT
        K = equations.final_kernel(X, beta) / beta.norm()
        cases.append(_printed_case(f"d = {d}", float(K.trace()), float(K.square().sum())))
    return Check(
        STATEMENTS["printed Eq. 12"],
        tuple(cases),
        note="the square of β̂ β̂ᵀ + I is missing (d + 1 for d + 3); the line after has it",
    )


def _gaussian_density() -> Check:
    from scipy.integrate import quad

    cases = []
    for d in (2, 5, 20):
        sphere = 2 * math.pi ** (d / 2) / math.gamma(d / 2)

        def radial(r: float, d: int = d, sphere: float = sphere) -> float:
            return sphere * r ** (d - 1) * math.exp(-(r**2) / d) / (2 * math.pi * d) ** (d / 2)

        mass = quad(radial, 0, 10 * d)[0]
        cases.append(_printed_case(f"d = {d}", mass, 1.0))
    return Check(
        STATEMENTS["printed Eq. 15"],
        tuple(cases),
        note="its integral is 2^(-d/2), and Lemma 2's c would be 2^(-d/2)/d; N(0, 1/d) is (d/2π)^(d/2) exp(-d‖β‖²/2)",
    )


def _squared_moment() -> Check:
    sigma = 0.1
    cases = []
    for d in (2, 5, 20):
        s = isotropic_spectrum(d, d, sigma)
        printed = (s.square() + sigma).square().sum()
        cases.append(
            _printed_case(f"d = {d}", float(printed), float((s.square() + sigma**2).square().sum()))
        )
    return Check(
        STATEMENTS["printed Eq. 20"],
        tuple(cases),
        note="σ for σ²; the line after has it",
    )


def stationarity(s: Tensor) -> float:
    """Largest entry of the gradient of Σ s_j⁴ along the sphere Σ s_j² = σ²; it is zero at a KKT point of Eq. 22."""
    gradient = 4 * s.pow(3)
    along = gradient - (gradient @ s) / (s @ s) * s
    return float(along.abs().max())


def _stationary_points() -> Check:
    cases = []
    for rank in (1, 2, 5):
        s = isotropic_spectrum(5, rank, 1.0)
        if stationarity(s) > 8 * ROUNDOFF:
            raise AssertionError(f"rank {rank}: expected a stationary point, got {stationarity(s)}")
        cases.append(
            _printed_case(f"d = 5, equal s at rank {rank}", float(s.square().max()), 1 / 5)
        )
    return Check(
        STATEMENTS["printed Eq. 22"],
        tuple(cases),
        note="equal singular values at any rank do, and rank 1 (whose s are 'all non-zero equal') is the minimum of "
        "E[KA]; Eq. 22 is convex in s_j² only, whose one minimum is the stated one",
    )
