"""Low rank by singular value decomposition: a hard cut (Figure 1) and a soft decay (Figure 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .base import Matrix, Rescaled, nonzero
from .dense import Dense
from .measures import spectral_radius

Rescale = Literal["frobenius", "eigenvalue"]


@dataclass(frozen=True)
class LowRank(Dense):
    """The `rank` largest singular triplets of a dense matrix, rescaled (Appendix C.1, after Schuessler et al. 2020).

    `rescale="frobenius"` restores the dense matrix's Frobenius norm; `"eigenvalue"` its leading |eigenvalue|
    (Figure 13). At rank N both are the identity, up to rounding.
    """

    kind: ClassVar[str] = "svd"
    # How many singular triplets of the dense matrix are kept, from 1 to N.
    rank: int = 1
    # Which size of the dense matrix is restored: its Frobenius norm or its leading |eigenvalue|.
    rescale: Rescale = "frobenius"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ValueError(f"rank: expected an integer of at least 1, got {self.rank!r}")

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        return f"rank {self.rank}"

    def check(self, N: int) -> None:
        """Raise ValueError where this structure cannot have N units."""
        super().check(N)
        if self.rank > N:
            raise ValueError(f"rank: expected at most N = {N}, got {self.rank}")

    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        """Draw the [N, N] matrix."""
        dense = super().weights(N, rng)
        left, values, right = np.linalg.svd(dense)
        truncated = (left[:, : self.rank] * values[: self.rank]) @ right[: self.rank]
        size = np.linalg.norm if self.rescale == "frobenius" else spectral_radius
        # An eigenvalue below the matrix's own rounding error counts as zero.
        least = N * np.finfo(float).eps * values[0]
        return truncated * (size(dense) / nonzero(size(truncated), self.rescale, self, least))


@dataclass(frozen=True)
class SoftRank(Rescaled):
    """A dense matrix whose singular values become s_i = s_1 (1 - i/N)^k, i = 0 … N - 1 (Figure 8), rescaled.

    The effective rank by singular values is about 1/(k + 1).
    """

    kind: ClassVar[str] = "soft_rank"
    # The exponent of the decay of the singular values, s_i = s_1 (1 - i/N)^k.
    k: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 0:
            raise ValueError(f"k: expected an exponent of at least 0, got {self.k!r}")

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        return f"k = {self.k:g}"

    def structured(self, null: Matrix, rng: np.random.Generator) -> Matrix:
        """Replace the singular values of a null's draw [N, N]."""
        left, values, right = np.linalg.svd(null)
        N = len(null)
        return (left * (values[0] * (1 - np.arange(N) / N) ** self.k)) @ right
