"""What every structure has in common: a gain, the temporary Gaussian matrix of its null, and the null's norm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Connectivity(ABC):
    """A structure of initial recurrent weights, drawn as an [N, N] matrix.

    Row = postsynaptic unit, column = presynaptic unit, as in Eq. 1 of the paper. `gain` is the g of the null,
    W_ij ~ N(0, g²/N), whose size every structure takes.
    """

    kind: ClassVar[str]
    gain: float = 1.5

    def __post_init__(self) -> None:
        require_numbers(self, "gain", positive=True)

    @property
    @abstractmethod
    def label(self) -> str:
        """What a plot's axis calls this structure."""

    def check(self, N: int) -> None:
        """Raise ValueError where this structure cannot have N units."""
        if N < 1:
            raise ValueError(f"N: expected at least 1 unit, got {N}")

    @abstractmethod
    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        """Draw the [N, N] matrix."""

    def draw(self, N: int, seed: int) -> Matrix:
        """The [N, N] matrix that runs of a seed start from: `weights` of the first of the seed's streams."""
        stream = np.random.SeedSequence(seed, spawn_key=(0,))
        return self.weights(N, np.random.Generator(np.random.Philox(stream)))


class Rescaled(Connectivity):
    """A structure made of the null's own Gaussian draw, at the null's Frobenius norm.

    The Gaussian matrix is drawn first, so that structures of one seed share it and are compared in pairs.
    """

    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        """Draw the [N, N] matrix."""
        self.check(N)
        null = gaussian(N, self.gain, rng)
        W = self.structured(null, rng)
        return W * (np.linalg.norm(null) / nonzero(np.linalg.norm(W), "frobenius", self))

    @abstractmethod
    def structured(self, null: Matrix, rng: np.random.Generator) -> Matrix:
        """Make the structure of a null's draw [N, N], at any scale."""


def gaussian(N: int, gain: float, rng: np.random.Generator) -> Matrix:
    """The null: W_ij ~ N(0, g²/N) (Appendix C.1)."""
    return rng.normal(0.0, gain / np.sqrt(N), size=(N, N))


def nonzero(
    size: float | np.floating, norm: str, connectivity: Connectivity, least: float = 0.0
) -> float:
    """A matrix's size, refused where it's too small to divide by: below `least`, or not a number."""
    if not size > max(least, float(np.finfo(float).tiny)):
        raise ValueError(
            f"rescale: expected a matrix with a non-zero {norm} norm, got {float(size)!r} "
            f"for {connectivity}"
        )
    return float(size)


def require_numbers(connectivity: Any, *names: str, positive: bool = False) -> None:
    """Make fields finite floats: 2 and 2.0 are one structure, so they must have one key."""
    kind = "positive finite" if positive else "finite"
    for name in names:
        value = getattr(connectivity, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not np.isfinite(value) or (positive and value <= 0):
            raise ValueError(f"{name}: expected a {kind} number, got {value!r}")
        object.__setattr__(connectivity, name, float(value))
