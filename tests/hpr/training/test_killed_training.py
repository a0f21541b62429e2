"""Training that is killed again and again gives the records of training that nobody disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpr.experiment.record import Record, identity
from hpr.experiment.store import Store
from hpr.tasks import make_task
from hpr.training.loop import train_pack
from hpr_kernels.native import library

sys.path.insert(0, str(Path(__file__).parent))
from killed_training import PACKS, TEACHER

# Per pack.
KILLS = 5
native = pytest.mark.skipif(
    library.library() is None, reason="the installation has built no C kernels"
)


def undisturbed() -> list[Record]:
    records = []
    for specs, how in PACKS.values():
        task = make_task(specs[0].task, version=specs[0].task_version, dt=specs[0].dt)
        records += train_pack(specs, task, device=torch.device("cpu"), **how)
    return records


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that share what they import")
@pytest.mark.parametrize("backend", [pytest.param("native", marks=native), "torch"])
@pytest.mark.nightly
def test_kills_lose_a_piece_of_training_and_change_no_record(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).with_name("killed_training.py")
    monkeypatch.setenv("HPR_KERNELS_BACKEND", backend)
    monkeypatch.setattr("hpr.experiment.provenance.git_commit", lambda: None)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "1", str(KILLS)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    # Nobody needed to start a run anew.
    assert "anew" not in done.stderr
    kills = int(done.stdout.split()[-1])
    assert kills >= 10
    expected = undisturbed()
    assert {record["provenance"]["engine"] for record in expected} == {backend}
    store = Store(tmp_path)
    specs = [spec for pack, _ in PACKS.values() for spec in pack]
    for spec, record in zip(specs, expected, strict=True):
        kept = store.load(spec)
        assert kept is not None
        assert identity(kept) == identity(record), str(spec)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    # What was trained more than once is at most the last pieces before each kill.
    pieces = [int(line) for line in (tmp_path / "trained").read_text().split()]
    needed = sum(record["iterations"] for record in expected) + TEACHER.iterations
    needed += sum(spec.iterations for spec in PACKS["lazy distance"][0])
    assert needed <= sum(pieces) <= needed + 2 * kills * max(pieces)
