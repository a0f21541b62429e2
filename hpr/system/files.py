"""Files read and written with care: whole or not at all, and never without an end."""

from __future__ import annotations

import gzip
import io
import os
import stat
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# No table or set of pictures of this field has more bytes; a small gzipped file can have any number.
LARGEST = 2**30
# What a damaged gzip file raises.
GARBLED = (EOFError, gzip.BadGzipFile, zlib.error)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one, flushed to the disk before it takes the name.

    The temporary file's name is its own, wherever and by whomever else the same file is written, and a link that
    stands in its place or in the file's is not followed. The mode is the umask's. A killed process may leave the
    temporary file (`.<name>.….tmp`), which nothing reads.

    Raises:
        OSError: the folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_to_cache(path: Path, content: bytes) -> None:
    """Write a file of the cache, as `write_atomically` does.

    Raises:
        OSError: one line that says where, why, and how to have the cache elsewhere.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise unusable(path, "written", error) from error


def unusable(path: Path, verb: str, error: OSError) -> OSError:
    """The error of a file of the cache that can't be read or written."""
    reason = error.strerror or type(error).__name__
    return OSError(
        f"{path} can't be {verb}: {reason}; HPR_CACHE names another folder for the cache"
    )


def open_bounded(path: Path) -> io.BufferedReader:
    """Open a file for reading bytes, unzipped where its name ends in .gz, of which there are at most `LARGEST`.

    Reading further raises ValueError, and a damaged gzip file one of `GARBLED`.

    Raises:
        ValueError: it is a folder, a pipe or a device, which may have no end, or is larger than `LARGEST` as it is.
        OSError: it isn't there or can't be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: expected a file, got a folder, a pipe or a device")
    if status.st_size > LARGEST:
        raise ValueError(f"{path}: expected at most {LARGEST:,} bytes, got {status.st_size:,}")
    return io.BufferedReader(_Bounded(path))


class _Bounded(io.RawIOBase):
    """The content of a file, at most `LARGEST` bytes."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, LARGEST
        self._file: gzip.GzipFile | io.FileIO
        self._file = gzip.GzipFile(path) if path.suffix == ".gz" else io.FileIO(path)

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read some bytes into a buffer; returns how many."""
        count = self._file.readinto(buffer) or 0
        self._left -= count
        if self._left < 0:
            raise ValueError(f"{self._path}: expected at most {LARGEST:,} bytes unzipped, got more")
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
