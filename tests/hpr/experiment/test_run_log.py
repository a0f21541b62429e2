"""`--log-json` and the lines without a terminal: of real processes, whole, stopped, killed and failing."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hpr.experiment.run_log import RunLog
from hpr.experiment.run_progress import PackState, Progress
from hpr.run import main

SCRIPT = Path(__file__).with_name("logged_run.py")
SMALL = ["--task", "2AF", "--N", "8", "--batch", "4", "--trials", "8", "--kernel-trials", "2"]
SMALL += ["--device", "cpu", "--seeds", "2"]


def start(out: Path, *options: str, failing: str = "") -> subprocess.Popen[str]:
    words = [sys.executable, str(SCRIPT), failing, *SMALL, "--out", str(out), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events(text: str) -> list[dict[str, Any]]:
    """The events of a log, of which every line must be whole, and no time before the last."""
    assert text.endswith("\n")
    found = [json.loads(line) for line in text.splitlines()]
    times = [datetime.fromisoformat(event["time"]) for event in found]
    assert times == sorted(times)
    assert all(moment.tzinfo for moment in times)
    return found


def named(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in found if event["event"] == name]


def waited_for(log: Path, name: str) -> None:
    until = time.monotonic() + 100
    while time.monotonic() < until:
        if log.exists() and f'"event": "{name}"' in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no event {name}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_tells_its_course(tmp_path: Path, workers: int) -> None:
    log = tmp_path / "new folder" / "log"
    options = ["--iterations", "600", "--checkpoints", "3", "--log-json", str(log)]
    process = start(tmp_path / "out", *options, "--workers", str(workers))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    found = events(log.read_text())
    order = [event["event"] for event in found]
    assert order[:3] == ["start", "plan", "pack"]
    assert order[-1] == "end"
    begun, plan, end = found[0], found[1], found[-1]
    assert (begun["program"], begun["pid"]) == ("hpr.run", process.pid)
    assert begun["arguments"][:2] == ["--task", "2AF"]
    expected = {"runs": 2, "stored": 0, "left": 2, "packs": workers, "workers": workers}
    assert {name: plan[name] for name in expected} == expected
    assert sum(len(event["runs"]) for event in named(found, "pack")) == 2
    finished = named(found, "finished")
    assert {event["key"] for event in finished} == {
        path.stem for path in (tmp_path / "out" / "runs").iterdir()
    }
    for event in finished:
        record = json.loads((tmp_path / "out" / "runs" / f"{event['key']}.json").read_bytes())
        assert event["loss"] == record["measures"]["final_loss"]
        assert event["kernel_alignment"] == record["measures"]["kernel_alignment"]
        assert event["training_s"] == record["timings"]["training_s"]
    last = named(found, "progress")[-1]
    assert (last["runs"], last["done"], last["left"], last["share"]) == (2, 2, 0, 1.0)
    assert (end["status"], end["finished"], end["failed"], end["error"]) == (0, 2, 0, None)
    assert end["seconds"] > 0
    assert "done after" in out


@pytest.mark.nightly
def test_the_loss_and_the_alignment_are_told_while_a_pack_trains(tmp_path: Path) -> None:
    """Without a terminal, lines say it; the log on stderr says it too, and the bar does not break its lines."""
    options = ["--iterations", "1000000", "--checkpoints", "100", "--log-json", "-"]
    process = start(tmp_path, *options, "--workers", "1", "--checkpoint-period", "1")
    assert process.stderr is not None
    assert process.stdout is not None
    with process, process.stderr, process.stdout:
        found: list[dict[str, Any]] = []
        while not [event for event in named(found, "checkpoint") if event["loss"] is not None]:
            found += events(process.stderr.readline())
        line = ""
        while ", loss " not in line:
            line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        status = process.wait(30)
    assert "runs, " in line
    assert " left; pack 1/1: 2 x 2AF, N = 8: iteration " in line
    assert "KA " in line
    checkpoint = named(found, "checkpoint")[-1]
    assert checkpoint["checkpoints"] == 2
    assert 0 < checkpoint["iteration"] < 1_000_000
    assert 0 < checkpoint["loss"] < 10
    assert 0 < checkpoint["kernel_alignment"] <= 1 + 1e-9
    # The line that says how to go on is the one line that is no event.
    (last,) = (line for line in rest.splitlines() if not line.startswith("{"))
    assert last.startswith("hpr.run: stopped by SIGTERM: finished runs are kept")
    found += events("".join(f"{line}\n" for line in rest.splitlines() if line.startswith("{")))
    (stopped,) = named(found, "stopped")
    assert stopped["signal"] == "SIGTERM"
    assert found[-1]["event"] == "end"
    assert found[-1]["status"] == status == 143
    told = [event for event in named(found, "progress") if event["packs"]][-1]
    assert told["left"] == 2
    assert told["packs"][0]["loss"] > 0
    assert told["eta_s"] > 0


@pytest.mark.nightly
def test_a_killed_process_leaves_whole_lines_and_no_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ["--iterations", "1000000", "--workers", "2", "--log-json", str(log)]
    with start(tmp_path / "out", *options) as process:
        waited_for(log, "pack")
        process.kill()
        process.wait()
    found = events(log.read_text())
    assert found[0]["event"] == "start"
    assert not named(found, "end")
    # The next process appends to the same file.
    with start(tmp_path / "out", "--iterations", "100", "--log-json", str(log)) as process:
        assert process.wait(100) == 0
    both = events(log.read_text())
    assert both[: len(found)] == found
    assert [event["event"] for event in both].count("start") == 2
    assert both[-1]["event"] == "end"


@pytest.mark.nightly
def test_a_failure_is_an_event_and_the_end_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ["--iterations", "20", "--log-json", str(log)]
    for again in (False, True):
        with start(tmp_path / "out", *options, failing="1") as process:
            out, err = process.communicate(timeout=100)
            assert process.returncode == 1
        assert "NOT DONE after" in out
        assert f"reasons and tracebacks: {tmp_path / 'out' / 'failures'}" in out
        assert "--retry-failed" in out
        assert "ValueError: this network fails" in err
        found = events(log.read_text())
        found = found[max(i for i, event in enumerate(found) if event["event"] == "start") :]
        (failed,) = named(found, "failed")
        assert failed["reason"] == "ValueError: this network fails"
        assert failed["key"] not in {event["key"] for event in named(found, "finished")}
        end = found[-1]
        assert (end["status"], end["finished"], end["failed"]) == (1, 0 if again else 1, 1)
        assert found[1]["failed_before"] == int(again)


def test_bad_usage_writes_no_log_and_a_bad_folder_is_the_error_of_the_end(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "file"
    words = [
        "--task",
        "2AF",
        "--N",
        "8",
        "--device",
        "cpu",
        "--out",
        str(out),
        "--log-json",
        str(log),
    ]
    for option in (["--gain", "x"], ["--rank", "99"], ["--unknown"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, *option])
        assert ended.value.code == 2
    assert main([*words, "--dry-run"]) == 0
    assert not log.exists()
    out.write_text("x")
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    begun, end = events(log.read_text())
    assert begun["event"] == "start"
    assert begun["arguments"] == words
    assert end["status"] == 2
    assert end["error"] == f"the output folder {out} can't be written: Not a directory"


def test_a_log_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--task", "2AF", "--out", str(tmp_path), "--log-json", str(tmp_path)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told == f"hpr.run: error: --log-json: {tmp_path} can't be written: Is a directory\n"
    inside = tmp_path / "file" / "log"
    inside.parent.write_text("x", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["--task", "2AF", "--out", str(tmp_path), "--log-json", str(inside)])
    told = capsys.readouterr().err
    assert told == f"hpr.run: error: --log-json: {inside} can't be written: Not a directory\n"


def test_the_folder_of_a_log_is_made_as_that_of_out_is(tmp_path: Path) -> None:
    log, out = tmp_path / "a" / "b" / "log", tmp_path / "c" / "d"
    words = ["--task", "2AF", "--N", "8", "--iterations", "1", "--workers", "1", "--device", "cpu"]
    assert main([*words, "--out", str(out), "--log-json", str(log)]) == 0
    assert events(log.read_text(encoding="utf-8"))[-1]["event"] == "end"
    assert (out / "runs").is_dir()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_ends_the_log_and_not_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog("/dev/full")
    log.begin()
    log.event("plan")
    log.end(0)
    told = capsys.readouterr().err
    assert told == "hpr: --log-json: /dev/full can't be written: No space left on device\n"


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    log = RunLog(str(tmp_path / "log"), program="a")
    log.begin()
    log.event("a", loss=math.nan, inner={"b": [math.inf, 1.5]})
    log.end(0)
    begun, first, _ = events((tmp_path / "log").read_text())
    assert (begun["event"], begun["program"]) == ("start", "a")
    assert (first["loss"], first["inner"]) == (None, {"b": [None, 1.5]})


def test_a_line_tells_of_three_packs_at_most() -> None:
    lines: list[str] = []
    with Progress(10.0, 5, lines.append) as progress:
        for number in range(5):
            progress.begin(number, f"pack {number}")
        progress.tell(7, PackState(1, loss=1.0))
        assert ";" not in progress.state()
        for number in range(5):
            progress.tell(number, PackState(100 * number, loss=0.5, kernel_alignment=0.25))
        said = progress.state()
        assert said.endswith("; pack 2: iteration 200, loss 0.5, KA 0.25; and 2 more")
        for number in range(4):
            progress.end(number)
        assert progress.state().endswith("left; pack 4: iteration 400, loss 0.5, KA 0.25")
