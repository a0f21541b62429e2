"""Cell types have the variances of their blocks, and the spectral radius of Aljadeff et al."""

from __future__ import annotations

import numpy as np
import pytest

from hpr.connectivity import CellTypes, Dense, effective_rank, spectral_radius
from hpr.connectivity.cell_types import Connections

GAINS: dict[Connections, np.ndarray] = {
    "touching": np.array([[10, 10], [10, 0.8]]),
    "within": np.array([[10, 0.8], [0.8, 0.8]]),
}


@pytest.mark.parametrize("connections", GAINS)
def test_block_variances(connections: Connections) -> None:
    """Each block's variance over the rest's is the ratio of squared gains, within five standard errors."""
    N, draws = 50, 40
    structure = CellTypes(fraction=0.2, connections=connections)
    W = np.array([structure.draw(N, seed) for seed in range(draws)])
    E = structure.group(N)
    assert E == 10
    rest = W[:, E:, E:].var()
    for i, rows in enumerate((slice(0, E), slice(E, N))):
        for j, columns in enumerate((slice(0, E), slice(E, N))):
            block = W[:, rows, columns]
            ratio = block.var() / rest / (GAINS[connections][i, j] / 0.8) ** 2
            error = np.sqrt(2 / block[0].size / draws + 2 / (N - E) ** 2 / draws)
            assert abs(ratio - 1) < 5 * error, (i, j)
            assert error < 0.05


@pytest.mark.parametrize("connections", GAINS)
def test_spectral_radius(connections: Connections) -> None:
    """The radius is g √λ_max(α_d g_cd²) at the null's norm, within 6 % as N is 400 and not infinite."""
    fraction = 0.25
    structure = CellTypes(fraction=fraction, connections=connections)
    shares = np.array([fraction, 1 - fraction])
    squares = GAINS[connections] ** 2
    radius = np.sqrt(np.linalg.eigvals(squares * shares).real.max() / (shares @ squares @ shares))
    found = [spectral_radius(structure.draw(400, seed)) for seed in range(4)]
    assert np.mean(found) == pytest.approx(1.5 * radius, rel=0.06)
    # The expected radius differs from the null's 1.5 by more than the tolerance.
    assert radius > 1.1


@pytest.mark.parametrize("connections", GAINS)
def test_effective_rank_is_below_the_nulls(connections: Connections) -> None:
    for singular in (False, True):
        null = effective_rank(Dense().draw(200, 0), singular=singular)
        W = CellTypes(connections=connections).draw(200, 0)
        assert effective_rank(W, singular=singular) < 0.8 * null
