"""Where finished runs are kept: one JSON file per run, written atomically and checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hpr.experiment.kept_weights import SCHEMA, joined, packed, separated, weights_path
from hpr.experiment.reading import WORTH, each_file
from hpr.experiment.record import (
    LARGEST_RECORD,
    Foreign,
    Record,
    record_of,
    sealed,
    surely_holds,
    validate,
)
from hpr.experiment.specification import RunSpec
from hpr.system.files import read_regular, write_atomically

logger = logging.getLogger(__name__)

# Bytes that `Store.prepare` writes: more than most records have.
PROBE = 2**20


class Store:
    """The records of runs under `<out>/runs/<key>.json`, and trained weights beside them (`kept_weights`).

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
        self._write(0)

    def check_room(self) -> None:
        """See that a file of `PROBE` bytes can be written: a full disk may still take an empty one.

        Raises:
            OSError: one line, when the folder can't be written.
        """
        self._write(PROBE)

    def _write(self, size: int) -> None:
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.runs) as file:
                # Random bytes are not compressed away.
                file.write(os.urandom(size))
                file.flush()
                os.fsync(file.fileno())
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
            return content is not None and (
                surely_holds(content, spec.key) or bool(self._validated(content, spec))
            )
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

    def holding(self, specs: Sequence[RunSpec]) -> Callable[[RunSpec], bool]:
        """As `__contains__`, for asking about all of these runs: several processes read the files of many now."""
        paths = self._there(specs)
        found = {
            path.stem for path, holds in zip(paths, each_file(_holds, paths), strict=True) if holds
        }
        return lambda spec: spec.key in found or spec in self

    def loading(self, specs: Sequence[RunSpec]) -> Callable[[RunSpec], Record | None]:
        """As `load`, for asking for all of these runs once: several processes read the files of many now."""
        paths = self._there(specs)
        if len(paths) < WORTH:
            return self.load
        found = {
            path.stem: record for path, record in zip(paths, each_file(_record, paths), strict=True)
        }
        return lambda spec: found.pop(spec.key, None) or self.load(spec)

    def _there(self, specs: Sequence[RunSpec]) -> list[Path]:
        """The files of those of the runs that have one."""
        try:
            names = set(os.listdir(self.runs))
        except OSError:
            return []
        wanted = (f"{key}.json" for key in dict.fromkeys(spec.key for spec in specs))
        return [self.runs / name for name in wanted if name in names]

    def _content(self, spec: RunSpec) -> bytes | None:
        path = self.path(spec)
        try:
            return read_regular(path, LARGEST_RECORD)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(f"{path} can't be read: {reason}; move it away") from error

    def _validated(self, content: bytes, spec: RunSpec) -> Record:
        path = self.path(spec)
        try:
            return joined(validate(content, spec), path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(f"{weights_path(path)} can't be read: {reason}; move it away") from error
        except Foreign as error:
            raise OSError(
                f"{path} can't be read by this version: {error}; update hpr, or move it away"
            ) from None

    def save(self, record: Record) -> Path:
        """Write a record atomically: a reader sees the old file or the new one, never a part of it.

        The weights are written before the record, so where the folder stays a record never lacks its weights.

        Raises:
            ValueError: the record isn't valid, isn't strict JSON (a NaN or infinite number), or is too large to be
                read back.
            OSError: the folder can't be written.
        """
        spec = RunSpec.from_dict(record["spec"])
        plain, weights = separated(record)
        content = sealed(plain)
        if len(content) > LARGEST_RECORD:
            raise ValueError(
                f"record: expected at most {LARGEST_RECORD:,} bytes, got {len(content):,} of {spec}"
            )
        validate(content, spec)
        path = self.path(spec)
        if weights is not None:
            write_atomically(weights_path(path), packed(weights))
        write_atomically(path, content)
        if weights is not None and not weights_path(path).exists():
            # Someone has removed the folder between the two.
            write_atomically(weights_path(path), packed(weights))
        return path


def _holds(path: Path) -> bool | None:
    """Whether a file surely holds the record of its name."""
    try:
        return surely_holds(read_regular(path, LARGEST_RECORD), path.stem)
    except OSError:
        return None


def _record(path: Path) -> Record | None:
    """The record of a file, if it is a valid one of its name, and no weights lie beside it."""
    try:
        record = record_of(read_regular(path, LARGEST_RECORD), path.stem)
    except OSError:
        return None
    return record if record is not None and record["schema"] == SCHEMA else None
