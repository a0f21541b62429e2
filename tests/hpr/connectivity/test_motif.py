"""Chain motifs have their covariances, within Monte Carlo's standard errors, and the spectrum of Dahmen et al."""

from __future__ import annotations

import numpy as np
import pytest

from hpr.connectivity import ChainMotif, Dense, effective_rank

CASES = {
    "over": ChainMotif(tau_chn=0.03),
    "under": ChainMotif(tau_chn=-0.1),
    "all unlike": ChainMotif(tau_chn=-0.05, tau_con=0.04, tau_div=0.15, tau_rec=0.2),
}


def motifs(J: np.ndarray) -> dict[str, float]:
    """Return means over all triples (or pairs) of different units of one draw [N, N], not divided by g²/N."""
    N = len(J)
    diagonal = np.diag(J)
    J = J - np.diag(diagonal)
    triples = N * (N - 1) * (N - 2)
    squares = (J**2).sum()
    chains = J @ J
    return {
        "variance": squares / (N * (N - 1)),
        "diagonal": (diagonal**2).mean(),
        "chn": (chains.sum() - np.trace(chains)) / triples,
        "con": ((J.sum(1) ** 2).sum() - squares) / triples,
        "div": ((J.sum(0) ** 2).sum() - squares) / triples,
        "rec": (J * J.T).sum() / (N * (N - 1)),
        # All pairs of different weights are summed: pairs that share no unit must add nothing.
        "all pairs": (J.sum() ** 2 - squares - (J * J.T).sum()) / (N * (N - 1)),
    }


@pytest.mark.parametrize("structure", CASES.values(), ids=CASES)
def test_covariances(structure: ChainMotif) -> None:
    """Each moment is within five standard errors over 2,000 draws; the errors are small enough to tell it from zero."""
    N, draws = 20, 2000
    rng = np.random.default_rng(1)
    unit = structure.g**2 / N
    found = [motifs(structure.structured(Dense().weights(N, rng), rng)) for _ in range(draws)]
    con, div = structure.tau_con, structure.tau_div
    assert con is not None
    assert div is not None
    expected = {
        "variance": 1.0,
        "diagonal": 1 + structure.tau_rec,
        "chn": structure.tau_chn,
        "con": con,
        "div": div,
        "rec": structure.tau_rec,
        "all pairs": (N - 2) * (2 * structure.tau_chn + con + div),
    }
    for name, tau in expected.items():
        values = np.array([each[name] for each in found]) / unit
        error = values.std(ddof=1) / np.sqrt(draws)
        assert abs(values.mean() - tau) < 5 * error, name
        if name in ("chn", "con", "div"):
            assert 8 * error < abs(tau), name


@pytest.mark.parametrize("structure", list(CASES.values())[:2], ids=list(CASES)[:2])
def test_spectrum(structure: ChainMotif) -> None:
    """Outliers are ±λ: the mean of -λ_1 λ_2 is λ² within five standard errors; the bulk's extent is within 5 %."""
    N, draws = 300, 12
    rng = np.random.default_rng(2)
    products, extents = [], []
    for _ in range(draws):
        J = structure.structured(Dense().weights(N, rng), rng)
        eigenvalues = np.linalg.eigvals(J)
        eigenvalues = eigenvalues[np.argsort(-np.abs(eigenvalues))]
        products.append(-(eigenvalues[0] * eigenvalues[1]).real)
        extents.append(np.abs(eigenvalues[2]))
    expected = (structure.outlier(N) ** 2).real
    error = np.std(products, ddof=1) / np.sqrt(draws)
    assert abs(np.mean(products) - expected) < 5 * error
    assert error < 0.1 * abs(expected)
    assert np.sign(expected) == np.sign(structure.tau_chn)
    assert np.mean(extents) == pytest.approx(max(structure.half_axes), rel=0.05)


@pytest.mark.parametrize("structure", list(CASES.values())[:2], ids=list(CASES)[:2])
def test_effective_rank_is_below_the_nulls(structure: ChainMotif) -> None:
    for singular in (False, True):
        for seed in range(5):
            null = effective_rank(Dense().draw(100, seed), singular=singular)
            assert effective_rank(structure.draw(100, seed), singular=singular) < null


def test_the_least_shared_input_is_the_default() -> None:
    assert ChainMotif(tau_chn=-0.1) == ChainMotif(tau_chn=-0.1, tau_con=0.1, tau_div=0.1)
