"""Where finished runs are kept: one JSON a run, written atomically, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
from pathlib import Path
from typing import Any, Final

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
    requested one; any other file is set aside under `<key>.json.corrupt-<hash of its bytes>` with a
    warning, and the run counts as not done.

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
        """Whether a valid record of the run is kept; a bad file is left where it is."""
        try:
            content = self.path(spec).read_bytes()
            validate(content, spec)
        except (OSError, ValueError):
            return False
        return True

    def load(self, spec: RunSpec) -> Record | None:
        """The record of a run, or None where there is none to be trusted.

        Raises:
            OSError: one line, when there is something in its place that can't be read.
        """
        path = self.path(spec)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(f"{path} can't be read: {reason}; move it away") from error
        try:
            return validate(content, spec)
        except ValueError as error:
            aside = path.with_name(f"{path.name}.corrupt-{hashlib.sha256(content).hexdigest()[:8]}")
            # Another process may have set it aside in the meantime.
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, aside)
            logger.warning("%s: %s; set aside as %s", path, error, aside.name)
            return None

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


def validate(content: bytes, spec: RunSpec) -> Record:
    """Parse a run's file.

    Raises:
        ValueError: one line, when the bytes aren't a whole record of this schema and of this
        specification.
    """
    try:
        record = json.loads(content.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not strict JSON ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        schema = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"schema: expected {SCHEMA}, got {schema!r}")
    if record.pop("checksum", None) != checksum(record):
        raise ValueError("checksum: expected that of the content, got another")
    if record.get("spec") != spec.to_dict() or record.get("key") != spec.key:
        raise ValueError(f"specification: expected that of {spec}, got another run's")
    if record.get("status") not in STATUSES:
        raise ValueError(f"status: expected one of {STATUSES}, got {record.get('status')!r}")
    kinds = {"iterations": int, "curves": dict, "measures": dict, "flags": list, "provenance": dict}
    for name, kind in kinds.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{name}: expected {kind.__name__}, got {record.get(name)!r}"[:200])
    for name, value in record["measures"].items():
        number = isinstance(value, int | float) and math.isfinite(value)
        if value is not None and not number:
            raise ValueError(
                f"measure {name}: expected a finite number or null, got {value!r}"[:200]
            )
    return record


def _refuse_constant(token: str) -> None:
    raise ValueError(f"{token} is no JSON number")
