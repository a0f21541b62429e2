"""Bring the records of several results folders together in one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpr.experiment.comparison import differences, essence
from hpr.experiment.inventory import Bad, Kept, kept_records, read_kept, with_weights
from hpr.experiment.kept_weights import weights_path
from hpr.system.files import read_regular, write_new


@dataclass(frozen=True)
class Merged:
    """What became of one file of a source: "copied", "there already", "conflict" or "bad".

    `lines` says what is wrong: the reason of a bad file, or where two records of a run differ.
    """

    path: Path
    fate: str
    lines: tuple[str, ...] = ()


def merge(sources: Sequence[Path], into: Path) -> Iterator[Merged]:
    """Copy the records that `into` lacks from each source; a file that is there stays as it is.

    Two records of a run are one if they are equal but for timings and provenance. If they are not, the source's is
    copied to `<into>/conflicts/<key>.<hash of its bytes>.json`, with its weights beside it.

    Raises:
        OSError: a source has no folder `runs`, or `into` can't be written.
    """
    for source in sources:
        for found in map(with_weights, kept_records(source)):
            if isinstance(found, Bad):
                yield Merged(found.path, "bad", (found.reason,))
                continue
            target = into / "runs" / found.path.name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_both(target, found)
            except FileExistsError:
                yield _met(found, target, into)
            else:
                yield Merged(found.path, "copied")


def _met(found: Kept, target: Path, into: Path) -> Merged:
    """What becomes of a record whose name is taken in the target folder."""
    there = with_weights(read_kept(target))
    if not os.path.lexists(target):
        lines: tuple[str, ...] = (
            f"{weights_path(target)} has other weights, without a record; hpr.store gc removes them",
        )
    elif isinstance(there, Bad):
        lines = (f"{target} is no valid record: {there.reason}",)
    else:
        lines = tuple(map(str, differences(essence(there.record), essence(found.record))))
        if not lines:
            return Merged(found.path, "there already")
    digest = hashlib.sha256(found.content).hexdigest()[:16]
    aside = into / "conflicts" / f"{found.spec.key}.{digest}.json"
    # An earlier merge of the same folder may have put it there.
    with contextlib.suppress(FileExistsError):
        _write_both(aside, found)
    return Merged(found.path, "conflict", (f"kept as {aside}", *lines))


def _write_both(target: Path, found: Kept) -> None:
    """Write the weights of a record, if it has any, and then the record, never in the place of other files."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if found.weights is not None:
        path = weights_path(target)
        try:
            write_new(path, found.weights)
        except FileExistsError:
            # A writer that was killed may have left the same weights.
            if _content(path, len(found.weights)) != found.weights:
                raise
    write_new(target, found.content)


def _content(path: Path, size: int) -> bytes | None:
    try:
        return read_regular(path, size, links=False)
    except OSError:
        return None
