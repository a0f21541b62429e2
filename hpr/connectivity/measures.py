"""Sizes of a connectivity matrix that the paper compares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .base import Matrix


def spectral_radius(W: Matrix) -> float:
    """Largest |eigenvalue| of an [N, N] matrix."""
    return float(magnitudes(W)[0])


def magnitudes(W: Matrix, *, singular: bool = False) -> NDArray[np.float64]:
    """|λ_i| of an [N, N] matrix, descending (the spectra of Figure 2), or its singular values (Figure 16)."""
    values = np.linalg.svd(W, compute_uv=False) if singular else np.abs(np.linalg.eigvals(W))
    return np.sort(values)[::-1]


def effective_rank(W: Matrix, *, singular: bool = False) -> float:
    """Σ|λ_i| / (|λ_1| N), the relative effective rank of Section 3; with singular values for Figure 16.

    A zero matrix has no defined rank and gives NaN.
    """
    return spectrum_rank(magnitudes(W, singular=singular))


def spectrum_rank(values: NDArray[np.float64]) -> float:
    """The relative effective rank of magnitudes [N], the largest first."""
    return float(values.sum() / (values[0] * len(values))) if values[0] > 0 else float("nan")
