"""Where finished runs are kept: one JSON file per run, written atomically and checked when read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import tempfile
from pathlib import Path

from hpr.experiment.record import Foreign, Record, checksum, validate
from hpr.experiment.specification import RunSpec
from hpr.system.files import write_atomically

logger = logging.getLogger(__name__)


class Store:
    """The records of runs under `<out>/runs/<key>.json`.

    A record is found by its key alone, so a look-up takes the same time however many records there are. A record is
    trusted only when its file is complete, strict JSON of this schema, and its specification is the requested one. A
    file that another version wrote, that is no regular file, or that can't be read is refused and stays in its place.
    Any other file is moved aside to `<key>.json.corrupt-<hash of its bytes>` with a warning, and the run counts as not
    done.

    Nothing is written before `prepare` or `save`.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(out)
        self.runs = self.out / "runs"

    def path(self, spec: RunSpec) -> Path:
        """The file of a run."""
        return self.runs / f"{spec.key}.json"

    def prepare(self) -> None:
        """Make the folders, and see that a file can be written.

        Raises:
            OSError: one line, when the folder can't be written.
        """
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.runs):
                pass
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(f"the output folder {self.out} can't be written: {reason}") from error

    def __contains__(self, spec: RunSpec) -> bool:
        """Whether a valid record of the run is kept. A bad file is left in its place.

        Raises:
            OSError: as `load` does.
        """
        try:
            content = self._content(spec)
            return content is not None and bool(self._validated(content, spec))
        except ValueError:
            return False

    def load(self, spec: RunSpec) -> Record | None:
        """The record of a run, or None where there is no valid one.

        Raises:
            OSError: one line, when the run's file can't be read, or when another version wrote it.
        """
        content = self._content(spec)
        if content is None:
            return None
        try:
            return self._validated(content, spec)
        except ValueError as error:
            path = self.path(spec)
            aside = path.with_name(f"{path.name}.corrupt-{hashlib.sha256(content).hexdigest()[:8]}")
            # Another process may have set it aside in the meantime.
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, aside)
            logger.warning("%s: %s; set aside as %s", path, error, aside.name)
            return None

    def _content(self, spec: RunSpec) -> bytes | None:
        path = self.path(spec)
        try:
            return _read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(f"{path} can't be read: {reason}; move it away") from error

    def _validated(self, content: bytes, spec: RunSpec) -> Record:
        try:
            return validate(content, spec)
        except Foreign as error:
            raise OSError(
                f"{self.path(spec)} can't be read by this version: {error}; update hpr, or move it away"
            ) from None

    def save(self, record: Record) -> Path:
        """Write a record atomically: a reader sees the old file or the new one, never a part of it.

        Raises:
            ValueError: the record isn't valid or isn't strict JSON (a NaN or infinite number).
            OSError: the folder can't be written.
        """
        spec = RunSpec.from_dict(record["spec"])
        sealed = {**record, "checksum": checksum(record)}
        content = json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
        validate(content, spec)
        path = self.path(spec)
        write_atomically(path, content)
        return path


def _read(path: Path) -> bytes:
    """The bytes of a regular file. Pipes and devices are refused, since reading them may never end."""
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with open(number, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(number)
