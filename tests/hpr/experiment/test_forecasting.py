"""A forecast is made of timings of a few packs, of the costs of the others, and of the schedule."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from hpr.connectivity import Dense, LowRank
from hpr.experiment.early_stops import known_iterations
from hpr.experiment.forecasting import foresee
from hpr.experiment.plan import Plan, pack_cost, plan, tasks
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.experiment.speed import PackTiming, Speed
from hpr.experiment.store import Store
from hpr.system.devices import Device

TASKS = tasks()
SMALL = RunSpec("2AF", Dense(), 0, N=50, iterations=100, checkpoints=4)
LARGE = replace(SMALL, N=200, iterations=300, checkpoints=0)
TIMING = PackTiming(
    task=2.0, loading=4.0, draw=0.5, iteration=0.01, measures=3.0, point=0.25, memory=7e8
)


def seeds(spec: RunSpec, count: int) -> list[RunSpec]:
    return [spec.at_seed(seed) for seed in range(count)]


def left_of(*specs: RunSpec, workers: int = 1) -> Plan:
    return plan(specs, lambda _: False, TASKS, Device("cpu"), workers)


def speed_of(*specs: RunSpec, timing: PackTiming = TIMING) -> Speed:
    return Speed(
        {spec.shape: timing for spec in specs},
        {spec.shape: pack_cost([spec], TASKS) for spec in specs},
        start=10.0,
        base=2e8,
    )


def all_iterations(spec: RunSpec) -> float:
    return float(spec.iterations)


def test_one_process_adds_up_what_was_timed() -> None:
    found = foresee(left_of(*seeds(SMALL, 3)), speed_of(SMALL), 1, all_iterations)
    # Three runs of a draw, 100 iterations, the measures and 4 points.
    assert found.seconds == pytest.approx(10 + 4 + 2 + 3 * (0.5 + 1 + 3 + 1))
    assert not found.at_most
    assert (found.worker_memory, found.memory) == (7e8, 7e8)


def test_workers_start_after_the_program_and_share_the_packs() -> None:
    left = left_of(*seeds(SMALL, 3), workers=2)
    assert [len(pack) for pack in left.packs] == [2, 1]
    found = foresee(left, speed_of(SMALL), 2, all_iterations)
    # The program and then the worker start and make the task; the worker alone measures.
    assert found.seconds == pytest.approx(2 * (10 + 2) + 4 + 2 * 5.5)
    assert (found.worker_memory, found.memory) == (7e8, 2 * 7e8 + 2e8)
    # A worker without a pack is no more than that.
    assert foresee(left, speed_of(SMALL), 9, all_iterations).memory == found.memory


def test_what_was_not_timed_is_scaled_by_its_flops() -> None:
    speed = speed_of(SMALL)
    small, large = (pack_cost([spec], TASKS) for spec in (SMALL, LARGE))
    found = speed.of(LARGE.shape, large)
    per_iteration = [cost.training_flops / n for cost, n in ((small, 100), (large, 300))]
    assert found.iteration == pytest.approx(0.01 * per_iteration[1] / per_iteration[0])
    # The small runs take six kernels and the large ones two.
    assert found.measures == pytest.approx(3 * (large.kernel_flops / 2) / (small.kernel_flops / 6))
    assert speed.of(SMALL.shape, small) is TIMING


def test_the_nearest_kind_of_the_same_model_is_scaled() -> None:
    other = replace(LARGE, N=180)
    twice = replace(TIMING, iteration=0.02)
    speed = replace(speed_of(SMALL, other), timings={SMALL.shape: TIMING, other.shape: twice})
    ratio = (200 / 180) ** 2
    assert speed.of(LARGE.shape, pack_cost([LARGE], TASKS)).iteration == pytest.approx(
        0.02 * ratio, rel=0.01
    )
    layers = RunSpec(
        "student-teacher(d=5,kappa=3)", Dense(), 0, task_version="1", model="two_layer", N=200
    )
    near = replace(layers, N=300)
    speed = replace(speed_of(LARGE, near), timings={LARGE.shape: TIMING, near.shape: twice})
    assert speed.of(layers.shape, pack_cost([layers], TASKS)).iteration == pytest.approx(
        0.02 * 200 / 300
    )


def test_without_timings_a_rate_is_assumed() -> None:
    left = left_of(*seeds(LARGE, 2))
    found = foresee(left, Speed(rate=1e9), 1, all_iterations)
    assert found.seconds == pytest.approx(left.flops / 1e9)
    assert found.memory == left.memory


def test_nothing_left_takes_no_time() -> None:
    found = foresee(left_of(), speed_of(SMALL), 2, all_iterations)
    assert (found.seconds, found.memory, found.at_most) == (0.0, 2e8, False)


def test_runs_that_may_stop_take_what_finished_ones_took(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stopping = replace(SMALL, stop_accuracy=0.9, checkpoints=0)
    other = replace(stopping, connectivity=LowRank(rank=2))
    asked = [*seeds(stopping, 4), *seeds(other, 2), replace(LARGE, stop_accuracy=None)]
    for spec, iterations in zip(asked, (40, 60), strict=False):
        store.save(record_of(spec, iterations))
    # A damaged record tells nothing, and stays in its place.
    damaged = store.path(asked[2])
    damaged.write_text("{")
    left = plan(asked, store.__contains__, TASKS, Device("cpu"))
    assert left.stored == 2
    iterations = known_iterations(asked, left, store)
    assert iterations(asked[3]) == 50.0
    assert iterations(asked[4]) is None
    assert iterations(asked[6]) == 300.0
    assert damaged.read_text() == "{"

    found = foresee(left, speed_of(SMALL), 1, iterations)
    assert found.at_most
    known = foresee(left, speed_of(SMALL), 1, lambda spec: iterations(spec) or spec.iterations)
    assert not known.at_most
    assert known.seconds == found.seconds
    slower = foresee(left, speed_of(SMALL), 1, all_iterations)
    # Two runs that are left have stopped early elsewhere.
    per_iteration = speed_of(SMALL).of(stopping.shape, pack_cost([stopping], TASKS)).iteration
    assert slower.seconds - found.seconds == pytest.approx(2 * 50 * per_iteration)


def record_of(spec: RunSpec, iterations: int) -> Record:
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "stopped",
        "iterations": iterations,
        "curves": {},
        "measures": {"final_loss": math.pi},
        "flags": [],
        "provenance": {},
        "timings": {},
    }
