"""The null: independent weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .base import Connectivity, Matrix, gaussian

Distribution = Literal["gaussian", "uniform"]


@dataclass(frozen=True)
class Dense(Connectivity):
    """Independent weights: W_ij ~ N(0, g²/N), or U(-g/√N, g/√N) for Figure 7 (Appendix C.1)."""

    kind: ClassVar[str] = "dense"
    # N(0, g²/N), or uniform within ±g/√N.
    distribution: Distribution = "gaussian"

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        return self.distribution

    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        """Draw the [N, N] matrix."""
        self.check(N)
        if self.distribution == "uniform":
            bound = self.g / np.sqrt(N)
            return rng.uniform(-bound, bound, size=(N, N))
        return gaussian(N, self.g, rng)
