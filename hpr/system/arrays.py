"""Read NumPy's files .npy and .npz. An array's size is known before the array is read, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpr.system.files import LARGEST, open_bounded

# The headers of plain arrays have about 100 bytes.
_LONGEST_HEADER = 10_000
_HEADERS = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}


@dataclass(frozen=True)
class StoredArray:
    """An array in a file of NumPy, of which only the header was read."""

    path: Path
    # The name in a .npz; empty for a .npy.
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def where(self) -> str:
        """The file, and the array's name in it, as errors say them."""
        return f"{self.path}: {self.name}" if self.name else str(self.path)

    @property
    def nbytes(self) -> int:
        """The bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> NDArray[Any]:
        """Read the numbers.

        Raises:
            ValueError: one line; the numbers are fewer or more than the header says, or the file has changed.
            OSError: the file can't be read.
        """
        with _opened(self.path, self.name) as file:
            if _header(file, self.path, self.name) != self:
                raise ValueError(
                    f"{self.where}: expected a file that stays the same while it is read"
                )
            try:
                content = file.read(self.nbytes + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise ValueError(f"{self.where}: expected a whole array, got {error}") from None
        if len(content) != self.nbytes:
            number = "more" if len(content) > self.nbytes else f"{len(content):,}"
            raise ValueError(
                f"{self.where}: expected {self.nbytes:,} bytes of numbers, got {number}"
            )
        order: Any = "F" if self.fortran_order else "C"
        return np.frombuffer(content, self.dtype).reshape(self.shape, order=order)


def stored_arrays(path: Path) -> dict[str, StoredArray]:
    """The arrays of a .npz by their names, or the array of a .npy under the empty name. Only headers are read.

    Raises:
        ValueError: one line; it is no file of NumPy, an array has no real numbers, or the arrays exceed 1 GiB.
        OSError: the file can't be read.
    """
    names = archive_names(path) if path.suffix == ".npz" else [""]
    if not names:
        raise ValueError(f"{path}: expected arrays, got a .npz without any")
    found = {}
    for name in names:
        with _opened(path, name) as file:
            found[name] = _header(file, path, name)
    total = sum(array.nbytes for array in found.values())
    if total > LARGEST:
        raise ValueError(f"{path}: expected at most {LARGEST:,} bytes of numbers, got {total:,}")
    return found


def archive_names(path: Path) -> list[str]:
    """The names of the arrays of a .npz.

    Raises:
        ValueError: one line; it is no .npz, or its files exceed 1 GiB when they are unzipped.
        OSError: the file can't be read.
    """
    with _archive(path) as archive:
        # A reader of a member stops at this size, also where more is packed.
        total = sum(entry.file_size for entry in archive.infolist())
        names = [name for name in archive.namelist() if name.endswith(".npy")]
    if total > LARGEST:
        raise ValueError(f"{path}: expected at most {LARGEST:,} bytes unzipped, got {total:,}")
    return [name.removesuffix(".npy") for name in names]


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_bounded(path):
        pass
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a .npz of NumPy, got {error}") from None


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    if not name:
        with open_bounded(path) as file:
            yield file
        return
    with _archive(path) as archive, archive.open(f"{name}.npy") as member:
        yield member


def _header(file: IO[bytes], path: Path, name: str) -> StoredArray:
    where = f"{path}: {name}" if name else str(path)
    try:
        width, read = _HEADERS[np.lib.format.read_magic(file)]
        length = file.read(width)
        # A header that claims to be long is not read.
        if int.from_bytes(length, "little") > _LONGEST_HEADER:
            raise ValueError("a longer header than an array has")
        text = length + file.read(int.from_bytes(length, "little"))
        shape, fortran_order, dtype = read(io.BytesIO(text))
    except (KeyError, ValueError, EOFError, zlib.error) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{where}: expected an array as NumPy saves it, got {why}") from None
    if dtype.kind not in "biuf":
        raise ValueError(f"{where}: expected real numbers, got the type {dtype}")
    if any(length < 0 for length in shape):
        raise ValueError(f"{where}: expected an array as NumPy saves it, got the shape {shape}")
    return StoredArray(path, name, tuple(map(int, shape)), dtype, bool(fortran_order))
