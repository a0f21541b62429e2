"""Initial recurrent weights: each structure is a small frozen dataclass that draws an [N, N] matrix.

Row = postsynaptic unit, column = presynaptic unit, as in Eq. 1 of the paper. All structures of one seed start from
the same temporary Gaussian (or uniform) matrix, so that settings are compared in pairs.
"""

from __future__ import annotations

from .base import GAIN, Connectivity, Matrix
from .cell_types import CellTypes
from .dale import Dale
from .dense import Dense, Distribution
from .em import EM
from .low_rank import LowRank, Rescale, SoftRank
from .measures import effective_rank, magnitudes, spectral_radius, spectrum_rank
from .motif import ChainMotif
from .own_matrix import FromFile, from_file, from_matrix
from .registry import KINDS, UnknownKind, check_form, drawn, find_kind, from_dict, register, to_dict

__all__ = [
    "EM",
    "GAIN",
    "KINDS",
    "CellTypes",
    "ChainMotif",
    "Connectivity",
    "Dale",
    "Dense",
    "Distribution",
    "FromFile",
    "LowRank",
    "Matrix",
    "Rescale",
    "SoftRank",
    "UnknownKind",
    "check_form",
    "drawn",
    "effective_rank",
    "find_kind",
    "from_dict",
    "from_file",
    "from_matrix",
    "magnitudes",
    "register",
    "spectral_radius",
    "spectrum_rank",
    "to_dict",
]

for structure in (Dense, LowRank, SoftRank, CellTypes, ChainMotif, EM, Dale, FromFile):
    register(structure)
