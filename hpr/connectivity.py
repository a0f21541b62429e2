"""Initial recurrent weights: each structure is a small frozen dataclass that draws an [N, N] matrix.

Row = postsynaptic unit, column = presynaptic unit, as in Eq. 1 of the paper. All structures of one seed start from
the same temporary Gaussian (or uniform) matrix, so that settings are compared in pairs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Distribution = Literal["gaussian", "uniform"]
Rescale = Literal["frobenius", "eigenvalue"]


@dataclass(frozen=True)
class Dense:
    """Independent weights: W_ij ~ N(0, g²/N), or U(-g/√N, g/√N) for Figure 7 (Appendix C.1)."""

    kind: ClassVar[str] = "dense"
    gain: float = 1.5
    distribution: Distribution = "gaussian"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", float(self.gain))
        if not 0 < self.gain < float("inf"):
            raise ValueError(f"gain: expected a positive finite number, got {self.gain!r}")
        if self.distribution not in get_args(Distribution):
            raise ValueError(
                f"distribution: expected one of {get_args(Distribution)}, got {self.distribution!r}"
            )

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        return self.distribution

    def check(self, N: int) -> None:
        """Raise ValueError where this structure cannot have N units."""
        if N < 1:
            raise ValueError(f"N: expected at least 1 unit, got {N}")

    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        """Draw the [N, N] matrix."""
        self.check(N)
        if self.distribution == "uniform":
            bound = self.gain / np.sqrt(N)
            return rng.uniform(-bound, bound, size=(N, N))
        return rng.normal(0.0, self.gain / np.sqrt(N), size=(N, N))


@dataclass(frozen=True)
class SVD(Dense):
    """The `rank` largest singular triplets of a dense matrix, rescaled (Appendix C.1, after Schuessler et al. 2020).

    `rescale="frobenius"` restores the dense matrix's Frobenius norm; `"eigenvalue"` its leading |eigenvalue|
    (Figure 13). At rank N both are the identity, up to rounding.
    """

    kind: ClassVar[str] = "svd"
    rank: int = 1
    rescale: Rescale = "frobenius"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank: expected an integer of at least 1, got {self.rank!r}")
        if self.rescale not in get_args(Rescale):
            raise ValueError(f"rescale: expected one of {get_args(Rescale)}, got {self.rescale!r}")

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
        size = np.linalg.norm if self.rescale == "frobenius" else leading_eigenvalue
        return truncated * (size(dense) / _nonzero(size(truncated), self))


Connectivity = Dense | SVD
KINDS: dict[str, type[Dense]] = {kind.kind: kind for kind in (Dense, SVD)}


def to_dict(connectivity: Connectivity) -> dict[str, Any]:
    """The plain form kept in a run's JSON: `kind` and the fields."""
    return {"kind": connectivity.kind, **asdict(connectivity)}


def from_dict(plain: dict[str, Any]) -> Connectivity:
    """Invert `to_dict`."""
    fields = dict(plain)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"connectivity kind: expected one of {sorted(KINDS)}, got {kind!r}")
    return KINDS[kind](**fields)


def leading_eigenvalue(W: Matrix) -> float:
    """Largest |eigenvalue| of an [N, N] matrix."""
    return float(np.abs(np.linalg.eigvals(W)).max())


def effective_rank(W: Matrix, *, singular: bool = False) -> float:
    """Σ|λ_i| / (|λ_1| N), the relative effective rank of Section 3; with singular values for Figure 16.

    A zero matrix has no defined rank and gives NaN.
    """
    values = np.linalg.svd(W, compute_uv=False) if singular else np.abs(np.linalg.eigvals(W))
    largest = values.max()
    return float(values.sum() / (largest * len(W))) if largest > 0 else float("nan")


def _nonzero(size: float | np.floating, connectivity: SVD) -> float | np.floating:
    if not size > np.finfo(float).tiny:
        raise ValueError(
            f"rescale: expected a matrix with a non-zero {connectivity.rescale} norm, "
            f"got {size!r} for {connectivity}"
        )
    return size
