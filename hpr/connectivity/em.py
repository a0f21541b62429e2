"""Connectivity read from electron microscopy, and the same with its weights shuffled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Matrix, Rescaled
from .connectome import CELEGANS, open_connectome


@dataclass(frozen=True)
class EM(Rescaled):
    """Signed synapse sizes of a connectome, rescaled (Figure 2 B); `shuffled` permutes them (Figure 19).

    The weight of a pair of cells is the sum of the sizes of its synapses, positive where the presynaptic cell is
    excitatory, negative where it is inhibitory. `connectome` is "celegans", the embedded stand-in, or a name that
    `hpr.connectivity.connectome.keep` gave. Shuffled weights stay on the same non-zero places.
    """

    kind: ClassVar[str] = "em"
    # "celegans", or the name of a connectome in the cache.
    connectome: str = CELEGANS
    # Whether the weights are permuted among the non-zero places.
    shuffled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.connectome, str):
            raise ValueError(f"connectome: expected a name, got {self.connectome!r}")
        if not isinstance(self.shuffled, bool):
            raise ValueError(f"shuffled: expected a bool, got {self.shuffled!r}")

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        name = "EM stand-in" if self.connectome == CELEGANS else "EM"
        return f"{name}, shuffled" if self.shuffled else name

    @property
    def N(self) -> int:
        """How many cells the connectome has."""
        return len(open_connectome(self.connectome).cells)

    @property
    def units(self) -> int:
        """How many units the data have."""
        return self.N

    def check_data(self, N: int) -> None:
        """Raise ValueError where the connectome does not have N cells."""
        super().check_data(N)
        if self.N != N:
            raise ValueError(
                f"N: expected the {self.N} cells of the connectome {self.connectome!r}, got {N}"
            )

    def structured(self, null: Matrix, rng: np.random.Generator) -> Matrix:
        """Take the connectome's matrix, whatever the null's draw [N, N]."""
        self.check_data(len(null))
        W = open_connectome(self.connectome).weights.copy()
        if self.shuffled:
            places = np.nonzero(W)
            W[places] = rng.permutation(W[places])
        return W
