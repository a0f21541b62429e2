"""Several processes on one folder, some of which are killed: each run is trained once, and none is lost."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import runner_support as support

from hpr.experiment.failures import Failures
from hpr.experiment.run_claims import Claims
from hpr.experiment.run_outcome import Failure
from hpr.experiment.store import Store

SCRIPT = Path(support.__file__)


def start(out: Path, count: int, *options: str, pause: float = 0.01) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out), str(count), *options],
        env={**os.environ, "RUNNER_PAUSE": str(pause)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trainings(out: Path) -> list[tuple[str, int]]:
    """The key and the process of each training that began, in order."""
    lines = Path(f"{out}.log").read_text().split("\n")[:-1]
    return [(key, int(pid)) for _, key, pid in (line.split() for line in lines)]


def check_counts(out: Path, count: int, killed: set[int]) -> None:
    """Every run was trained, and again only where the process that trained it had been killed."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for key, pid in trainings(out):
        by_key[key].append(pid)
    assert by_key.keys() == {spec.key for spec in support.runs(count)}
    for pids in by_key.values():
        assert set(pids[:-1]) <= killed
    # The stand-in trains one network at a time, and a kill loses no other.
    assert sum(map(len, by_key.values())) <= count + len(killed)


def check_records(out: Path, count: int) -> None:
    store = Store(out)
    for spec in support.runs(count):
        assert store.load(spec) == support.record_of(spec)
    assert len(list(store.runs.iterdir())) == count
    assert {path.name for path in out.iterdir()} == {"runs"}


def finish(processes: Sequence[subprocess.Popen[str]], count: int) -> None:
    for process in processes:
        said, errors = process.communicate(timeout=100)
        assert (process.returncode, said, errors) == (0, f"complete {count} 0\n", "")


def kept(out: Path) -> set[str]:
    return {path.stem for path in (out / "runs").glob("[!.]*.json")}


def killed_at_random(out: Path, count: int, processes: int, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    running = [start(out, count) for _ in range(processes)]
    killed, before = set(), -1
    moments = []
    while len(killed) < kills:
        # Each kill follows some progress, so that the runs last for all of them.
        while len(kept(out)) <= before or not Path(f"{out}.log").exists():
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        victim = rng.choice(running)
        running.remove(victim)
        victim.kill()
        victim.wait()
        killed.add(victim.pid)
        moments.append((kept(out), len(trainings(out))))
        running.append(start(out, count))
        before = len(moments[-1][0])
        for pipe in (victim.stdout, victim.stderr):
            assert pipe is not None
            pipe.close()
    finish(running, count)
    check_counts(out, count, killed)
    # What is in the store is not begun again.
    for stored, begun in moments:
        assert not stored & {key for key, _ in trainings(out)[begun:]}
    check_records(out, count)


@pytest.mark.parametrize("processes", [2, 3])
def test_random_kills_lose_nothing_and_nothing_is_trained_twice(
    tmp_path: Path, processes: int
) -> None:
    killed_at_random(tmp_path / "out", 90, processes, 4, seed=processes)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_many_random_kills(tmp_path: Path, processes: int, seed: int) -> None:
    killed_at_random(tmp_path / "out", 300, processes, 20, seed=100 * processes + seed)


def test_a_process_waits_for_what_another_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claims are of a live process, here of another machine, whose records come while this one waits."""
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")
    specs = support.runs(5)
    out = tmp_path / "out"
    other = Claims(out / "claims")
    for spec in specs[:3]:
        assert other.take(spec.key)
    said = []

    def say(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            for spec in specs[:2]:
                Store(out).save(support.record_of(spec))
                other.give_back(spec.key)
            # This one was given up.
            other.give_back(specs[2].key)

    outcome = support.carry(specs, out, say=say)
    assert outcome.records.keys() == {spec.key for spec in specs}
    assert [key for key, _ in trainings(out)] == [spec.key for spec in (*specs[3:], specs[2])]
    assert sum("3 runs are being trained elsewhere" in line for line in said) == 1
    other.close()


@pytest.mark.parametrize("failed", [False, True])
def test_what_nfs_remembers_as_missing_is_not_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    """A file that was missing stays so for this process until it opens the folder, as on NFS for up to a minute."""
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")
    specs = support.runs(3)
    out = tmp_path / "out"
    other = Claims(out / "claims")
    for spec in specs:
        assert other.take(spec.key)
    failures = Failures(out / "failures")
    missing: set[Path] = set()

    def remembering(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Any, *arguments: Any, **options: Any) -> Any:
            where = Path(os.fsdecode(path)) if isinstance(path, str | os.PathLike) else Path()
            if where in missing:
                raise FileNotFoundError(errno.ENOENT, "remembered as missing", str(path))
            try:
                found = call(path, *arguments, **options)
            except FileNotFoundError:
                if where.parent in (out / "runs", out / "failures"):
                    missing.add(where)
                raise
            if call is opened:
                missing.difference_update({each for each in missing if each.parent == where})
            return found

        return called

    def say(line: str) -> None:
        if "waiting" in line:
            for spec in specs:
                # It was looked for before it is there.
                assert Store(out).load(spec) is None
                assert failures.since(spec) is None
                if failed:
                    failures.keep(spec, Failure.of(str(spec), ValueError("it fails")))
                else:
                    Store(out).save(support.record_of(spec))
                other.give_back(spec.key)

    opened = os.open
    monkeypatch.setattr(os, "open", remembering(os.open))
    monkeypatch.setattr(os, "stat", remembering(os.stat))
    outcome = support.carry(specs, out, say=say)
    assert (outcome.failures if failed else outcome.records).keys() == {s.key for s in specs}
    assert not Path(f"{out}.log").exists()
    other.close()


def test_a_suspended_process_is_not_waited_for_and_does_no_harm(tmp_path: Path) -> None:
    out = tmp_path / "out"
    suspended = start(out, 10, "expiry=1", pause=0.3)
    while not Path(f"{out}.log").exists():
        time.sleep(0.01)
    os.kill(suspended.pid, signal.SIGSTOP)
    other = start(out, 10, "expiry=1", pause=0)
    finish([other], 10)
    assert kept(out) == {spec.key for spec in support.runs(10)}
    os.kill(suspended.pid, signal.SIGCONT)
    finish([suspended], 10)
    check_records(out, 10)


def test_a_folder_that_is_removed_while_running_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, 30, pause=0.05)
    while not kept(out):
        time.sleep(0.01)
    out.rename(tmp_path / "removed")
    finish([process], 30)
    lost = {spec.key for spec in support.runs(30)} - kept(out)
    assert 0 < len(lost) < 30
    begun = len(trainings(out))
    finish([start(out, 30, pause=0)], 30)
    assert {key for key, _ in trainings(out)[begun:]} == lost
    check_records(out, 30)


def test_what_killed_processes_left_of_a_record_goes_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")
    first, second = support.runs(2)
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    for name in (f".{first.key}.json.0.tmp", f".{second.key}.json.0.tmp", ".mine.tmp"):
        (out / "runs" / name).write_text("{")
    support.carry([first], out)
    assert {path.name for path in (out / "runs").iterdir()} == {
        f"{first.key}.json", f".{second.key}.json.0.tmp", ".mine.tmp",
    }  # fmt: skip
