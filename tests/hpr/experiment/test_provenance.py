"""A record names the source tree that made it, and asking for the commit leaves the tree unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hpr.experiment import provenance


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_asking_for_the_commit_leaves_the_repository_alone(tmp_path: Path) -> None:
    """The index of a checkout of this package keeps its bytes, although a file was touched since."""
    checkout, other = tmp_path / "checkout", tmp_path / "other"
    source = Path(provenance.__file__).parents[1]
    shutil.copytree(source, checkout / "hpr", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (checkout, other):
        folder.mkdir(exist_ok=True)
        git(folder, "init", "--quiet")
        (folder / "a file").write_text(folder.name)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", "first")
    index = checkout / ".git" / "index"
    # The file's time now differs from the one in the index, as after a checkout or a build.
    os.utime(checkout / "a file", (1, 1))
    kept = index.read_bytes()
    program = "from hpr.experiment.provenance import git_commit; print(git_commit())"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(checkout), *sys.path]),
        # These variables name another repository, as in a git hook.
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def asked() -> str:
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert asked() == git(checkout, "rev-parse", "HEAD")
    assert index.read_bytes() == kept
    (checkout / "hpr" / "fields.py").write_text("# another\n", encoding="utf-8")
    (checkout / "hpr" / "untracked.py").write_text("")
    git(checkout, "checkout", "--", "hpr/fields.py")
    assert asked() == git(checkout, "rev-parse", "HEAD")
    (checkout / "a file").write_text("changed")
    assert asked() == f"{git(checkout, 'rev-parse', 'HEAD')}-dirty"


def test_the_environment_holds_what_changes_numbers_and_nothing_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in provenance.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    found = provenance.provenance(torch.device("cpu"), "torch")
    assert found["environment"] == {"OMP_NUM_THREADS": "3"}
    assert "a secret" not in str(found)
    assert found["machine"]["memory"] > 2**27
    assert found["machine"]["processor"]
    assert found["machine"]["system"]


def test_a_meter_counts_wall_and_cpu_seconds() -> None:
    meter = provenance.Meter()
    time.sleep(0.2)
    wall, cpu = meter.spent()
    assert wall >= 0.2
    assert cpu < 0.1
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    wall, cpu = meter.spent()
    assert 0.2 <= cpu <= wall <= 20
    timings = provenance.as_timings("training", 1.23456, 0.98765)
    assert timings == {"training_s": 1.235, "training_cpu_s": 0.988}


PEAK = """
import torch
from hpr.experiment.provenance import whereabouts
before = whereabouts(torch.device("cpu"))
# Memory that nothing was written to is not held.
held = b"x" * (before["peak_memory"] + 2**26)
after = whereabouts(torch.device("cpu"))
assert list(before) == list(after) == ["host", "peak_memory"], after
assert before["host"] == after["host"] != "", after
print(before["peak_memory"], after["peak_memory"], len(held))
"""


def test_the_peak_of_memory_rises_with_what_is_held() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after, held = map(int, done.stdout.split())
    assert before + 2**25 < after < before + 1.1 * held
