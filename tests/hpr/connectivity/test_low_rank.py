"""Matrices of hard and soft low rank have the singular values that define them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hpr.connectivity import Dense, LowRank, SoftRank, effective_rank, spectral_radius

DRAWS = {"gaussian": Dense(), "uniform": Dense(distribution="uniform")}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("rank", [1, 2, 30, 33])
@pytest.mark.parametrize("distribution", DRAWS)
def test_svd(distribution: str, rank: int) -> None:
    N = 33
    dense = DRAWS[distribution].weights(N, rng())
    W = LowRank(distribution=distribution, rank=rank).weights(N, rng())
    values = np.linalg.svd(W, compute_uv=False)
    assert np.all(values[rank:] < 1e-12 * values[0])
    np.testing.assert_allclose(np.linalg.norm(W), np.linalg.norm(dense), rtol=1e-12)
    # The kept singular values are the dense matrix's own, times one common factor.
    ratio = values[:rank] / np.linalg.svd(dense, compute_uv=False)[:rank]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)


def test_full_rank_is_the_dense_matrix() -> None:
    np.testing.assert_allclose(
        LowRank(rank=33).weights(33, rng()), Dense().weights(33, rng()), atol=1e-12
    )


@pytest.mark.parametrize("rank", [1, 5, 33])
def test_eigenvalue_rescaling(rank: int) -> None:
    W = LowRank(rank=rank, rescale="eigenvalue").weights(33, rng())
    expected = spectral_radius(Dense().weights(33, rng()))
    np.testing.assert_allclose(spectral_radius(W), expected, rtol=1e-9)


@pytest.mark.parametrize("k", [0.0, 0.5, 4.0])
def test_soft_rank(k: float) -> None:
    """The singular values are s_i / s_1 = (1 - i/N)^k, along the dense matrix's own directions."""
    N = 33
    W = SoftRank(k=k).weights(N, rng())
    values = np.linalg.svd(W, compute_uv=False)
    np.testing.assert_allclose(values / values[0], (1 - np.arange(N) / N) ** k, atol=1e-12)
    left, _, right = np.linalg.svd(Dense().weights(N, rng()))
    aligned = left.T @ W @ right.T
    np.testing.assert_allclose(aligned, np.diag(np.diag(aligned)), atol=1e-12)


def test_a_greater_exponent_has_a_lower_effective_rank() -> None:
    ranks = [
        [effective_rank(SoftRank(k=k).draw(60, 0), singular=singular) for k in (16, 4, 1, 0.25)]
        for singular in (False, True)
    ]
    assert np.all(np.diff(ranks) > 0.05)
    # Σ (1 - i/N)^k / N is about 1/(k + 1).
    np.testing.assert_allclose(ranks[1], [1 / 17, 1 / 5, 1 / 2, 1 / 1.25], rtol=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRank(rank=0), "rank: expected an integer of at least 1, got 0"),
        (lambda: LowRank(rank=-2), "rank: expected an integer of at least 1, got -2"),
        (lambda: LowRank(rank=34).check(33), "rank: expected at most N = 33, got 34"),
        (lambda: replace(LowRank(), rescale="trace"), "rescale: expected one of"),
    ],
)
def test_bad_input_is_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


NILPOTENT = {
    "exactly": np.array([[0.0, 1.0], [0.0, 0.0]]),
    "up to rounding": np.array([[1e-17, 1.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize("W", NILPOTENT.values(), ids=NILPOTENT)
def test_a_matrix_without_eigenvalues_cannot_be_rescaled(
    W: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dense, "weights", lambda self, N, rng: W)
    with pytest.raises(ValueError, match="rescale: expected a matrix with a non-zero eigenvalue"):
        LowRank(rank=1, rescale="eigenvalue").weights(2, rng())
