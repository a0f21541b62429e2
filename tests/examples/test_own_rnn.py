"""The example against the wheel alone: built offline and installed into an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_rnn" / "own_rnn.py"
RUN = "import sys, runpy, hpr_kernels; print(hpr_kernels.__file__); runpy.run_path(sys.argv[1], run_name='__main__')"


@pytest.mark.nightly
def test_runs_against_the_installed_wheel(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="building a wheel needs setuptools")
    source, site = tmp_path / "source", tmp_path / "site"
    leave = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "results")
    shutil.copytree(ROOT, source, ignore=leave)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    install = ["install", "--quiet", *offline, "--target", str(site), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(EXAMPLE)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where, rnn, mlp = done.stdout.splitlines()
    assert Path(where).is_relative_to(site)
    assert rnn.startswith("recurrent network: [60, 60]")
    assert mlp.startswith("MLP over tokens: [80, 80]")
