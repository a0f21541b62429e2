"""The files of a results folder that no run needs any more. A file of a process that may still work is none of them."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from hpr.experiment.inventory import RECORD
from hpr.experiment.run_claims import owner_in, read_claim
from hpr.system.owner import Owner

# How the names of files that the package writes look. Files of other names are never touched.
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp", re.DOTALL)
CORRUPT = re.compile(r"[0-9a-f]{16}\.json\.corrupt-[0-9a-f]{8}")
OF_RUN = re.compile(r"([0-9a-f]{16})\.safetensors")
# Of a record that a merge has put aside.
OF_CONFLICT = re.compile(r"([0-9a-f]{16})\.[0-9a-f]{16}\.safetensors")
OWNER = re.compile(r"\.[0-9a-f]{32}\.owner")
LOCK = re.compile(r"[0-9a-f]{16}\.json(\.[0-9a-f]{8})+")
# A younger temporary file may be in the hands of its writer, and a younger claim in those of its owner. Seconds.
WRITING = 600.0
ABANDONED = 86_400.0
# An unfinished run's checkpoint is worth its training, so it stays for long. Seconds.
FORGOTTEN = 30 * 86_400.0


@dataclass(frozen=True)
class Leftover:
    """A file that no run needs any more, and what it is.

    `claim` is the content of a claim or a lock, which `Claims.clear` removes if it is still the same.
    """

    path: Path
    what: str
    claim: bytes | None = None


def leftovers(out: Path, finished: Callable[[str], bool]) -> Iterator[Leftover]:
    """The files of a results folder that no run needs any more; `finished(key)` tells whether a run is kept.

    These are temporary files of writers that were killed, damaged records that were set aside, weights without a
    record, the checkpoints, claims and failures of finished runs, checkpoints that are `FORGOTTEN`, and the claims,
    locks and owner files of processes that are gone. Files of a run that a living process has claimed are not listed,
    and nothing is listed behind a link.
    """
    claims = [path for path in _files(out / "claims") if RECORD.fullmatch(path.name)]
    owners = {path: owner_in(read_claim(path)) for path in claims}
    held = {path.stem for path, owner in owners.items() if _is_held(path, owner)}
    at_work = {path.stem for path, owner in owners.items() if _is_at_work(path, owner)}
    for path in _files(out / "runs"):
        if CORRUPT.fullmatch(path.name):
            yield Leftover(path, "damaged record, set aside")
        elif _is_alone(path, OF_RUN, held):
            yield Leftover(path, "weights of no record")
    for path in _files(out / "conflicts"):
        if _is_alone(path, OF_CONFLICT, held):
            yield Leftover(path, "weights of no record")
    for folder in (".", "runs", "conflicts", "checkpoints", "failures"):
        for path in _files(out / folder):
            name = TEMPORARY.fullmatch(path.name)
            if name and _age(path) > WRITING and name[1].partition(".")[0] not in held:
                yield Leftover(path, "temporary file")
    for path in _files(out / "checkpoints"):
        run = OF_RUN.fullmatch(path.name)
        if run and run[1] not in at_work and finished(run[1]):
            yield Leftover(path, "checkpoint of a finished run")
        elif run and run[1] not in held and _age(path) > FORGOTTEN:
            yield Leftover(path, f"checkpoint of {FORGOTTEN / 86_400:.0f} days ago")
    yield from _of_claims(out / "claims", finished)
    for path in _files(out / "failures"):
        run = RECORD.fullmatch(path.name)
        if run and finished(run[1]):
            yield Leftover(path, "failure of a finished run")


def _is_alone(path: Path, pattern: re.Pattern[str], held: set[str]) -> bool:
    """Whether a file has the name of weights, and no record beside it that it could be of or that may yet come."""
    weights = pattern.fullmatch(path.name)
    return (
        weights is not None
        and weights[1] not in held
        and _age(path) > WRITING
        and not os.path.lexists(path.with_suffix(".json"))
    )


def _of_claims(folder: Path, finished: Callable[[str], bool]) -> Iterator[Leftover]:
    """The leftovers in the folder of claims. The owner files come last, since claims are links to them."""
    last = []
    for path in _files(folder):
        run, content = RECORD.fullmatch(path.name), read_claim(path)
        owner = owner_in(content)
        if content is None:
            continue
        if run and finished(run[1]) and not _is_at_work(path, owner):
            yield Leftover(path, "claim of a finished run", content)
        elif run and not _is_held(path, owner):
            yield Leftover(path, "claim without an owner", content)
        elif LOCK.fullmatch(path.name) and not _is_held(path, owner):
            yield Leftover(path, "lock without an owner", content)
        elif (
            TEMPORARY.fullmatch(path.name) and _age(path) > WRITING and not _is_at_work(path, owner)
        ):
            last.append(Leftover(path, "temporary file"))
        elif OWNER.fullmatch(path.name) and not _is_held(path, owner):
            last.append(Leftover(path, "owner file of a process that is gone"))
    yield from last


def _is_held(path: Path, owner: Owner | None) -> bool:
    """Whether the owner of a claim may live: one of this machine does, or nobody can tell and the claim is young."""
    return not owner.gone() if _is_here(owner) else _age(path) <= ABANDONED


def _is_at_work(path: Path, owner: Owner | None) -> bool:
    """As `_is_held`; another machine's owner, who renews a claim every few seconds, counts for some minutes only."""
    if owner is None:
        return False
    return not owner.gone() if _is_here(owner) else _age(path) <= WRITING


def _is_here(owner: Owner | None) -> TypeGuard[Owner]:
    return owner is not None and owner.is_here()


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
