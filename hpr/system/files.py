"""Atomic writing of files, and reading with a limit on the number of bytes."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import stat
import uuid
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Bytes that are read of a file at most, unzipped: more than any data set here has. A small gzip file can expand
# without limit.
LARGEST = 2**30
# How often something is tried again that another program may spoil at the moment.
TRIES = 3
# The exceptions that reading a damaged gzip file raises.
GARBLED = (EOFError, gzip.BadGzipFile, zlib.error)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file, flush it to the disk, and rename it to `path`; the folder is made if it is missing.

    Each call uses a unique temporary name, so that several processes or machines can write the same file at once. A
    link at the temporary name or at `path` is not followed. The umask sets the file's mode. A killed process may leave
    the temporary file (`.<name>.….tmp`), which nothing reads.

    Raises:
        OSError: the folder can't be written.
    """
    try:
        _replace(path, content)
    except FileNotFoundError:
        # Someone has removed the folder since it was made.
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    temporary = _temporary(path, content)
    try:
        os.replace(temporary, path)
    except BaseException as error:
        # On NFS a renaming can succeed though the answer was lost; a second one finds nothing to rename.
        if isinstance(error, FileNotFoundError) and _content(path, len(content)) == content:
            return
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
            # Set to None it would be shown, as " -> None".
            del error.filename2
        raise


def write_new(path: Path, content: bytes) -> None:
    """Write a file as `write_atomically` does, but never in the place of another.

    Raises:
        FileExistsError: there is something at `path`.
        OSError: the folder can't be written.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary = _temporary(path, content)
    try:
        # Unlike a renaming, a link fails if another process has made the file in the meantime.
        os.link(temporary, path)
    except FileExistsError:
        # On NFS a link can succeed though the answer was lost.
        if not os.path.samefile(temporary, path):
            raise
    except OSError:
        # Some file systems, such as FAT, have no links.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_in_made_folder(path: Path, *, new: bool, tries: int = TRIES) -> IO[bytes]:
    """Open a file for writing, which must not be there if `new`; its folder is made if it is missing.

    Another program may remove the folder, while it is empty, between the two steps.

    Raises:
        OSError: the folder can't be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb") if new else open(path, "wb")
    except (FileNotFoundError, FileExistsError):
        if not tries:
            raise
        return open_in_made_folder(path, new=new, tries=tries - 1)


def _content(path: Path, most: int) -> bytes | None:
    """The bytes of a file; None where it can't be read."""
    try:
        return read_regular(path, most)
    except OSError:
        return None


def _temporary(path: Path, content: bytes) -> Path:
    """Write a temporary file beside `path`, on the disk when the function returns; nothing is left if it raises."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open_in_made_folder(temporary, new=True) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            # The error of a write or of a flush names no file.
            error.filename = str(path)
        raise
    return temporary


def look_again(folder: Path) -> None:
    """Have the file system look again at what is in a folder, by opening it; it raises nothing.

    NFS remembers for up to a minute that a file was missing, though another machine has made it since.
    """
    # Windows opens no folders, and needs this on none.
    with contextlib.suppress(OSError):
        os.close(os.open(folder, os.O_RDONLY))


def write_to_cache(path: Path, content: bytes) -> None:
    """Write a file of the cache with `write_atomically`.

    Raises:
        OSError: one line with the path, the reason and how to choose another cache folder.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise unusable(path, "written", error) from error


def unusable(path: Path, verb: str, error: OSError) -> OSError:
    """The error to raise for a file of the cache that can't be "read" or "written" (`verb`)."""
    reason = error.strerror or type(error).__name__
    return OSError(
        f"{path} can't be {verb}: {reason}; HPR_CACHE names another folder for the cache"
    )


def read_regular(path: Path, most: int, *, links: bool = True) -> bytes:
    """The bytes of a regular file. Pipes and devices are refused, since reading them may never end.

    Raises:
        OSError: it can't be read, is no regular file, has more than `most` bytes, or is a link and `links` is false.
    """
    for _ in range(TRIES):
        try:
            return _read_regular(path, most, links=links)
        except OSError as error:
            # On NFS a file that another machine replaces while it is read is lost.
            if error.errno != errno.ESTALE:
                raise
    return _read_regular(path, most, links=links)


def _read_regular(path: Path, most: int, *, links: bool) -> bytes:
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not links:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link")
        flags |= getattr(os, "O_NOFOLLOW", 0)
    number = os.open(path, flags)
    try:
        status = os.fstat(number)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"expected at most {most:,} bytes, got {status.st_size:,}")
        # A file object takes five times as long as these calls.
        content = b""
        while chunk := os.read(number, min(most - len(content), max(4096, status.st_size + 1))):
            # A file that grows meanwhile is cut off at `most` bytes, and is then no whole record.
            content += chunk
        return content
    finally:
        os.close(number)


def open_bounded(path: Path) -> io.BufferedReader:
    """Open a file for reading bytes, at most `LARGEST` of them; it is unzipped if its name ends in .gz.

    Reading more than `LARGEST` bytes from the returned object raises ValueError, and reading a damaged gzip file raises
    one of `GARBLED`.

    Raises:
        ValueError: `path` is a folder, a pipe or a device (the last two may never end), or the file on the disk is
            larger than `LARGEST`.
        OSError: the file doesn't exist or can't be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: expected a file, got a folder, a pipe or a device")
    if status.st_size > LARGEST:
        raise ValueError(f"{path}: expected at most {LARGEST:,} bytes, got {status.st_size:,}")
    return io.BufferedReader(_Bounded(path))


class _Bounded(io.RawIOBase):
    """The unzipped content of a file; reading more than `LARGEST` bytes is an error."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, LARGEST
        self._file: gzip.GzipFile | io.FileIO
        self._file = gzip.GzipFile(path) if path.suffix == ".gz" else io.FileIO(path)

    def readable(self) -> bool:
        """True; `io.BufferedReader` asks for it."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read bytes into `buffer` and return their number."""
        count = self._file.readinto(buffer) or 0
        self._left -= count
        if self._left < 0:
            raise ValueError(f"{self._path}: expected at most {LARGEST:,} bytes unzipped, got more")
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
