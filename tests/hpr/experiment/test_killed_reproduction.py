"""A reproduction by processes that are killed at random moments ends in the records of an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpr.experiment.record import identity

COMMAND = [
    sys.executable, "-m", "hpr.reproduce", "--figure", "1", "--seeds", "1", "--iterations", "200",
    "--device", "cpu", "--workers", "1", "--checkpoint-period", "1",
]  # fmt: skip


def start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def records(out: Path) -> dict[str, Any]:
    found = {path.name: json.loads(path.read_text()) for path in (out / "runs").glob("*.json")}
    # The checksum covers the timings.
    return {name: {**identity(record), "checksum": None} for name, record in found.items()}


@pytest.mark.nightly
@pytest.mark.parametrize(("processes", "kills"), [(1, 4), (1, 20), (2, 20), (3, 20)])
def test_killed_processes_leave_the_records_of_an_undisturbed_one(
    tmp_path: Path, processes: int, kills: int
) -> None:
    """A reproduction that ends before all kills is checked, and the next one takes the others."""
    undisturbed = start(tmp_path / "undisturbed")
    assert undisturbed.communicate() == (None, b"")
    wanted = records(tmp_path / "undisturbed")
    assert len(wanted) == 15
    rng = random.Random(processes)
    number = 0
    while kills:
        number += 1
        out = tmp_path / str(number)
        kills -= killed_on_its_way(out, processes, kills, rng)
        assert records(out) == wanted
        assert not (out / "claims").exists()
        assert not list(out.rglob("*.tmp"))
        assert not list(out.rglob("*.safetensors"))


def killed_on_its_way(out: Path, processes: int, kills: int, rng: random.Random) -> int:
    """Kill processes of one reproduction and start them again until it is done, and return the number of kills."""
    running = [start(out) for _ in range(processes)]
    killed = 0
    while killed < kills and all(process.poll() is None for process in running):
        # From the imports to the last measures.
        time.sleep(rng.uniform(0, 10) / processes)
        victim = running.pop(rng.randrange(processes))
        victim.kill()
        victim.communicate()
        killed += victim.returncode == -signal.SIGKILL
        running.append(start(out))
    for process in running:
        assert process.communicate() == (None, b"")
        assert process.returncode == 0
    return killed
