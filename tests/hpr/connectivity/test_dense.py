"""Independent weights have the moments of their distribution."""

from __future__ import annotations

import numpy as np
import pytest

from hpr.connectivity import Dense

DRAWS = {"gaussian": Dense(), "uniform": Dense(distribution="uniform")}


@pytest.mark.parametrize("distribution", DRAWS)
def test_moments(distribution: str) -> None:
    """The sample moments of 90,000 weights are within five standard errors of the theory's."""
    N, g = 300, 1.5
    W = DRAWS[distribution].weights(N, np.random.default_rng(0))
    variance = g**2 / N if distribution == "gaussian" else g**2 / N / 3
    assert abs(W.mean()) < 5 * np.sqrt(variance) / N
    assert abs(W.var() / variance - 1) < 5 * np.sqrt(2) / N
    if distribution == "uniform":
        assert np.abs(W).max() <= g / np.sqrt(N)


def test_an_unknown_distribution_is_named() -> None:
    with pytest.raises(ValueError, match="distribution: expected one of"):
        Dense(distribution="cauchy")  # type: ignore[arg-type]
