"""Dale's law: each unit excites all others, or inhibits all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Matrix, Rescaled


@dataclass(frozen=True)
class Dale(Rescaled):
    """Balanced excitatory and inhibitory columns without self-connections, rescaled (Yang and Wang 2020; Figure 2 C).

    The first int(excitatory · N) units are excitatory. Magnitudes are uniform (Kaiming's, as in PyTorch's Linear), the
    excitatory ones divided by the ratio of excitatory to inhibitory units, so that a unit's expected input is zero.
    With `dale_throughout` training keeps the signs (Figure 17).
    """

    kind: ClassVar[str] = "dale"
    # The share of excitatory units.
    excitatory: float = 0.8
    # Whether training keeps the signs.
    dale_throughout: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.excitatory < 1:
            raise ValueError(f"excitatory: expected a share in (0, 1), got {self.excitatory!r}")

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        return "Dale throughout" if self.dale_throughout else "Dale"

    def count(self, N: int) -> int:
        """How many of N units are excitatory."""
        return int(self.excitatory * N)

    def check(self, N: int) -> None:
        """Raise ValueError where this structure cannot have N units."""
        super().check(N)
        if not 0 < self.count(N) < N:
            raise ValueError(
                f"excitatory: expected from 1 to N - 1 = {N - 1} excitatory units, "
                f"got {self.count(N)} ({self.excitatory} of {N})"
            )

    def signs(self, N: int) -> NDArray[np.float64]:
        """+1 for each excitatory and -1 for each inhibitory presynaptic unit (column), [N]."""
        return np.where(np.arange(N) < self.count(N), 1.0, -1.0)

    def structured(self, null: Matrix, rng: np.random.Generator) -> Matrix:
        """Map a null's draw [N, N] to uniform magnitudes by its distribution function, and sign the columns."""
        from scipy.special import erf

        N = len(null)
        E = self.count(N)
        magnitude = erf(np.abs(null) / (self.g * np.sqrt(2 / N)))
        magnitude[:, :E] /= E / (N - E)
        np.fill_diagonal(magnitude, 0.0)
        return magnitude * self.signs(N)
