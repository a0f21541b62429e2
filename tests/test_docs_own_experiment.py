"""docs/own_experiment.md: its snippets run one after another in one process, its commands find what they trained."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own_experiment.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def child(words: list[str], folder: Path) -> str:
    # `python -c` and `python -m` search the current folder, as the page says of modules beside the script.
    searched = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=folder,
        env={
            **os.environ, "PYTHONPATH": searched, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg",
            "HPR_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's Python has run."""
    folder = tmp_path_factory.mktemp("own")
    code = snippets("python")
    (module,) = (text for text in code if text.startswith("# my_tasks.py"))
    (folder / "my_tasks.py").write_text(module, encoding="utf-8")
    program = "\n".join(text for text in code if text is not module)
    (folder / "out.txt").write_text(child(["-c", program], folder), encoding="utf-8")
    return folder


@pytest.mark.nightly
def test_python_runs_and_draws(folder: Path) -> None:
    for picture in (
        "ranks/kernel_alignment", "cells/kernel_alignment", "own_matrix/boxes", "delays/representation",
    ):  # fmt: skip
        assert (folder / f"{picture}.pdf").stat().st_size > 5_000
    assert (folder / "ranks" / "weight_change.png").stat().st_size > 5_000
    counts = {
        name: len(list((folder / name / "runs").glob("*.json")))
        for name in ("ranks", "cells", "noisy", "reservoir", "own_matrix", "delays")
    }
    assert counts == {
        "ranks": 18, "cells": 4, "noisy": 1, "reservoir": 2, "own_matrix": 6, "delays": 8,
    }  # fmt: skip
    assert re.search(r"^\[0\.0, [0-9.]+\]$", (folder / "out.txt").read_text("utf-8"), re.M)
    told = re.findall(r"^(matrix|dense) (\S+)$", (folder / "out.txt").read_text("utf-8"), re.M)
    assert [name for name, _ in told] == ["matrix", "dense"]
    assert all(0 < float(value) < 1 for _, value in told)


@pytest.mark.nightly
def test_commands_find_what_python_trained(folder: Path) -> None:
    (toml,) = snippets("toml")
    (folder / "my_sweep.toml").write_text(toml, encoding="utf-8")
    commands = [
        shlex.split(line, comments=True) for text in snippets("sh") for line in text.splitlines()
    ]
    assert len(commands) == 4
    for words, stored, left in zip(commands, (18, 18, 18, 2), (0, 0, 0, 0), strict=True):
        assert words[:3] == ["python", "-m", "hpr.run"]
        more = [] if "--dry-run" in words else ["--dry-run"]
        told = json.loads(child([*words[1:], *more, "--untimed", "--json"], folder))
        assert (told["stored"], told["to_train"]) == (stored, left), words


def test_the_commands_of_the_table_are_read(folder: Path) -> None:
    """Those that are cheap to plan; the others are the page's sections."""
    assert "python -m hpr.run --task 2AF --rank 1 30 --seeds 8" in PAGE
    words = [
        "-m",
        "hpr.run",
        "--task",
        "2AF",
        "--rank",
        "1",
        "30",
        "--seeds",
        "8",
        "--dry-run",
        "--untimed",
        "--json",
    ]
    assert json.loads(child(words, folder))["runs"] == 16
    words = [
        "-m",
        "hpr.run",
        "--task",
        "file:trials.npz",
        "--connectivity",
        "file:matrix.npy",
        "dense",
        "--dry-run",
        "--untimed",
    ]
    assert "2 runs in 2 settings" in child(words, folder)
    assert "learning_rate" in child(["-m", "hpr.run", "--fields"], folder)
