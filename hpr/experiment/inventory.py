"""What lies in a results folder: the records, whichever runs they are of, and what was left behind."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hpr.experiment.reading import each_file
from hpr.experiment.record import LARGEST_RECORD, Record, read_record
from hpr.experiment.specification import RunSpec
from hpr.system.files import read_regular

Found = TypeVar("Found")

# How the names of files that the package writes look. Files of other names are never touched.
RECORD = re.compile(r"([0-9a-f]{16})\.json")
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)
CORRUPT = re.compile(r"[0-9a-f]{16}\.json\.corrupt-[0-9a-f]{8}")
# Folders with a file per run, and what such a file is called in a message.
OF_RUNS = {
    "checkpoints": ("checkpoint", re.compile(r"([0-9a-f]{16})\.safetensors")),
    "claims": ("claim", RECORD),
    "failures": ("failure", RECORD),
}
# A younger temporary file may be in the hands of its writer, and a younger claim in those of its owner. Seconds.
WRITING = 600.0
ABANDONED = 86_400.0


@dataclass(frozen=True)
class Kept:
    """A valid record, and the bytes of its file."""

    path: Path
    spec: RunSpec
    record: Record
    content: bytes


@dataclass(frozen=True)
class Bad:
    """A file that is named like a record and is no valid one here, with the reason in one line."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Leftover:
    """A file that no run needs any more, and what it is."""

    path: Path
    what: str


def read_any(path: Path) -> Kept | Bad:
    """The record of a file of any name."""
    try:
        content = read_regular(path, LARGEST_RECORD)
        return Kept(path, *read_record(content), content)
    except OSError as error:
        return Bad(path, f"can't be read: {error.strerror or type(error).__name__}")
    except ValueError as error:
        return Bad(path, str(error))


def read_kept(path: Path) -> Kept | Bad:
    """The record of a file whose name must be the key of its run."""
    found = read_any(path)
    if isinstance(found, Kept) and path.name != f"{found.spec.key}.json":
        return Bad(path, f"name: expected {found.spec.key}.json, got {path.name}")
    return found


def each_kept(
    out: Path, of: Callable[[Path], Found | None], tell: Callable[[Bad], None]
) -> Iterator[tuple[Path, Found]]:
    """Every file of a results folder that is named like a record and is valid, with what `of` makes of it.

    Where there are many, several processes read them. `tell` is called with each file that is no valid record.

    Args:
        out: the results folder.
        of: a function of a module; None: the file is no valid record, or `read_kept` can't read it in that process.
        tell: takes the others.

    Raises:
        OSError: `out` has no folder `runs`.
    """
    paths = _record_paths(out)
    for path, found in zip(paths, each_file(of, paths), strict=True):
        if found is None:
            # A structure of the user's own is known in this process alone.
            found = of(path)
        if found is None:
            kept = read_kept(path)
            tell(kept if isinstance(kept, Bad) else Bad(path, "it changed while it was read"))
        else:
            yield path, found


def kept_key(path: Path) -> str | None:
    """The key of the run of a valid record; None for any other file."""
    found = read_kept(path)
    return found.spec.key if isinstance(found, Kept) else None


def kept_records(out: Path) -> Iterator[Kept | Bad]:
    """Every file of a results folder that is named like a record, in the order of the names.

    Raises:
        OSError: `out` has no folder `runs`.
    """
    yield from map(read_kept, _record_paths(out))


def _record_paths(out: Path) -> list[Path]:
    runs = out / "runs"
    return [runs / name for name in sorted(os.listdir(runs)) if RECORD.fullmatch(name)]


def is_finished(out: Path) -> Callable[[str], bool]:
    """A function that tells whether a results folder has a valid record of a key."""
    return lambda key: isinstance(read_kept(out / "runs" / f"{key}.json"), Kept)


def leftovers(out: Path, finished: Callable[[str], bool]) -> Iterator[Leftover]:
    """The files of a results folder that no run needs any more; `finished(key)` tells whether a run is kept.

    These are temporary files of writers that were killed, damaged records that were set aside, the checkpoints, claims
    and failures of finished runs, and claims that nobody has renewed for a day. Nothing is listed behind a link.
    """
    for path in _files(out / "runs"):
        if CORRUPT.fullmatch(path.name):
            yield Leftover(path, "damaged record, set aside")
    for folder in (".", "runs", *OF_RUNS):
        for path in _files(out / folder):
            if TEMPORARY.fullmatch(path.name) and _age(path) > WRITING:
                yield Leftover(path, "temporary file")
    for folder, (what, name) in OF_RUNS.items():
        for path in _files(out / folder):
            found = name.fullmatch(path.name)
            if found and finished(found[1]):
                yield Leftover(path, f"{what} of a finished run")
            elif found and what == "claim" and _age(path) > ABANDONED:
                yield Leftover(path, "claim without an owner")


def _files(folder: Path) -> Iterator[Path]:
    """What is in a folder but folders. Nothing where the folder is missing, or a link to another."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        path = folder / name
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                yield path
        except FileNotFoundError:
            continue


def _age(path: Path) -> float:
    """Seconds since a file was last written; negative where its time lies ahead, 0 where it has gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
