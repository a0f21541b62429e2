"""A dry run times packs in processes of their own, and foresees what the run then does."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from hpr.connectivity import Dense, LowRank
from hpr.experiment import kinds
from hpr.experiment.plan import Plan, plan, tasks
from hpr.experiment.specification import RunSpec
from hpr.experiment.speed import Base, PackTiming, Request
from hpr.experiment.store import Store
from hpr.run import main
from hpr.system.devices import Device
from hpr.training import outlook, timing_processes
from hpr.training.evaluation import evaluation
from hpr.training.outlook import ahead
from hpr.training.timing import _iterating, timings

SPEC = RunSpec("2AF", LowRank(rank=2), 0, N=20, batch=4, iterations=200, trials=8, kernel_trials=4)
STUDENT = {
    "task": "student-teacher(d=5,kappa=3)", "task_version": "1", "model": "two_layer",
}  # fmt: skip


def planned(*specs: RunSpec, workers: int = 1) -> Plan:
    return plan(specs, lambda _: False, tasks(), Device("cpu"), workers)


def test_a_process_times_each_kind() -> None:
    other = RunSpec(connectivity=Dense(), seed=0, N=30, iterations=50, checkpoints=3, **STUDENT)  # type: ignore[arg-type]
    unknown = RunSpec("no-such-task-v0", Dense(), 0, N=10)
    request = Request([[SPEC, SPEC.at_seed(1)], [unknown], [other]], tasks(), "cpu", 1, 60.0)
    base, *found = timings(request)
    assert isinstance(base, Base)
    (_, first), (_, failed), (_, last) = found
    assert [place for place, _ in found] == [0, 1, 2]
    assert isinstance(first, PackTiming)
    assert isinstance(last, PackTiming)
    assert isinstance(failed, str)
    assert "no-such-task-v0" in failed
    for timing in (first, last):
        assert 0 < timing.iteration < timing.measures < 60
        assert timing.memory >= base.memory > 2**25
    assert last.loading == 0
    assert first.point == 0
    assert last.point > 0


def test_networks_with_biases_are_timed() -> None:
    pack = [replace(SPEC, connectivity=Dense(), cell="gru", bias=True)]
    _, (_, found) = timings(Request([pack], tasks(), "cpu", 1, 60.0))
    assert isinstance(found, PackTiming)


@pytest.mark.parametrize(("long", "most"), [(0.0, 2), (math.inf, 4)])
def test_a_large_kernel_is_timed_with_half_of_its_trials(
    monkeypatch: pytest.MonkeyPatch, long: float, most: int
) -> None:
    trials: list[int] = []

    def recorded(spec: RunSpec, *rest: Any) -> Any:
        trials.append(spec.kernel_trials)
        return evaluation(spec, *rest)

    monkeypatch.setattr("hpr.training.timing.evaluation", recorded)
    monkeypatch.setattr("hpr.training.timing.LONG", long)
    spec = replace(SPEC, checkpoints=2)
    _, (_, found) = timings(Request([[spec]], tasks(), "cpu", 1, 60.0))
    assert isinstance(found, PackTiming)
    assert max(trials) == most
    assert 0 < found.point < found.measures < 60


def test_a_process_that_times_does_not_import_torchs_compiler() -> None:
    program = (
        "import sys\n"
        "from test_outlook import SPEC, Request, tasks\n"
        "from hpr.training.timing import timings\n"
        "_, (_, found) = timings(Request([[SPEC]], tasks(), 'cpu', 1, 60.0))\n"
        "assert found.measures\n"
        "assert not {'sympy', 'torch._dynamo'} & set(sys.modules)\n"
    )
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=where
    )
    assert done.returncode == 0, done.stderr


def test_the_first_kind_alone_is_begun_when_the_time_is_over() -> None:
    others = [[SPEC.at_seed(seed)] for seed in range(3)]
    base, *found = timings(Request(others, tasks(), "cpu", 1, -1.0, first=2))
    assert isinstance(base, Base)
    assert [place for place, _ in found] == [2]


def test_a_process_may_begin_with_another_kind() -> None:
    others = [[SPEC.at_seed(seed)] for seed in range(3)]
    _, *found = timings(Request(others, tasks(), "cpu", 1, 60.0, first=1))
    assert [place for place, _ in found] == [1, 2, 0]


def test_the_costliest_kinds_are_timed() -> None:
    sizes = [10, 20, 40, 80, 160, 320, 640, 1280]
    left = planned(*(RunSpec("2AF", Dense(), seed, N=N) for N in sizes for seed in range(3)))
    chosen = kinds.costliest(left, mnist_there=True)
    # The first two have 94 % of the FLOPs.
    assert [pack[0].N for pack in chosen] == [1280, 640, 320]
    assert [len(pack) for pack in chosen] == [3, 3, 3]
    equal = planned(*(RunSpec("2AF", Dense(), 0, N=100, learning_rate=x) for x in range(1, 10)))
    assert len(kinds.costliest(equal, mnist_there=True)) == kinds.KINDS


def test_what_must_be_downloaded_is_not_timed() -> None:
    rows = RunSpec("sMNIST", Dense(), 0, task_version="1")
    left = planned(rows, SPEC)
    assert [pack[0].task for pack in kinds.costliest(left, mnist_there=False)] == ["2AF"]
    assert [pack[0].task for pack in kinds.costliest(left, mnist_there=True)] == ["sMNIST"]


def test_a_dry_run_times_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--task", STUDENT["task"], "--model", "two_layer", "--task-version", "1", "--N", "30"]
    words += ["--iterations", "100", "--seeds", "4", "--workers", "2", "--device", "cpu"]
    assert main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"4 to train in 2 packs: .*, about \d+ s at .*, \d+ MB$", lines[-2])
    assert re.fullmatch(
        r"2 workers, \d+ MB each; a start now ends about \d{4}-\d\d-\d\d \d\d:\d\d; "
        r"1 of 1 kind of packs timed by 2 processes at once in \d+ s",
        lines[-1],
    )
    assert main([*words, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["workers"], told["timed_kinds"], told["at_most"]) == (2, 1, False)
    assert told["flops_per_s"] == pytest.approx(told["flops"] / told["seconds"])
    # Torch alone takes this much.
    assert told["memory_bytes"] > 2 * told["worker_memory_bytes"] > 2e8
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_timed_a_speed_is_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that knows no module of this project.
    monkeypatch.setattr(timing_processes, "PROGRAM", "raise SystemExit(1)")
    found = ahead([SPEC], Store(tmp_path), tasks(), Device("cpu"))
    assert found.lines()[-1].endswith(
        "speed and memory of a process are assumed, since no pack could be timed"
    )
    assert found.forecast.seconds > 0
    assert found.plain()["timed_kinds"] == 0


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_processes, "PROGRAM", "import time; time.sleep(1000)")
    monkeypatch.setattr(timing_processes, "LONGEST", 0.5)
    started = time.monotonic()
    assert timing_processes.timed_here(Request([[SPEC]], tasks(), "cpu", 1, 1.0), 2) == (0.0, [])
    assert time.monotonic() - started < 60


def test_a_task_that_can_not_be_sent_is_not_timed() -> None:
    def task_of(spec: RunSpec) -> Any:
        return tasks()(spec)

    request = Request([[SPEC]], task_of, "cpu", 1, 1.0)
    assert timing_processes.timed_here(request, 1) == (0.0, [])


def test_nothing_is_timed_where_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was timed")

    monkeypatch.setattr(outlook, "calibrated", refuse)
    found = ahead([], Store(tmp_path), tasks(), Device("cpu"))
    assert len(found.lines()) == 1
    assert found.forecast.seconds == 0.0


def test_the_planning_process_does_not_import_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from hpr.experiment.plan import tasks\n"
        "from hpr.experiment.specification import RunSpec\n"
        "from hpr.connectivity import Dense\n"
        "from hpr.experiment.store import Store\n"
        "from hpr.system.devices import Device\n"
        "from hpr.training.outlook import ahead\n"
        f"spec = RunSpec('student-teacher(d=5,kappa=3)', Dense(), 0, task_version='1', N=9)\n"
        f"print(len(ahead([spec], Store({str(tmp_path)!r}), tasks(), Device('cpu')).speed.timings))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_the_fixed_cost_of_a_window_is_not_counted_for_each_iteration() -> None:
    class Slow:
        def window(self, specs: Any, start: int, count: int) -> tuple[torch.Tensor, None]:
            time.sleep(0.02 + 1e-4 * count)
            return torch.zeros(1), None

    count, seconds = _iterating(cast(Any, Slow()), [], 1)
    assert seconds / count < 1e-3
