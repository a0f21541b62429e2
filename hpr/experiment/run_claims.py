"""Which process trains which run, among all processes and machines that share a folder.

A claim on a run is a file `<key>.json`, made by a hard link, which succeeds for one process only, also on NFS. All
claims of a process are links to one file, into which a thread writes a growing number every `BEAT` seconds. So one
small write renews them all. A claim whose content has not changed for `EXPIRY` seconds by the clock of the process that
looks at it is a dead process's; clocks of different machines are never compared. A claim of a process of this
machine that is gone is dead at once.

A dead claim is replaced by a rename, by the process that holds a lock named after the dead claim's content. The lock is
itself a claim, so that a process that dies with it does no harm.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import threading
import time
import uuid
from pathlib import Path
from typing import IO

from hpr.system.files import open_in_made_folder
from hpr.system.owner import Owner

BEAT = 10.0
# NFS may show a file as it was a minute ago.
EXPIRY = 150.0
# A claim has fewer bytes than this.
LONGEST = 4096
DIGITS = 12
# Files that are looked at when a process removes what dead ones have left.
SWEPT = 10_000
# What file systems without hard links answer to one, or too many links of one file.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


class Claims:
    """The claims of this process in a folder, which is made at the first claim and removed when it is empty.

    Args:
        folder: where the claims are.
        beat: seconds between renewals; None: `BEAT`.
        expiry: seconds without a renewal after which a claim is dead; None: `EXPIRY`.
    """

    def __init__(
        self, folder: Path, *, beat: float | None = None, expiry: float | None = None
    ) -> None:
        self.folder = folder
        self._beat_s = BEAT if beat is None else beat
        self._expiry_s = EXPIRY if expiry is None else expiry
        # By process ids, the owner and the file that its claims are links to.
        self._owners: dict[tuple[int, ...], tuple[Owner, Path]] = {}
        self._held: dict[str, Owner] = {}
        # Where there are no links, each claim is a file of its own.
        self._links = True
        self._copies: dict[Path, Owner] = {}
        # By a claim's file, its content and when it was first seen.
        self._seen: dict[Path, tuple[bytes, float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._renewing: threading.Thread | None = None

    def take(self, key: str, pids: tuple[int, ...] = ()) -> bool:
        """Claim a run for this process and `pids`, the processes that train for it. False: another has it.

        Raises:
            OSError: the folder can't be written.
        """
        owner, source = self._owner((os.getpid(), *pids))
        path = self.folder / f"{key}.json"
        if key in self._held:
            self.give_back(key)
        if not self._seize(path, owner, source):
            return False
        self._held[key] = owner
        return True

    def give_back(self, key: str) -> None:
        """Remove a claim of this process's. It raises nothing: what stays is dead when this process is."""
        owner = self._held.pop(key, None)
        path = self.folder / f"{key}.json"
        with self._lock:
            self._copies.pop(path, None)
        if owner is not None:
            self._remove(path, owner)

    def holders(self) -> set[str]:
        """The keys of all claims, alive or dead."""
        try:
            return {
                name[:-5]
                for name in os.listdir(self.folder)
                if name.endswith(".json") and not name.startswith(".")
            }
        except OSError:
            return set()

    def holder(self, key: str) -> str | None:
        """Who holds a run, in words; None if nobody alive does."""
        path = self.folder / f"{key}.json"
        content = read_claim(path)
        if content is None or self._dead(path, content):
            return None
        return str(owner_in(content) or "a process")

    def clear(self, path: Path, content: bytes) -> None:
        """Remove a claim or a lock that is known to be dead and had this content.

        It is taken over first, so that it stays where another process has taken it over or renewed it.

        Raises:
            OSError: the folder can't be written.
        """
        self._seen[path] = content, -math.inf
        owner, source = self._owner((os.getpid(),))
        if self._seize(path, owner, source):
            self._remove(path, owner)

    def close(self) -> None:
        """Give all claims back, and remove what dead processes have left."""
        self._closed.set()
        for key in list(self._held):
            self.give_back(key)
        with contextlib.suppress(OSError):
            if self._owners:
                self._sweep(*next(iter(self._owners.values())))
            with self._lock:
                for _, source in self._owners.values():
                    source.unlink(missing_ok=True)
                self._owners.clear()
            self.folder.rmdir()

    def _sweep(self, owner: Owner, source: Path) -> None:
        """Remove the files of processes of this machine that are gone."""
        for name in os.listdir(self.folder)[:SWEPT]:
            path = self.folder / name
            dead = owner_in(read_claim(path))
            if dead is None or not dead.gone():
                continue
            if name.startswith("."):
                path.unlink(missing_ok=True)
            # A claim is taken over first, since another process may do so at this moment.
            elif self._seize(path, owner, source):
                self._remove(path, owner)

    def _owner(self, pids: tuple[int, ...]) -> tuple[Owner, Path]:
        with self._lock:
            if pids not in self._owners:
                owner = Owner.of(pids)
                source = self.folder / f".{owner.token}.owner"
                _make(source, _content(owner, 0))
                self._owners[pids] = owner, source
            found = self._owners[pids]
        if self._renewing is None:
            self._renewing = threading.Thread(target=self._renew, daemon=True)
            self._renewing.start()
        return found

    def _renew(self) -> None:
        count = 0
        while not self._closed.wait(self._beat_s):
            count += 1
            with self._lock:
                for owner, source in self._owners.values():
                    _advance(source, owner, count)
                for path, owner in self._copies.items():
                    _advance(path, owner, count)

    def _seize(self, path: Path, owner: Owner, source: Path) -> bool:
        """Make a claim or take a dead one over; the file is a link to `source`."""
        if self._create(path, owner, source):
            return True
        content = read_claim(path)
        if content is None:
            # It was given back meanwhile.
            return self._create(path, owner, source)
        if owner_in(content) == owner:
            # On NFS a link can succeed though the answer was lost.
            return True
        if not self._dead(path, content):
            return False
        lock = path.with_name(f"{path.name}.{hashlib.sha256(content).hexdigest()[:8]}")
        if not self._seize(lock, owner, source):
            return False
        try:
            # Whoever held the lock before may have replaced the claim.
            if read_claim(path) != content:
                return False
            fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
            self._create(fresh, owner, source)
            os.replace(fresh, path)
            with self._lock:
                if self._copies.pop(fresh, None) is not None:
                    self._copies[path] = owner
            return True
        finally:
            with self._lock:
                self._copies.pop(lock, None)
            self._remove(lock, owner)

    def _create(self, path: Path, owner: Owner, source: Path) -> bool:
        """Make a file that must not be there: a link to `source`, or a copy where there are no links."""
        try:
            if self._links:
                os.link(source, path)
                return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Someone removed the folder, or the file of this owner.
            _make(source, _content(owner, 0))
            return self._create(path, owner, source)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            self._links = False
        try:
            number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        _write(os.fdopen(number, "wb"), path, _content(owner, 0))
        with self._lock:
            self._copies[path] = owner
        return True

    def _remove(self, path: Path, owner: Owner) -> None:
        with contextlib.suppress(OSError):
            if owner_in(read_claim(path)) == owner:
                path.unlink()

    def _dead(self, path: Path, content: bytes) -> bool:
        """Whether the owner of a claim is gone, or has not renewed it for too long."""
        owner = owner_in(content)
        if owner is not None and owner.gone():
            return True
        now = time.monotonic()
        seen = self._seen.get(path)
        if seen is None or seen[0] != content:
            self._seen[path] = content, now
            return False
        return now - seen[1] > self._expiry_s


def owner_in(content: bytes | None) -> Owner | None:
    """Who made the claim, the lock or the owner file of this content; None where it does not say."""
    return Owner.parse((content or b"").partition(b"\n")[0])


def _content(owner: Owner, count: int) -> bytes:
    return owner.content() + f"{count:0{DIGITS}d}\n".encode()


def _make(path: Path, content: bytes) -> None:
    _write(open_in_made_folder(path, new=False), path, content)


def _write(opened: IO[bytes], path: Path, content: bytes) -> None:
    """Write what a new file holds, and remove it where that fails: no process is known to own an empty one."""
    try:
        with opened as file:
            file.write(content)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _advance(path: Path, owner: Owner, count: int) -> None:
    """Write a renewal in place, so that it holds for every link to the file and takes no space on a full disk."""
    with contextlib.suppress(OSError):
        content = read_claim(path)
        head = owner.content()
        if content is not None and content.startswith(head):
            with open(path, "r+b", buffering=0) as file:
                file.seek(len(head))
                file.write(f"{count:0{DIGITS}d}\n".encode())


def read_claim(path: Path) -> bytes | None:
    """The content of a claim; None where there is none. What can't be read counts as a claim that never changes."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        number = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
    try:
        return os.read(number, LONGEST)
    except OSError as error:
        return None if error.errno == errno.ESTALE else b""
    finally:
        os.close(number)
