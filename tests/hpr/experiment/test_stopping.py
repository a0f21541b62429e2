"""Signals, full disks and failures: one line, a status that says what happened, and the next start goes on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import runner_support as support
from test_several_at_once import finish, kept, start, trainings

from hpr.experiment import run_progress
from hpr.experiment.in_process import InProcess
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Failure
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.reproduce import main
from hpr.system import signals

FIGURE = ["--figure", "1", "--seeds", "1", "--iterations", "3", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")


@pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_between_two_networks_and_the_next_start_goes_on(
    tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    process = start(out, 60, pause=0.05)
    while not kept(out):
        time.sleep(0.01)
    process.send_signal(number)
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, said, errors) == (128 + number, "", f"stopped by {int(number)}\n")
    # What was begun is kept, the claims are given back, and nothing is begun twice.
    assert kept(out) == {key for key, _ in trainings(out)}
    assert {path.name for path in out.iterdir()} == {"runs"}
    finish([start(out, 60, pause=0)], 60)
    assert len(trainings(out)) == 60


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, 60, pause=5)
    while not Path(f"{out}.log").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 3
    assert (process.returncode, errors) == (130, "stopped by 2\n")


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup, which lets a program live on when its terminal is closed."""
    code = (
        "import signal\n"
        "from hpr.system.signals import SIGNALS, Stopping, leave_quietly\n"
        "for number in SIGNALS:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "leave_quietly('line')\n"
        "with Stopping(str) as stopping:\n"
        "    for number in SIGNALS:\n"
        "        signal.raise_signal(number)\n"
        "    assert not stopping.asked()\n"
        "assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.parametrize("ready", [False, True])
def test_what_does_not_listen_is_ended_after_the_grace(ready: bool) -> None:
    """A program that is busy in a library, in the training or elsewhere, ends within the grace."""
    code = (
        "import sys, time\n"
        "from contextlib import suppress\n"
        "from hpr.system import signals\n"
        "signals.GRACE = 0.5\n"
        "with signals.Stopping(lambda number: f'line {number}') as stopping:\n"
        f"    with stopping.deferred() if {ready} else suppress(KeyboardInterrupt):\n"
        "        print('begun', flush=True); time.sleep(60)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (143, "line 15\n")


SLOW = """
import builtins, signal, time
handle, load, begun = signal.signal, builtins.__import__, []
def told(number, handler):
    found = handle(number, handler)
    if number == signal.SIGUSR1 and not begun:
        begun.append(print("begun", flush=True))
    return found
def slow(name, *rest, **options):
    found = load(name, *rest, **options)
    if begun and name.startswith("hpr."):
        time.sleep(0.1)
    return found
signal.signal, builtins.__import__ = told, slow
"""


@pytest.mark.parametrize("moment", [0.15, 0.4])
def test_an_interrupt_of_the_imports_is_one_line(tmp_path: Path, moment: float) -> None:
    """The package is imported slowly here, so that the moment is in its imports on any machine."""
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    searched = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "hpr.reproduce", *FIGURE, "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": searched},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores the signal, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (
        130,
        "hpr.reproduce: interrupted before anything was begun\n",
    )
    assert not (tmp_path / "out").exists()


def full(room: int, number: int, refusals: int) -> Callable[[Store, Record], Path]:
    """`Store.save` on a disk that takes so many records, refuses so many, and then takes all."""
    save, left = Store.save, [room, refusals]

    def limited(store: Store, record: Record) -> Path:
        if left[0] <= 0 and left[1] > 0:
            left[1] -= 1
            raise OSError(number, os.strerror(number))
        left[0] -= 1
        return save(store, record)

    return limited


def old_train(
    specs: Sequence[RunSpec], task: Any, *, device: Any, progress: Callable[[int], None]
) -> list[Record]:
    for spec in specs:
        support.note("start", spec)
    return [support.record_of(spec) for spec in specs]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("train", [support.train, old_train])
def test_a_full_disk_stops_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any, number: int
) -> None:
    monkeypatch.setattr(Store, "save", full(3, number, 10**9))
    with pytest.raises(
        OSError, match=r"runs can't be written: .*; make room and the same"
    ) as caught:
        support.carry(support.runs(60), tmp_path / "out", train=train)
    begun = len(trainings(tmp_path / "out"))
    # The first refusal ends it: in the network that was trained, or in the pack where the function can't be stopped.
    held = 1 if train is support.train else 17
    assert begun == 3 + held
    assert f"{held} finished runs could not be kept, 3 are there" in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")
    outcome = support.carry(support.runs(60), tmp_path / "out", train=train)
    assert len(outcome.records) == 60
    assert not outcome.failures
    assert len(trainings(tmp_path / "out")) == 60 + held


def test_records_that_a_full_disk_refused_are_saved_before_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "save", full(3, errno.ENOSPC, 1))
    with pytest.raises(OSError, match="every finished run is kept, 4 are there"):
        support.carry(support.runs(60), tmp_path / "out")
    assert len(kept(tmp_path / "out")) == 4


def test_an_executor_that_fails_at_its_end_loses_no_record_and_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a cluster whose scheduler goes away at this moment."""

    def lost(self: InProcess, *, stop: bool) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(InProcess, "close", lost)
    monkeypatch.setattr(Store, "save", full(3, errno.ENOSPC, 1))
    with pytest.raises(ConnectionError, match="gone"):
        support.carry(support.runs(60), tmp_path / "out")
    assert len(kept(tmp_path / "out")) == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"runs"}


def test_a_full_disk_is_one_line_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Store, "save", full(3, errno.ENOSPC, 10**9))
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert main([*FIGURE, "--out", str(out)], train=old_train) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hpr.reproduce: error: {out / 'runs'} can't be written: No space left")


@pytest.mark.parametrize("module", ["figures.draw", "figures.summary", "system.files"])
def test_a_full_disk_at_a_figure_or_the_report_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
) -> None:
    def refused(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    argv = [*FIGURE, "--out", str(out), "--workers", "1"]
    # The report finds the function where it is defined, the figures where they have imported it.
    monkeypatch.setattr(f"hpr.{module}.write_atomically", refused)
    assert main(argv, train=old_train) == 1
    name = {"figures.draw": "figure_1.png", "figures.summary": "figure_1.json"}.get(module)
    full = f"[Errno 28] No space left on device: '{out / (name or 'report.html')}'"
    assert capsys.readouterr().err == f"hpr.reproduce: error: {full}\n"
    monkeypatch.undo()
    assert main(argv, train=old_train) == 0
    assert (out / "report.html").is_file()


def failing(specs: Sequence[RunSpec], *_: Any, **__: Any) -> list[Record]:
    raise ZeroDivisionError("a fault")


@pytest.mark.nightly
def test_a_failure_is_kept_and_tried_again_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    argv = [*FIGURE, "--out", str(out)]
    assert main(argv, train=failing) == 1
    first = capsys.readouterr().err
    assert len(first.splitlines()) == 15
    files = sorted((out / "failures").iterdir())
    assert len(files) == 15
    written = json.loads(files[0].read_text())
    assert written["key"] == files[0].stem
    assert written["reason"] == "ZeroDivisionError: a fault"
    assert "Traceback" in written["traceback"]
    assert main(argv, train=old_train) == 1
    said = capsys.readouterr()
    assert said.err == first
    assert "15 failed before (see --retry-failed), 0 to train in 0 packs" in said.out
    assert main([*argv, "--retry-failed"], train=failing) == 1
    assert main([*argv, "--retry-failed"], train=old_train) == 0
    assert len(trainings(out)) == 15
    assert not (out / "failures").exists()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (MemoryError("no room"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), True),
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EACCES, "forbidden"), False),
        (ValueError("wrong"), False),
    ],
)
def test_failures_by_memory_and_disk_are_tried_again(error: Exception, again: bool) -> None:
    assert Failure.of("run", error).passing == again


@pytest.mark.parametrize("content", ["", "{}", "[" * 99_999, '{"what": 1}', "null"])
def test_a_failure_that_nobody_wrote_is_no_failure(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    (out / "failures").mkdir(parents=True)
    [spec] = support.runs(1)
    (out / "failures" / f"{spec.key}.json").write_text(content)
    assert support.carry([spec], out).records.keys() == {spec.key}
    assert not (out / "failures").exists()


@pytest.mark.parametrize(
    ("option", "given", "expected"),
    [
        ("--workers", "0", "an integer from 1 to 4096"),
        ("--checkpoint-period", "0", "an integer from 1 to 86400"),
        ("--cluster", "here", "tcp://HOST:PORT"),
    ],
)
def test_a_wrong_option_is_one_line(
    capsys: pytest.CaptureFixture[str], option: str, given: str, expected: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--all", option, given])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"hpr.reproduce: error: argument {option}: expected {expected}, got {given!r}\n"
    )


def test_a_line_per_minute_counts_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_progress, "MINUTE", 0.1)
    monkeypatch.setattr(support, "PAUSE", 0.1)
    said: list[str] = []
    # With few iterations the cost is that of the measures.
    specs = support.runs(10, iterations=1)
    support.carry(specs, tmp_path / "out", say=said.append)
    lines = [line for line in said if " of 10 runs, " in line]
    assert len(lines) >= 5
    shares = [int(line.split(" %")[0]) for line in lines]
    assert shares == sorted(shares)
    assert 20 <= shares[len(shares) // 2] <= 80
    assert " left" in lines[-1]
