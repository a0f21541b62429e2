"""How many cores this process may use, by its CPU affinity and by the CPU quotas of its control groups."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cores(root: str | os.PathLike[str] = "/") -> int:
    """Cores that this process may keep busy, at least 1.

    This is the least of three numbers: the machine's cores, the cores that the scheduler may use for the process
    (`taskset`, a job's cpuset), and the CPU quota, rounded up, of every control group that the process is in, version 2
    (`cpu.max`) or 1 (`cpu.cfs_quota_us`). A quota that cannot be read sets no limit.

    Args:
        root: folder that holds `proc` and `sys`; tests pass another one.
    """
    # `os.process_cpu_count` exists since Python 3.13 and follows PYTHON_CPU_COUNT.
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    return max(1, math.ceil(min(count, _quota(Path(root)))))


def _quota(root: Path) -> float:
    """CPU seconds per second under the strictest quota of the process's control groups; infinity without a quota."""
    least = math.inf
    for line in _content(root / "proc/self/cgroup").splitlines():
        # A line reads hierarchy:controllers:path. In version 2 the controllers are empty.
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mount, of = root / "sys/fs/cgroup", _version_2
        elif "cpu" in controllers.split(","):
            mount, of = root / "sys/fs/cgroup/cpu", _version_1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        # The quotas of all parent groups hold too. In a container the process's own group is the mount itself.
        for depth in range(len(parts) + 1):
            least = min(least, of(mount.joinpath(*parts[:depth])))
    return least


def _version_2(group: Path) -> float:
    quota, _, period = _content(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _version_1(group: Path) -> float:
    return _ratio(_content(group / "cpu.cfs_quota_us"), _content(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float:
    # "max" and -1 stand for no quota.
    try:
        share = int(quota) / int(period)
    except (ValueError, ArithmeticError):
        return math.inf
    return share if share > 0 else math.inf


def _content(path: Path) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(65536)
    except (OSError, ValueError):
        return ""
