"""What lies in a results folder: the records, whichever runs they are of."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hpr.experiment.kept_weights import BESIDE, SCHEMA, read_file, texts_of, unpacked, weights_path
from hpr.experiment.record import LARGEST_RECORD, Record, read_record
from hpr.experiment.specification import RunSpec
from hpr.system.files import read_regular

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


def kept_records(out: Path) -> Iterator[Kept | Bad]:
    """Every file of a results folder that is named like a record, in the order of the names.

    Raises:
        OSError: `out` has no folder `runs`.
    """
    runs = out / "runs"
    for name in sorted(os.listdir(runs)):
        if RECORD.fullmatch(name):
            yield read_kept(runs / name)


def is_finished(out: Path) -> Callable[[str], bool]:
    """A function that tells whether a results folder has a valid record of a key."""
    return lambda key: isinstance(with_weights(read_kept(out / "runs" / f"{key}.json")), Kept)
