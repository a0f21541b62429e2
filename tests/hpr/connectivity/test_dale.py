"""Under Dale's law, columns have one sign, no unit drives itself, E and I balance, and magnitudes are uniform."""

from __future__ import annotations

import numpy as np
import pytest

from hpr.connectivity import Dale, Dense, effective_rank


@pytest.mark.parametrize(("share", "N"), [(0.8, 300), (0.8, 33), (0.5, 10)])
def test_signs(share: float, N: int) -> None:
    structure = Dale(excitatory=share)
    signs = structure.signs(N)
    assert (signs == 1).sum() == int(share * N)
    assert set(signs) == {-1.0, 1.0}
    W = structure.draw(N, 0)
    assert np.all(np.diag(W) == 0)
    off = ~np.eye(N, dtype=bool)
    assert np.all(np.sign(W)[off] == np.broadcast_to(signs, (N, N))[off])


def test_excitation_and_inhibition_balance() -> None:
    """The mean over 300 units of their summed input weights is zero, within five standard errors."""
    N = 300
    W = Dale().draw(N, 0)
    sums = W.sum(axis=1)
    assert abs(sums.mean()) < 5 * sums.std(ddof=1) / np.sqrt(N)
    excitation, inhibition = W[:, :240].sum(), -W[:, 240:].sum()
    assert excitation == pytest.approx(inhibition, rel=0.02)
    # Without the division by the ratio of E to I, excitation would be four times inhibition.
    assert excitation > 100


def test_magnitudes_are_uniform() -> None:
    """A Kolmogorov-Smirnov test accepts each kind of column; excitatory weights are a quarter of inhibitory ones."""
    from scipy import stats

    N = 200
    W = np.abs(Dale().draw(N, 0))
    off = ~np.eye(N, dtype=bool)
    E, I = (W[:, columns][off[:, columns]] for columns in (slice(0, 160), slice(160, N)))
    largest = np.array([4 * E.max(), I.max()]).max()
    for magnitudes in (4 * E, I):
        assert stats.kstest(magnitudes / largest, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("singular", [False, True])
def test_effective_rank_is_below_the_nulls(singular: bool) -> None:
    null, W = Dense().draw(200, 0), Dale().draw(200, 0)
    assert effective_rank(W, singular=singular) < 0.7 * effective_rank(null, singular=singular)
