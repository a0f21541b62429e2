"""Who a process is, so that another one, perhaps on another machine, can tell whether it still lives."""

from __future__ import annotations

import json
import os
import re
import socket
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Owner:
    """One or more processes that work together.

    `machine` is the boot of a machine and the namespace of its process ids, None where the system does not tell them.
    Host names serve messages only, since two machines may have the same one.
    """

    token: str
    host: str
    machine: str | None
    # Process ids, each with the time of its start, since an id is used again.
    processes: tuple[tuple[int, str | None], ...]

    @classmethod
    def of(cls, pids: Iterable[int]) -> Owner:
        """The owner of these processes of this machine."""
        pairs = tuple((pid, _started(pid)) for pid in dict.fromkeys(pids))
        return cls(uuid.uuid4().hex, socket.gethostname(), this_machine(), pairs)

    @classmethod
    def parse(cls, content: bytes) -> Owner | None:
        """Invert `content`; None if the bytes are anything else."""
        try:
            plain = json.loads(content)
            pairs = tuple(
                (int(pid), None if start is None else str(start))
                for pid, start in plain["processes"]
            )
            machine = plain["machine"]
            found = cls(
                str(plain["token"]),
                str(plain["host"]),
                None if machine is None else str(machine),
                pairs,
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return found if re.fullmatch("[0-9a-f]{32}", found.token) else None

    def content(self) -> bytes:
        """The owner as a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def is_here(self) -> bool:
        """Whether it is certain that the processes are or were of this machine."""
        return self.machine is not None and self.machine == this_machine()

    def gone(self) -> bool:
        """Whether it is certain that none of the processes lives: they were of this machine, and are not there."""
        return self.is_here() and not any(_alive(pid, start) for pid, start in self.processes)

    def __str__(self) -> str:
        return f"process {self.processes[0][0] if self.processes else '?'} on {self.host}"


@cache
def this_machine() -> str | None:
    """This boot of this machine and the namespace of process ids that this process sees; None where unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _stat(pid: int) -> list[str] | None:
    """What Linux tells of a process after its name: its state first, and its start as the twentieth."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def _started(pid: int) -> str | None:
    parts: Any = _stat(pid)
    return parts[19] if parts else None


def _alive(pid: int, start: str | None) -> bool:
    parts = _stat(pid)
    # A process that has ended and was not waited for is a zombie.
    return parts is not None and parts[0] not in "ZX" and start in (None, parts[19])
