"""Each structure against what defines it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hpr import connectivity
from hpr.connectivity import SVD, Dense, effective_rank, leading_eigenvalue

DRAWS = {"gaussian": Dense(), "uniform": Dense(distribution="uniform")}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("distribution", DRAWS)
def test_moments(distribution: str) -> None:
    """Sample moments of 90,000 weights, within five standard errors of the theory's."""
    N, g = 300, 1.5
    W = DRAWS[distribution].weights(N, rng())
    variance = g**2 / N if distribution == "gaussian" else g**2 / N / 3
    assert abs(W.mean()) < 5 * np.sqrt(variance) / N
    assert abs(W.var() / variance - 1) < 5 * np.sqrt(2) / N
    if distribution == "uniform":
        assert np.abs(W).max() <= g / np.sqrt(N)


@pytest.mark.parametrize("rank", [1, 2, 30, 33])
@pytest.mark.parametrize("distribution", DRAWS)
def test_svd(distribution: str, rank: int) -> None:
    N = 33
    dense = DRAWS[distribution].weights(N, rng())
    W = SVD(distribution=distribution, rank=rank).weights(N, rng())
    values = np.linalg.svd(W, compute_uv=False)
    assert np.all(values[rank:] < 1e-12 * values[0])
    np.testing.assert_allclose(np.linalg.norm(W), np.linalg.norm(dense), rtol=1e-12)
    # The kept directions are the dense matrix's own, by one common factor.
    ratio = values[:rank] / np.linalg.svd(dense, compute_uv=False)[:rank]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)


def test_full_rank_is_the_dense_matrix() -> None:
    np.testing.assert_allclose(
        SVD(rank=33).weights(33, rng()), Dense().weights(33, rng()), atol=1e-12
    )


@pytest.mark.parametrize("rank", [1, 5, 33])
def test_eigenvalue_rescaling(rank: int) -> None:
    W = SVD(rank=rank, rescale="eigenvalue").weights(33, rng())
    expected = leading_eigenvalue(Dense().weights(33, rng()))
    np.testing.assert_allclose(leading_eigenvalue(W), expected, rtol=1e-9)


def test_effective_rank() -> None:
    W = np.diag([2.0, -1.0, 1.0, 0.0])
    assert effective_rank(W) == pytest.approx(0.5)
    rotation = np.linalg.qr(rng().normal(size=(4, 4)))[0]
    assert effective_rank(rotation @ W, singular=True) == pytest.approx(0.5)
    assert np.isnan(effective_rank(np.zeros((3, 3))))


@pytest.mark.parametrize("structure", [Dense(gain=2), SVD(rank=3, rescale="eigenvalue")], ids=str)
def test_round_trip(structure: Dense) -> None:
    assert connectivity.from_dict(connectivity.to_dict(structure)) == structure


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SVD(rank=0), "rank: expected an integer of at least 1, got 0"),
        (lambda: SVD(rank=-2), "rank: expected an integer of at least 1, got -2"),
        (lambda: SVD(rank=34).check(33), "rank: expected at most N = 33, got 34"),
        (lambda: Dense(gain=0), "gain: expected a positive"),
        (lambda: Dense(gain=float("nan")), "gain: expected a positive"),
        (lambda: Dense(distribution="cauchy"), "distribution: expected one of"),  # type: ignore[arg-type]
        (lambda: replace(SVD(), rescale="trace"), "rescale: expected one of"),
        (lambda: Dense().check(0), "N: expected at least 1"),
        (lambda: connectivity.from_dict({"kind": "ring"}), "connectivity kind: expected one of"),
    ],
)
def test_bad_input_is_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_matrix_without_eigenvalues_cannot_be_rescaled(monkeypatch: pytest.MonkeyPatch) -> None:
    nilpotent = np.array([[0.0, 1.0], [0.0, 0.0]])
    monkeypatch.setattr(Dense, "weights", lambda self, N, rng: nilpotent)
    with pytest.raises(ValueError, match="rescale: expected a matrix with a non-zero eigenvalue"):
        SVD(rank=1, rescale="eigenvalue").weights(2, rng())
