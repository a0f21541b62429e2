"""Worker processes: what they train is what this process trains, and they and their parent may be killed."""

from __future__ import annotations

import multiprocessing
import operator
import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import runner_support as support
from test_several_at_once import check_records, finish, kept, start, trainings

from hpr.experiment.jobs import Job, longest_first
from hpr.experiment.plan import plan, tasks
from hpr.experiment.record import Record
from hpr.experiment.schedule import makespan
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.system.devices import Device

CPU = Device("cpu")
DIES, FAILS, LARGE = 1_000_001, 1_000_002, 1_000_003


def special(seed: int) -> RunSpec:
    return replace(support.runs(1)[0], seed=seed)


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # The first child is multiprocessing's own tracker of resources.
    return [
        int(child)
        for child in listed
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_worker_that_dies_takes_no_neighbour_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One network kills its process each time, one fails alone, and one needs a pack of its own for its memory."""
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")
    specs = [special(LARGE), *support.runs(6), *map(special, (DIES, FAILS))]
    out = tmp_path / "out"
    said: list[str] = []
    outcome = support.carry(specs, out, workers=2, device=CPU, say=said.append)
    assert outcome.records == {
        spec.key: support.record_of(spec) for spec in specs if spec.seed not in (DIES, FAILS)
    }
    reasons = {key: failure.reason for key, failure in outcome.failures.items()}
    assert reasons == {
        special(DIES).key: "the worker died (signal 9)",
        special(FAILS).key: "ValueError: this network fails",
    }
    assert any("the worker died (signal 9): " in line for line in said)
    assert any("MemoryError: no room: " in line for line in said)
    # Nothing here trained: the workers did.
    assert str(os.getpid()) not in {pid for _, pid in trainings(out)}
    # The next start tries what was killed, and not what failed by itself.
    before = len(trainings(out))
    again = support.carry([special(FAILS)], out)
    assert again.failures[special(FAILS).key].reason == "ValueError: this network fails"
    assert len(trainings(out)) == before


def test_killed_workers_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    parent = start(out, 24, "workers=2", pause=0.15)
    until(lambda: kept(out))
    killed = set()
    for _ in range(2):
        victim = children(parent.pid)[0]
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
        count = len(kept(out))
        until(lambda count=count: len(kept(out)) > count)
    finish([parent], 24)
    check_records(out, 24)
    assert len(trainings(out)) <= 24 + len(killed)


def test_a_record_that_cannot_be_read_back_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")
    monkeypatch.setenv("RUNNER_PAUSE", "0.3")
    specs, load = support.runs(6), Store.load

    def unreadable(store: Store, spec: RunSpec) -> Record | None:
        if spec == specs[0] and store.path(spec).exists():
            raise OSError("this file can't be read")
        return load(store, spec)

    monkeypatch.setattr(Store, "load", unreadable)
    said: list[str] = []
    outcome = support.carry(specs, tmp_path / "out", workers=2, say=said.append)
    assert outcome.records.keys() == {spec.key for spec in specs[1:]}
    reasons = {key: failure.reason for key, failure in outcome.failures.items()}
    assert reasons == {specs[0].key: "OSError: this file can't be read"}
    # It is no word of the worker's, which goes on.
    assert not [line for line in said if "died" in line]
    assert len(trainings(tmp_path / "out")) == len(specs)


def test_no_worker_is_left_where_nobody_reads_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `| head`. A pack that was in training has not failed."""
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")
    monkeypatch.setenv("RUNNER_PAUSE", "0.1")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) > 1:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        support.carry(support.runs(30), tmp_path / "out", workers=2, say=say)
    assert not multiprocessing.active_children()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"runs"}


def test_workers_that_die_at_their_start_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpr.experiment.worker_pool.serve", operator.is_)
    with pytest.raises(
        OSError, match=r"^workers can't be started: .* \(exit status 0\); --workers 1"
    ):
        support.carry(support.runs(4), tmp_path / "out", workers=2)
    # Claims are given back, and no process is left.
    assert not (tmp_path / "out" / "claims").exists()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param(signal.SIGHUP, marks=pytest.mark.nightly),
    ],
)
def test_workers_end_with_their_parent(tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    parent = start(out, 400, "workers=2", pause=0.1)
    until(lambda: kept(out))
    workers = children(parent.pid)
    assert len(workers) == 2
    if number == signal.SIGINT:
        # A terminal sends it to all of them.
        for worker in workers:
            os.kill(worker, signal.SIGINT)
    os.kill(parent.pid, number)
    said, errors = parent.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert parent.returncode == -signal.SIGKILL
    else:
        assert (parent.returncode, said) == (128 + number, "")
        assert errors == f"stopped by {int(number)}\n"
        # Everything that was trained is kept, since the stand-in is asked between two networks.
        assert kept(out) == {key for key, _ in trainings(out)}
        assert {path.name for path in out.iterdir()} == {"runs"}
    until(lambda: not any(map(alive, workers)), 10)


def test_what_cannot_be_sent_is_trained_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")

    def local(*arguments: object, **options: object) -> object:
        return support.train(*arguments, **options)  # type: ignore[arg-type]

    def simple(specs: list[RunSpec], task: object, *, device: object, progress: object) -> object:
        assert local
        return [support.record_of(spec) for spec in specs]

    outcome = support.carry(support.runs(3), tmp_path / "out", workers=2, train=simple)
    assert len(outcome.records) == 3


def test_there_is_a_pack_for_each_worker_and_the_dearest_are_halved() -> None:
    specs = [*support.runs(7), *support.runs(5, iterations=10**6), *support.runs(1, N=5)]
    for workers, sizes in {
        1: [7, 5, 1],
        3: [7, 5, 1],
        4: [7, 3, 2, 1],
        6: [7, 1, 1, 1, 2, 1],
        8: [4, 3, 1, 1, 1, 1, 1, 1],
        99: [1] * 13,
    }.items():
        planned = plan(specs, lambda _: False, support.task_of, CPU, workers)
        assert [len(pack) for pack in planned.packs] == sizes
        # The order stays.
        assert [spec for pack in planned.packs for spec in pack] == specs


def test_teachers_and_then_the_longest_packs_come_first() -> None:
    teacher = support.runs(1, keep_weights=True)[0]
    packs = [
        support.runs(2, iterations=20),
        support.runs(1, teacher=teacher, aligned="features", iterations=5),
        support.runs(1, iterations=10**6),
        [teacher],
    ]
    planned = plan([s for p in packs for s in p], lambda _: False, support.task_of, CPU)
    jobs = [Job("", *both) for both in zip(planned.packs, planned.costs, strict=True)]
    order = [packs.index(job.pack) for job in longest_first(jobs)]
    assert order == [3, 2, 0, 1]


def test_students_wait_for_their_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_LOG", f"{tmp_path / 'out'}.log")
    teacher = support.runs(1, keep_weights=True)[0]
    students = support.runs(4, teacher=teacher, aligned="features", iterations=5)
    given: list[object] = []

    def train(
        specs: list[RunSpec],
        task: object,
        *,
        device: object,
        progress: object,
        teachers: object = None,
    ) -> object:
        given.append(teachers)
        return [support.record_of(spec) for spec in specs]

    # The students are asked for first.
    support.carry([*students, teacher], tmp_path / "out", train=train)
    assert given == [None, {teacher.key: support.record_of(teacher)}]


def test_no_pack_waits_for_itself(tmp_path: Path) -> None:
    """Students that keep their weights have the shape of their teachers, and may have students themselves."""
    teacher, other = support.runs(2, keep_weights=True)
    students = support.runs(2, teacher=teacher, aligned="features", keep_weights=True)
    last = replace(students[0], teacher=students[1])
    specs = [last, *students, other, teacher]
    assert len({spec.shape for spec in specs}) == 1
    planned = plan(specs, lambda _: False, support.task_of, CPU)
    assert planned.packs == [[last], students, [other, teacher]]
    jobs = [Job("", *both) for both in zip(planned.packs, planned.costs, strict=True)]
    assert makespan(jobs, lambda job: 1.0, 2) == 3
    order: list[RunSpec] = []

    def train(specs: list[RunSpec], *_: object, **__: object) -> list[Record]:
        order.extend(specs)
        return [support.record_of(spec) for spec in specs]

    # Without end, where a pack waits for itself.
    carrying = partial(support.carry, specs, tmp_path / "out", train=train)
    thread = Thread(target=carrying, daemon=True)
    thread.start()
    thread.join(30)
    assert order == [other, teacher, *students, last]


def test_tasks_are_made_anew_in_another_process() -> None:
    of = tasks()
    spec = support.runs(1)[0]
    made = of(spec)
    assert of(spec) is made
    sent = pickle.loads(pickle.dumps(of))
    assert sent(spec) is not made
    assert sent(spec).name == "2AF"
