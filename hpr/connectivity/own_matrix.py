"""A weight matrix of your own, from an array or a file, beside the null that it is compared with."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from hpr.fields import shown

from .base import Connectivity, Matrix, gaussian, nonzero
from .connectome import Connectome, keep, open_connectome
from .matrix_file import check_matrix, read_matrix
from .measures import spectral_radius

Size = Literal["frobenius", "eigenvalue", "kept"]


@dataclass(frozen=True)
class FromFile(Connectivity):
    """A signed matrix of your own; row = postsynaptic unit. `from_file` and `from_matrix` make it.

    Runs of different seeds have the same recurrent weights, up to the factor of `rescale`, and other input and readout
    weights. The matrix is kept in the cache (`connectome.keep`) under the name `matrix`, which ends in a hash of its
    numbers. The name is part of a run's key, so a file that changes under its old name makes other runs.
    """

    kind: ClassVar[str] = "file"
    # The name under which `from_file` kept the matrix: the file's name and a hash of the numbers.
    matrix: str = ""
    # The size that the weights get: the Frobenius norm or the leading |eigenvalue| of the null's draw of the same seed;
    # "kept" leaves them as they are, and `gain` has no effect.
    rescale: Size = "frobenius"
    # Whether the weights are permuted among the non-zero places.
    shuffled: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.matrix, str) and not re.fullmatch(r"\w+-[0-9a-f]{12}", self.matrix):
            raise ValueError(
                "matrix: expected a name that hpr.connectivity.from_file gave, such as 'name-0123456789ab', got "
                f"{shown(self.matrix)}"
            )
        super().__post_init__()

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        name = self.matrix.rpartition("-")[0]
        return f"{name}, shuffled" if self.shuffled else name

    @property
    def units(self) -> int:
        """How many units the matrix has."""
        return len(open_connectome(self.matrix).weights)

    def check_data(self, N: int) -> None:
        """Raise ValueError where the matrix does not have N units."""
        super().check_data(N)
        if self.units != N:
            raise ValueError(f"N: expected the {self.units} units of {self.matrix!r}, got {N}")

    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        """The matrix [N, N] at its size; the null is drawn first, as for every structure."""
        self.check_data(N)
        null = gaussian(N, self.g, rng)
        W = open_connectome(self.matrix).weights.copy()
        if self.shuffled:
            places = np.nonzero(W)
            W[places] = rng.permutation(W[places])
        if self.rescale == "kept":
            return W
        if self.rescale == "frobenius":
            return W * (np.linalg.norm(null) / nonzero(np.linalg.norm(W), self.rescale, self))
        # An eigenvalue below the matrix's own rounding error counts as zero.
        least = N * np.finfo(float).eps * float(np.linalg.norm(W))
        size = nonzero(spectral_radius(W), self.rescale, self, least)
        return W * (spectral_radius(null) / size)


def from_matrix(
    weights: Any,
    name: str = "matrix",
    *,
    rescale: Size = "frobenius",
    shuffled: bool = False,
    gain: float | None = None,
    write: bool = True,
) -> FromFile:
    """The structure of an array [N, N] of real numbers, row = postsynaptic unit. The array is copied.

    Args:
        weights: the array.
        name: what plots call it; letters, digits and underscores.
        rescale: the size that the weights get (see `FromFile`).
        shuffled: whether the weights are permuted among the non-zero places.
        gain: the g of the null whose size the weights get; None: that of the run's variant.
        write: whether the matrix is kept in the cache; without it, only this process can use it.

    Raises:
        ValueError: one line; the array is not square, finite and non-zero.
        OSError: one line, when the cache can't be written.
    """
    array = np.asarray(weights)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"weights: expected real numbers, got the type {array.dtype}")
    W = np.array(array, np.float64, order="C")
    check_matrix(W, "weights")
    # Adding zero makes -0.0 the same as 0.0, so that equal matrices have one name.
    kept = keep(Connectome((), W + 0.0), name, write=write)
    return FromFile(gain=gain, matrix=kept, rescale=rescale, shuffled=shuffled)


def from_file(
    path: str | os.PathLike[str],
    *,
    array: str | None = None,
    transpose: bool = False,
    rescale: Size = "frobenius",
    shuffled: bool = False,
    gain: float | None = None,
    write: bool = True,
) -> FromFile:
    """The structure of a matrix in a file; `hpr.connectivity.matrix_file` has the formats.

    Args:
        path: a .npy, .npz, .csv, .tsv, .txt or .mtx.
        array: which array of a .npz with several.
        transpose: for a file whose rows are presynaptic units.
        rescale: the size that the weights get (see `FromFile`).
        shuffled: whether the weights are permuted among the non-zero places.
        gain: the g of the null whose size the weights get; None: that of the run's variant.
        write: whether the matrix is kept in the cache; without it, only this process can use it.

    Raises:
        ValueError: one line that names the file and what is wrong in it.
        OSError: the file can't be read, or the cache can't be written.
    """
    file = Path(path)
    W = read_matrix(file, array=array)
    stem = (
        file.name.partition(".")[0] if array is None else f"{file.name.partition('.')[0]}_{array}"
    )
    # A name has at most 100 characters, so that it fits into a key's fields and a file's name.
    name = re.sub(r"\W+", "_", stem, flags=re.ASCII)[:100] or "matrix"
    return from_matrix(
        W.T if transpose else W, name, rescale=rescale, shuffled=shuffled, gain=gain, write=write
    )
