"""What befalls a disk at a write: it fills, becomes read-only, or loses a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PAGE = 4096
HARMS = ("blocks", "page", "inodes", "quota", "once", "removed", "readonly")


class Harm:
    """Counts what processes write below a folder, and does a harm at the write of number `at`.

    Args:
        below: the tmpfs.
        at: the number of the write, from 1 on.
        how: one of `HARMS`. blocks: the disk is filled, but for a page with "page". inodes: no file can be made.
            quota, once: this write and all later ones, or this one alone, are refused. removed: the results are.
    """

    def __init__(self, below: str, at: int, how: str) -> None:
        self.below, self.at, self.how = below, at, how
        # The processes count together.
        self.count = Path(f"{below}.count")
        self._busy = False

    def install(self) -> None:
        """Watch this process."""
        flush = os.fsync

        def flushed(number: int) -> None:
            sys.audit("os.fsync", os.readlink(f"/proc/self/fd/{number}"))
            flush(number)

        os.fsync = flushed
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy or event not in ("open", "os.mkdir", "os.link", "os.rename", "os.fsync"):
            return
        path = arguments[1 if event in ("os.link", "os.rename") else 0]
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if not isinstance(path, str | os.PathLike) or not f"{os.fspath(path)}/".startswith(
            f"{self.below}/"
        ):
            return
        self._busy = True
        try:
            with self.count.open("ab") as file:
                file.write(b".")
                file.flush()
                number = os.fstat(file.fileno()).st_size
            if self.how in ("quota", "once"):
                if number == self.at or (number > self.at and self.how == "quota"):
                    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), os.fspath(path))
            elif number == self.at:
                self._do()
        finally:
            self._busy = False

    def _do(self) -> None:
        filler = Path(self.below, "filler")
        if self.how == "readonly":
            try:
                remount(self.below, "ro")
            except subprocess.CalledProcessError:
                # A file is open: at the next write.
                self.at += 1
        elif self.how == "removed":
            shutil.rmtree(Path(self.below, "out"), ignore_errors=True)
        elif self.how == "inodes":
            found = os.statvfs(self.below)
            remount(self.below, f"nr_inodes={found.f_files - found.f_ffree}")
        else:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(PAGE))
            if self.how == "page":
                os.truncate(filler, filler.stat().st_size - PAGE)

    def reached(self) -> bool:
        """Whether there was such a write."""
        return self.count.exists() and self.count.stat().st_size >= self.at


def remount(below: str, options: str) -> None:
    """Change a mounted tmpfs."""
    subprocess.run(
        ["mount", "-o", f"remount,{options}", below], check=True, stderr=subprocess.DEVNULL
    )
