"""A record names the source tree that made it, and asking for the commit leaves the tree unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
