"""How many cores this process may use: those that it is bound to, within its control groups' quota of time."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cores(root: str | os.PathLike[str] = "/") -> int:
    """Cores that this process may keep busy, at least 1.

    The least of: the cores that the scheduler may put it on (`taskset`, a job's cpuset), the quota of CPU time of every
    control group that it is in, version 2 (`cpu.max`) and 1 (`cpu.cfs_quota_us`), rounded up, and the machine's own.
    A quota that can't be read is none.

    Args:
        root: folder that holds `proc` and `sys`; for tests.
    """
    # Python 3.13 has it, and lets PYTHON_CPU_COUNT set it.
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    return max(1, math.ceil(min(count, _quota(Path(root)))))


def _quota(root: Path) -> float:
    """CPU seconds a second that the strictest of the process's control groups leaves it; infinity where none does."""
    least = math.inf
    for line in _text(root / "proc/self/cgroup").splitlines():
        # hierarchy:controllers:path; version 2 names no controller.
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mount, of = root / "sys/fs/cgroup", _version_2
        elif "cpu" in controllers.split(","):
            mount, of = root / "sys/fs/cgroup/cpu", _version_1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        # A group has no more than those that it is in. Inside a container its own is the mount itself.
        for depth in range(len(parts) + 1):
            least = min(least, of(mount.joinpath(*parts[:depth])))
    return least


def _version_2(group: Path) -> float:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _version_1(group: Path) -> float:
    return _ratio(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float:
    # "max" and -1 say that there is no quota.
    try:
        share = int(quota) / int(period)
    except (ValueError, ArithmeticError):
        return math.inf
    return share if share > 0 else math.inf


def _text(path: Path) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(65536)
    except (OSError, ValueError):
        return ""
