"""The base of every structure: a gain, the Gaussian matrix of its null, and the null's norm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hpr.fields import check_positive, normalise, shown
from hpr.system.loading import named

Matrix = NDArray[np.float64]

# The paper's g of the null (Appendix C.2).
GAIN = 1.5


@dataclass(frozen=True)
class Connectivity(ABC):
    """A structure of initial recurrent weights, drawn as an [N, N] matrix.

    Row = postsynaptic unit, column = presynaptic unit, as in Eq. 1 of the paper. `gain` is the g of the null,
    W_ij ~ N(0, g²/N), whose size every structure takes. None stands for the gain of the run's variant, which a
    `RunSpec` fills in; outside a run it is the paper's.
    """

    kind: ClassVar[str]
    # The g of the null, W_ij ~ N(0, g²/N), whose size the weights have; None: that of the run's variant.
    gain: float | None = None

    def __post_init__(self) -> None:
        normalise(self)
        if self.gain is not None:
            check_positive(self, "gain")

    @property
    def g(self) -> float:
        """The gain as a number."""
        return GAIN if self.gain is None else self.gain

    @property
    @abstractmethod
    def label(self) -> str:
        """What a plot's axis calls this structure."""

    @property
    def units(self) -> int | None:
        """How many units the data have that this structure is read from; None: it can have any number."""
        return None

    def check(self, N: int) -> None:
        """Raise ValueError where this structure cannot have N units."""
        if N < 1:
            raise ValueError(f"N: expected at least 1 unit, got {N}")

    def check_data(self, N: int) -> None:
        """Raise ValueError where the files that this structure is read from do not give N units.

        `check` opens no file. This is called before a run is trained.
        """
        self.check(N)

    @abstractmethod
    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        """Draw the [N, N] matrix."""

    def draw(self, N: int, seed: int) -> Matrix:
        """The [N, N] matrix that runs of a seed start from: `weights` drawn from the seed's first random stream.

        Raises:
            ValueError: one line; the weights are not an [N, N] matrix of finite real numbers, or can't be drawn.
        """
        stream = np.random.SeedSequence(seed, spawn_key=(0,))
        what = f"weights of {self.kind}: expected"
        try:
            W = self.weights(N, np.random.Generator(np.random.Philox(stream)))
        # A class of the user's own can raise any exception. Those of this package name what is wrong.
        except (Exception, SystemExit) as error:
            if type(self).__module__.startswith(f"{__package__}."):
                raise
            raise ValueError(f"{what} an array [N, N], got {named(error)}") from error
        if not isinstance(W, np.ndarray) or W.dtype.kind not in "iuf":
            raise ValueError(f"{what} a NumPy array of real numbers, got {shown(W)}")
        if W.shape != (N, N):
            raise ValueError(f"{what} shape [N, N] = [{N}, {N}], got {list(W.shape)}")
        bad = W.size - int(np.isfinite(W).sum())
        if bad:
            raise ValueError(f"{what} finite numbers, got {bad} NaN or infinite in {shown(self)}")
        # The structure may keep its matrix, or return a view of another.
        return np.array(W, np.float64, order="C")


class Rescaled(Connectivity):
    """A structure that is made from the null's Gaussian draw, at the null's Frobenius norm.

    The Gaussian matrix is drawn first, so that the structures of one seed share it and can be compared in pairs.
    """

    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        """Draw the [N, N] matrix."""
        self.check(N)
        null = gaussian(N, self.g, rng)
        W = self.structured(null, rng)
        return W * (np.linalg.norm(null) / nonzero(np.linalg.norm(W), "frobenius", self))

    @abstractmethod
    def structured(self, null: Matrix, rng: np.random.Generator) -> Matrix:
        """Make the structure from a null's draw [N, N], at any scale."""


def gaussian(N: int, gain: float, rng: np.random.Generator) -> Matrix:
    """The null: W_ij ~ N(0, g²/N) (Appendix C.1)."""
    return rng.normal(0.0, gain / np.sqrt(N), size=(N, N))


def nonzero(
    size: float | np.floating, norm: str, connectivity: Connectivity, least: float = 0.0
) -> float:
    """A matrix's norm; ValueError where it is too small to divide by (at most `least`) or not a number."""
    if not size > max(least, float(np.finfo(float).tiny)):
        raise ValueError(
            f"rescale: expected a matrix with a non-zero {norm} norm, got {float(size)!r} "
            f"for {connectivity}"
        )
    return float(size)
