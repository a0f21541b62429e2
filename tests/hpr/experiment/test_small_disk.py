"""On a tmpfs every write in turn meets a full disk: one line, nothing half-written, and the next start goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import small_disk
from disk_harm import HARMS

from hpr.experiment.record import identity
from hpr.store import main as store_command

MOUNT = ["unshare", "-Urm", "sh", "-c"]
TINY = "--task 2AF --rank 1 --N 16 --iterations 2 --batch 4 --seeds 2 --kernel-trials 4 --trials 8"
TINY += " --keep-weights --device cpu"
# With these a run writes more than a start tries whether there is room for.
LARGER = (
    "--task 2AF --rank 1 --N 256 --iterations 20 --batch 4 --seeds 5 --kernel-trials 4 --trials 8"
)
LARGER += " --keep-weights --device cpu --workers 1"
FIGURES = "--figure 17 18 --profile quick --seeds 1 --iterations 3 --device cpu"
# A number that is no write's.
NEVER = 10**9
UNDISTURBED = ["once", [NEVER, NEVER + 1]]
Harms = list[Any]


@pytest.fixture(autouse=True)
def _mounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare, of util-linux, is missing")
    tried = subprocess.run(
        [*MOUNT, f"mount -t tmpfs none '{tmp_path}'"], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))


def cases(
    at: Path, program: str, words: str, harms: Harms, given: Path | None = None, **plan: Any
) -> list[Path]:
    """Run a plan of `small_disk`, and return the folders of its cases."""
    below = at / "disk"
    below.mkdir(parents=True)
    argv = [*words.format(below=below).split(), "--out", str(below / "out")]
    plan |= {"program": program, "argv": argv, "below": str(below), "to": str(at / "kept")}
    plan |= {"harms": harms, "given": None if given is None else str(given)}
    searched = os.pathsep.join([str(Path(small_disk.__file__).parent), *sys.path])
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, small_disk.__file__, json.dumps(plan)],
        env={**os.environ, "PYTHONPATH": searched},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return sorted((at / "kept").iterdir())


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for the folder of checkpoints, which stays."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.name != "checkpoints"
    }


def records(out: Path) -> dict[str, Any]:
    found = {path.name: json.loads(path.read_text("utf-8")) for path in out.glob("runs/*.json")}
    return {name: {**identity(record), "checksum": None} for name, record in found.items()}


def check(case: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """See that a case was stopped in good order, and that the same command then made what an undisturbed one makes."""
    told = json.loads((case / "told.json").read_text("utf-8"))
    how, status, lines = (
        case.name.split("-")[0],
        told["stopped"]["status"],
        told["stopped"]["lines"],
    )
    check_lines(status, lines)
    assert told["finished"] == {"status": 0, "lines": []}
    whole = files(undisturbed)
    stopped, finished = files(case / "stopped"), files(case / "finished")
    # A disk that is read-only lets nothing be removed.
    if how != "readonly":
        left = {name for name in stopped.keys() - whole.keys() if "/checkpoints/" not in name}
        assert not left, lines
        assert not [name for name in stopped if name.endswith(".tmp")]
    for name in stopped.keys() & whole.keys():
        # What is there is whole. The records' and the reports' times differ.
        if name.endswith((".toml", ".svg", ".png", ".pdf", ".safetensors")):
            assert stopped[name] == whole[name], name
    for name in stopped:
        if name.endswith("log.jsonl"):
            assert all(map(json.loads, stopped[name].splitlines()))
            assert all(map(json.loads, finished[name].splitlines()))
    if (case / "stopped" / "out" / "runs").is_dir():
        assert store_command(["verify", str(case / "stopped" / "out")]) == 0, capsys.readouterr()
    # Nor does it let a temporary file be removed, which `gc` finds.
    kept = {name for name in finished if how != "readonly" or not name.endswith(".tmp")}
    assert kept == whole.keys()
    assert records(case / "finished" / "out") == records(undisturbed / "out")


def check_lines(status: int, lines: Sequence[str]) -> None:
    """One line says why a command ended; before it, one at most for checkpoints and for the log each."""
    warnings = [
        line for line in lines if re.search("training goes on without|hpr: --log-json", line)
    ]
    assert len(warnings) <= 2, lines
    rest = [line for line in lines if line not in warnings]
    assert len(rest) == (status != 0), lines
    assert status in (0, 1, 2), lines
    reasons = "No space left on device|Read-only file system|Disk quota exceeded|No such file"
    for line in lines:
        assert "Traceback" not in line
        assert re.match(r"hpr(\.run|\.reproduce)?: ", line), lines
        assert re.search(rf"/disk/\S*.*({reasons})|({reasons}).*/disk/", line), lines


@pytest.mark.parametrize(
    ("workers", "step"),
    [
        (1, 29),
        pytest.param(1, 1, marks=pytest.mark.nightly),
        pytest.param(2, 13, marks=pytest.mark.nightly),
    ],
)
def test_a_full_disk_at_every_write_in_turn(
    tmp_path: Path, workers: int, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"{TINY} --workers {workers}"
    *others, readonly = [
        [how, [1 + 4 * place % step, NEVER, step]] for place, how in enumerate(HARMS)
    ]
    # A log is a file that stays open, with which a file system can't become read-only.
    logged = f"{words} --log-json {{below}}/out/log.jsonl"
    done = cases(tmp_path / "logged", "hpr.run", logged, [UNDISTURBED, *others])
    done += cases(tmp_path / "readonly", "hpr.run", words, [UNDISTURBED, readonly])
    assert len(done) >= 300 // step
    for case in done:
        check(case, case.with_name(f"once-{NEVER}") / "stopped", capsys)


@pytest.mark.parametrize(
    "sizes",
    [
        [[2, 3], [258, NEVER, 60]],
        pytest.param([[1, 8], [8, 256, 40], [256, NEVER]], marks=pytest.mark.nightly),
    ],
)
def test_disks_of_every_size(
    tmp_path: Path, sizes: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    [whole] = cases(
        tmp_path / "whole", "hpr.run", LARGER, [["size", [NEVER // 10**4, NEVER]]], fresh=True
    )
    harms = [["size", numbers] for numbers in sizes]
    for case in cases(tmp_path / "small", "hpr.run", LARGER, harms, fresh=True):
        check(case, whole / "stopped", capsys)


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_at_every_file_of_the_figures(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"{FIGURES} --workers {workers}"
    [whole] = cases(tmp_path / "whole", "hpr.reproduce", words, [UNDISTURBED])
    given = tmp_path / "given"
    shutil.copytree(whole / "stopped" / "out" / "runs", given / "runs")
    # A file takes four events: its folder, its making, its flush to the disk, its renaming.
    harms = [[how, [2, NEVER, step]] for how, step in (("blocks", 4), ("inodes", 8), ("quota", 11))]
    for case in cases(tmp_path / "figures", "hpr.reproduce", words, harms, given):
        check(case, whole / "stopped", capsys)
