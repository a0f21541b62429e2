"""These tests count the cores that a process may use, under CPU affinity and under quotas of control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpr_kernels.cores import available_cores

HERE = available_cores()
needs_binding = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores"
)
needs_two = pytest.mark.skipif(HERE < 2, reason="a quota cannot reduce one core")


def group(root: Path, lines: str, **files: str) -> Path:
    """Write a process's control groups and their files the way /proc and /sys show them."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_here_it_is_no_more_than_the_machine_has() -> None:
    assert 1 <= HERE <= (os.cpu_count() or 1)


@needs_binding
def test_a_process_bound_to_one_core_has_one() -> None:
    """The binding would hold for the whole process, so a child is bound."""
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from hpr_kernels.cores import available_cores; print(available_cores())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


@needs_two
@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "max 100000\n"}),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000\n"}),
        # The container sees the host's path, and has its own group at the mount.
        ("0::/docker/0123\n", {"cpu.max": "20000 100000\n"}),
        (
            "4:cpu,cpuacct:/a\n1:name=systemd:/b\n",
            {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        ),
    ],
    ids=["version 2", "its own group", "an outer group", "a container", "version 1"],
)
def test_a_quota_of_one_core_leaves_one(tmp_path: Path, lines: str, files: dict[str, str]) -> None:
    assert available_cores(group(tmp_path, lines, **files)) == 1


@needs_two
def test_a_quota_is_rounded_up(tmp_path: Path) -> None:
    assert available_cores(group(tmp_path, "0::/\n", **{"cpu.max": "100001 100000"})) == 2


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("", {}),
        ("0::/\n", {}),
        ("0::/\n", {"cpu.max": "max 100000\n"}),
        ("0::/\n", {"cpu.max": "99999999999 100000\n"}),
        ("0::/\n", {"cpu.max": "100000 0\n"}),
        ("0::/\n", {"cpu.max": "-1 100000\n"}),
        ("0::/\n", {"cpu.max": "many of them\n"}),
        ("0::/\n", {"cpu.max": "\u00e9"}),
        ("0::/\n", {"cpu.max": f"{10**400} 1"}),
        ("no colon at all\n::::\n", {"cpu.max": ""}),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        ),
    ],
    ids=[
        "no groups",
        "no file",
        "max",
        "more than the machine has",
        "no period",
        "negative",
        "words",
        "not ASCII",
        "a number beyond floats",
        "garbled groups",
        "version 1 without a quota",
    ],
)
def test_what_is_no_quota_takes_nothing_away(
    tmp_path: Path, lines: str, files: dict[str, str]
) -> None:
    assert available_cores(group(tmp_path, lines, **files)) == available_cores(tmp_path / "none")


def test_a_folder_in_a_files_place_takes_nothing_away(tmp_path: Path) -> None:
    root = group(tmp_path, "0::/\n")
    (root / "sys/fs/cgroup/cpu.max").mkdir(parents=True)
    assert available_cores(root) == available_cores(tmp_path / "none")
