"""These tests check the effective rank by eigenvalues and by singular values."""

from __future__ import annotations

import numpy as np
import pytest

from hpr.connectivity import effective_rank, magnitudes, spectral_radius, spectrum_rank


def test_effective_rank() -> None:
    W = np.diag([2.0, -1.0, 1.0, 0.0])
    assert effective_rank(W) == pytest.approx(0.5)
    assert spectral_radius(W) == pytest.approx(2)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    assert effective_rank(rotation @ W, singular=True) == pytest.approx(0.5)
    assert np.isnan(effective_rank(np.zeros((3, 3))))


def test_eigenvalues_and_singular_values_are_told_apart() -> None:
    """Both eigenvalues of a shear are 1, but its singular values are not."""
    W = np.array([[1.0, 10.0], [0.0, 1.0]])
    assert effective_rank(W) == pytest.approx(1)
    assert effective_rank(W, singular=True) < 0.6


def test_magnitudes_descend() -> None:
    W = np.array([[0.0, -3.0], [3.0, 0.0]])
    np.testing.assert_allclose(magnitudes(W), [3, 3])
    np.testing.assert_allclose(magnitudes(np.diag([1.0, -5.0, 2.0])), [5, 2, 1])
    assert spectrum_rank(np.array([5.0, 2.0, 1.0])) == pytest.approx(8 / 15)
