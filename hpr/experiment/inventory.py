"""What lies in a results folder: the records, whichever runs they are of."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from hpr.experiment.kept_weights import BESIDE, SCHEMA, read_file, texts_of, unpacked, weights_path
from hpr.experiment.reading import each_file
from hpr.experiment.record import LARGEST_RECORD, Record, read_record
from hpr.experiment.specification import RunSpec
from hpr.system.files import read_regular

Found = TypeVar("Found")

# How the names of records look. Files of other names are never touched.
RECORD = re.compile(r"([0-9a-f]{16})\.json")


@dataclass(frozen=True)
class Kept:
    """A valid record as its file has it, and the bytes of that file, and of its weights' file once it is read."""

    path: Path
    spec: RunSpec
    record: Record
    content: bytes
    weights: bytes | None = None


@dataclass(frozen=True)
class Bad:
    """A file that is named like a record and is no valid one here, with the reason in one line."""

    path: Path
    reason: str


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


def with_weights(found: Kept | Bad) -> Kept | Bad:
    """The record in memory of a file, with its weights, which are read where they lie beside it."""
    if isinstance(found, Bad) or found.record["schema"] != BESIDE:
        return found
    path, named = weights_path(found.path), found.record["weights"]
    try:
        content = read_file(path, named)
        texts = texts_of(unpacked(content, path, named))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Bad(found.path, f"weights: {path.name} can't be read: {reason}")
    except ValueError as error:
        return Bad(found.path, str(error))
    record = {**found.record, "schema": SCHEMA, "weights": texts}
    return replace(found, record=record, weights=content)


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
            kept = with_weights(read_kept(path))
            tell(kept if isinstance(kept, Bad) else Bad(path, "it changed while it was read"))
        else:
            yield path, found


def kept_key(path: Path) -> str | None:
    """The key of the run of a valid record, whose weights are there if it names any; None for any other file."""
    found = with_weights(read_kept(path))
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
    return lambda key: isinstance(with_weights(read_kept(out / "runs" / f"{key}.json")), Kept)
