"""Over- and under-represented chain motifs (Dahmen et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Matrix, Rescaled


@dataclass(frozen=True)
class ChainMotif(Rescaled):
    """Gaussian weights whose second-order motifs have given covariances (Dahmen et al. 2020, Section S3.10), rescaled.

    In units of the variance g²/N, and for different i, j, k:

        Cov(J_ij, J_jk) = tau_chn    chain         Cov(J_ij, J_ji) = tau_rec    reciprocal
        Cov(J_ij, J_ik) = tau_con    convergent    Cov(J_ij, J_kj) = tau_div    divergent

    Construction: J_ij = η_i + μ_j + ν_ij with Cov(η_i, μ_i) = (g²/N) [[tau_con, tau_chn], [tau_chn, tau_div]] and
    Cov(ν_ij, ν_ji) = (g²/N) [[A, B], [B, A]], where A = 1 - tau_con - tau_div and B = tau_rec - 2 tau_chn. At large N
    the spectrum is an elliptic bulk of half axes g (A + B)/√A (real) and g (A - B)/√A (imaginary), and two outliers
    at ±g √((N - 1) tau_chn + tau_rec): real where chains are over-represented, imaginary where under-represented.
    `tau_con` and `tau_div` default to |tau_chn|, the least that a chain motif needs.
    """

    kind: ClassVar[str] = "chain_motif"
    # Covariance of chains, Cov(J_ij, J_jk), in units of g²/N.
    tau_chn: float = 0.03
    # Covariance of convergent pairs, Cov(J_ij, J_ik); None: |tau_chn|.
    tau_con: float | None = None
    # Covariance of divergent pairs, Cov(J_ij, J_kj); None: |tau_chn|.
    tau_div: float | None = None
    # Covariance of reciprocal pairs, Cov(J_ij, J_ji).
    tau_rec: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tau_con", "tau_div"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, abs(self.tau_chn))
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)!r}")
        con, div = self._shared
        if self.tau_chn * self.tau_chn > con * div:
            raise ValueError(
                f"tau_chn: expected at most sqrt(tau_con tau_div) = {np.sqrt(con * div):.3g} in "
                f"magnitude, got {self.tau_chn}"
            )
        if abs(self._B) > self._A:
            raise ValueError(
                f"tau_rec: expected |tau_rec - 2 tau_chn| of at most 1 - tau_con - tau_div = "
                f"{self._A:.3g}, got {abs(self._B):.3g}"
            )

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        return f"chain {self.tau_chn:+g}"

    @property
    def _shared(self) -> tuple[float, float]:
        assert self.tau_con is not None
        assert self.tau_div is not None
        return self.tau_con, self.tau_div

    @property
    def _A(self) -> float:
        return 1 - sum(self._shared)

    @property
    def _B(self) -> float:
        return self.tau_rec - 2 * self.tau_chn

    @property
    def half_axes(self) -> tuple[float, float]:
        """The half axes of the bulk at large N, before rescaling: real and imaginary."""
        scale = self.g / self._A**0.5
        return scale * (self._A + self._B), scale * (self._A - self._B)

    def outlier(self, N: int) -> complex:
        """One of the two outliers ±λ at large N, before rescaling."""
        return complex(self.g) * complex((N - 1) * self.tau_chn + self.tau_rec) ** 0.5

    def structured(self, null: Matrix, rng: np.random.Generator) -> Matrix:
        """Mix a null's draw [N, N] with its transpose into ν, and add η and μ."""
        N = len(null)
        con, div = self._shared
        # ν = a Z + b Zᵀ has a² + b² = A and 2ab = B, and the variance A + B on its diagonal.
        total, difference = np.sqrt(self._A + self._B), np.sqrt(self._A - self._B)
        nu = (total + difference) / 2 * null + (total - difference) / 2 * null.T
        first, second = rng.normal(0.0, self.g / np.sqrt(N), size=(2, N))
        eta = np.sqrt(con) * first
        slope = self.tau_chn / np.sqrt(con) if con > 0 else 0.0
        mu = slope * first + np.sqrt(max(div - slope**2, 0.0)) * second
        return eta[:, None] + mu + nu
