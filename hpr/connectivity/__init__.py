"""Initial recurrent weights: each structure is a small frozen dataclass that draws an [N, N] matrix.

Row = postsynaptic unit, column = presynaptic unit, as in Eq. 1 of the paper. All structures of one seed start from
the same temporary Gaussian (or uniform) matrix, so that settings are compared in pairs.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .base import Connectivity, Matrix
from .cell_types import CellTypes
from .dale import Dale
from .dense import Dense, Distribution
from .em import EM
from .low_rank import SVD, Rescale, SoftRank
from .measures import effective_rank, leading_eigenvalue, magnitudes, spectrum_rank
from .motif import ChainMotif

__all__ = [
    "EM",
    "KINDS",
    "SVD",
    "CellTypes",
    "ChainMotif",
    "Connectivity",
    "Dale",
    "Dense",
    "Distribution",
    "Matrix",
    "Rescale",
    "SoftRank",
    "effective_rank",
    "from_dict",
    "leading_eigenvalue",
    "magnitudes",
    "spectrum_rank",
    "to_dict",
]

KINDS: dict[str, type[Connectivity]] = {
    structure.kind: structure
    for structure in (Dense, SVD, SoftRank, CellTypes, ChainMotif, EM, Dale)
}


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
