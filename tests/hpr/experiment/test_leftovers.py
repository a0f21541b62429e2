"""`python -m hpr.store gc` beside processes that work, and after processes that were killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from store_records import SEEDS, SPEC, folder_with, planted, record_of

from hpr.experiment import leftovers
from hpr.experiment.run_claims import Claims
from hpr.experiment.store import Store
from hpr.store import main
from hpr.system.owner import Owner

OTHER = SEEDS[0].key
HEXES = "0" * 32
# It claims a run, leaves a checkpoint and a half-written record, says so, and waits.
RUNNER = f"""
import sys, time
from pathlib import Path
from hpr.experiment.run_claims import Claims
out = Path(sys.argv[1])
claims = Claims(out / "claims")
assert claims.take("{OTHER}")
for name in ("checkpoints/{OTHER}.safetensors", "runs/.{OTHER}.json.{HEXES}.tmp", "runs/{OTHER}.safetensors"):
    path = out / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
print("claimed", flush=True)
time.sleep(600)
"""


def runner(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    return process


def aged(out: Path, seconds: float) -> None:
    """Make every file of a folder look so old."""
    for path in out.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


def names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_files_of_a_living_process_stay_and_go_when_it_is_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder_with(tmp_path / "out", SPEC)
    process = runner(out)
    try:
        # Suspended, it renews nothing, and its files look as if nobody had touched them for months.
        os.kill(process.pid, 19)
        aged(out, 1e7)
        before = names(out)
        assert len(before) == 6
        assert main(["gc", str(out)]) == 0
        assert names(out) == before
        assert "removed in all: 0" in capsys.readouterr().out
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    aged(out, 2 * leftovers.WRITING)
    assert main(["verify", str(out)]) == 0
    told = capsys.readouterr().out
    for what in (
        "claim without an owner", "owner file of a process that is gone", "temporary file", "weights of no record",
    ):  # fmt: skip
        assert f"1 x {what}" in told
    assert main(["gc", str(out)]) == 0
    # The checkpoint is worth its training; half-written files and claims are worth nothing.
    assert names(out) == {f"runs/{SPEC.key}.json", f"checkpoints/{OTHER}.safetensors"}
    aged(out, 1.1 * leftovers.FORGOTTEN)
    assert main(["gc", str(out)]) == 0
    assert names(out) == {f"runs/{SPEC.key}.json"}


def owner_elsewhere(age_s: float, out: Path, name: str) -> Path:
    """Plant a file of a process of another machine, which nobody has renewed for so long."""
    owner = replace(Owner.of([1]), machine="another boot")
    return planted(out / "claims" / name, json.dumps(asdict(owner)) + "\n0\n", age_s)


def test_files_of_another_machine_go_when_nobody_has_renewed_them_for_a_day(tmp_path: Path) -> None:
    out = folder_with(tmp_path / "out", SPEC)
    old, young = 1.1 * leftovers.ABANDONED, 0.9 * leftovers.ABANDONED
    keys = [spec.key for spec in SEEDS]
    stay = {
        owner_elsewhere(young, out, f"{keys[0]}.json"),
        owner_elsewhere(young, out, f"{keys[0]}.json.01234567"),
        owner_elsewhere(young, out, f".{HEXES}.owner"),
        # Its owner has just saved the record, and is about to give the claim back.
        owner_elsewhere(0.0, out, f"{SPEC.key}.json"),
    }
    for name in (f"{keys[1]}.json", f"{keys[1]}.json.01234567", f".{'1' * 32}.owner"):
        owner_elsewhere(old, out, name)
    assert main(["gc", str(out)]) == 0
    assert set((out / "claims").iterdir()) == stay
    finished = owner_elsewhere(1.1 * leftovers.WRITING, out, f"{SPEC.key}.json")
    assert main(["gc", str(out)]) == 0
    assert set((out / "claims").iterdir()) == stay - {finished}


def test_a_claim_that_is_taken_over_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a dead claim and its removal, another process makes it its own."""
    out = folder_with(tmp_path / "out", SPEC)
    owner_elsewhere(1.1 * leftovers.ABANDONED, out, f"{OTHER}.json")
    rival = Claims(out / "claims", expiry=0.0)
    removed = Claims.clear

    def late(claims: Claims, path: Path, content: bytes) -> None:
        assert not rival.take(OTHER)
        assert rival.take(OTHER)
        removed(claims, path, content)

    monkeypatch.setattr(Claims, "clear", late)
    assert main(["gc", str(out)]) == 0
    monkeypatch.undo()
    assert rival.holder(OTHER) is not None
    rival.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_weights_go_only_where_no_record_is(tmp_path: Path, damaged: bool) -> None:
    out = folder_with(tmp_path / "out", SPEC)
    path = planted(out / "runs" / f"{OTHER}.safetensors", age=2 * leftovers.WRITING)
    young = planted(out / "runs" / f"{SEEDS[1].key}.safetensors")
    if damaged:
        Store(out).save(record_of(SEEDS[0]))
        Store(out).path(SEEDS[0]).write_text("{}")
    assert main(["gc", str(out)]) == 0
    assert path.exists() == damaged
    assert young.exists()


def test_weights_and_temporary_files_of_a_killed_merge_go(tmp_path: Path) -> None:
    out = folder_with(tmp_path / "out", SPEC)
    aside, old = out / "conflicts", 2 * leftovers.WRITING
    lone, kept, young = (f"{SPEC.key}.{digit * 16}" for digit in "123")
    gone = [
        planted(aside / f"{lone}.safetensors", age=old),
        planted(aside / f".{lone}.json.{HEXES}.tmp", age=old),
    ]
    stay = [
        planted(aside / f"{kept}.safetensors", age=old),
        planted(aside / f"{kept}.json", age=old),
        planted(aside / f"{young}.safetensors"),
        planted(aside / "mine.safetensors", age=old),
    ]
    assert main(["gc", str(out)]) == 0
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)
