"""Where finished runs are kept: one JSON a run, written atomically, checked when read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

from hpr.fields import shown
from hpr.files import write_atomically
from hpr.runs import RunSpec

Record = dict[str, Any]

SCHEMA: Final = 1
STATUSES: Final = ("finished", "stopped", "diverged")

logger = logging.getLogger(__name__)


class Store:
    """The records of runs under `<out>/runs/<key>.json`.

    A record is found by its key alone, so that a look-up costs the same however many there are. It
    is believed only when its file is whole, strict JSON of this schema whose specification is the
    requested one. What another version wrote, and anything that is no regular file or can't be
    read, is refused and stays where it is. Any other file is set aside with a warning, under
    `<key>.json.corrupt-<hash of its bytes>`, and the run counts as not done.

    Nothing is written before `prepare` or `save`.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(out)
        self.runs = self.out / "runs"

    def path(self, spec: RunSpec) -> Path:
        """The file of a run."""
        return self.runs / f"{spec.key}.json"

    def prepare(self) -> None:
        """Make the folders and write a probe.

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
        """Whether a valid record of the run is kept; a bad file is left where it is.

        Raises:
            OSError: as `load` does.
        """
        try:
            content = self._content(spec)
            return content is not None and bool(self._validated(content, spec))
        except ValueError:
            return False

    def load(self, spec: RunSpec) -> Record | None:
        """The record of a run, or None where there is none to be trusted.

        Raises:
            OSError: one line, when there is something in its place that can't be read, or that another version wrote.
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
        """Write a record: a reader sees the old file or the new one, never a part.

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


def checksum(record: Record) -> str:
    """SHA-256 of a record's canonical JSON, kept beside it in its file: a changed number shows."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def identity(record: Record) -> Record:
    """What two runs of one specification must have in common: the record without its timings."""
    return {name: value for name, value in record.items() if name != "timings"}


def _read(path: Path) -> bytes:
    """The bytes of a file; a pipe or a device, which may never end, is refused."""
    # Without O_NONBLOCK a pipe would be waited for.
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


class Foreign(ValueError):
    """A whole record that this version, or this process, can't read; another can."""


def validate(content: bytes, spec: RunSpec) -> Record:
    """Parse a run's file.

    Raises:
        Foreign: it is of a later schema, or its specification has a kind or a field that isn't known here.
        ValueError: one line, when the bytes aren't a whole record of this schema and of this
        specification.
    """
    try:
        return _validated(content, spec)
    except (RecursionError, OverflowError) as error:
        raise ValueError(f"not strict JSON ({error})") from None


def _validated(content: bytes, spec: RunSpec) -> Record:
    try:
        record = json.loads(
            content.decode(),
            parse_int=_whole,
            parse_float=_number,
            parse_constant=_refuse,
        )
    except ValueError as error:
        raise ValueError(f"not strict JSON ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        schema = record.get("schema") if isinstance(record, dict) else type(record).__name__
        later = isinstance(schema, int) and schema > SCHEMA
        raise (Foreign if later else ValueError)(f"schema: expected {SCHEMA}, got {shown(schema)}")
    if record.pop("checksum", None) != checksum(record):
        raise ValueError("checksum: expected that of the content, got another")
    if record.get("spec") != spec.to_dict() or record.get("key") != spec.key:
        try:
            RunSpec.from_dict(record.get("spec", {}))
        except ValueError as error:
            raise Foreign(str(error)) from None
        raise ValueError(f"specification: expected that of {spec}, got another run's")
    if record.get("status") not in STATUSES:
        raise ValueError(f"status: expected one of {STATUSES}, got {shown(record.get('status'))}")
    kinds = {"iterations": int, "curves": dict, "measures": dict, "flags": list, "provenance": dict}
    for name, kind in kinds.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{name}: expected {kind.__name__}, got {shown(record.get(name))}")
    for name, value in record["measures"].items():
        # Infinities are no JSON.
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise ValueError(
                f"measure {shown(name)}: expected a finite number or null, got {shown(value)}"
            )
    return record


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token[:20]} is no number of a record")


def _whole(token: str) -> int:
    # More digits than any count, step or seed has.
    return int(token) if len(token) <= 20 else _refuse(token)


def _number(token: str) -> float:
    number = float(token)
    return number if math.isfinite(number) else _refuse(token)
