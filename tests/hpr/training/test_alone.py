"""One network that fails hurts no other: its error goes to `fail`, and each record is kept when it is made."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import ArpackNoConvergence

from hpr.connectivity import Dense, LowRank
from hpr.experiment.checkpoints import Checkpoints
from hpr.experiment.record import identity as record_identity
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training import course, evaluation, initial
from hpr.training.loop import Stopped, train_pack
from hpr.training.watch import Watch

CPU = torch.device("cpu")
SMALL = RunSpec(
    "2AF", Dense(), seed=0, N=32, batch=8, iterations=130, trials=16, kernel_trials=4, checkpoints=3
)
DIGITS = replace(SMALL, task="sDigits", task_version="1", batch=32, checkpoints=0)
TEACHER = replace(DIGITS, seed=7, iterations=20, keep_weights=True)
Failures = dict[RunSpec, Exception]


def identity(record: dict[str, Any]) -> str:
    return json.dumps(record_identity(record), sort_keys=True)


def train(runs: list[RunSpec], **options: Any) -> list[dict[str, Any]]:
    task = make_task(runs[0].task, version=runs[0].task_version)
    return train_pack(runs, task, device=CPU, **options)


def trained(runs: list[RunSpec], **options: Any) -> tuple[list[dict[str, Any]], Failures]:
    failures: Failures = {}
    return train(runs, fail=failures.__setitem__, **options), failures


def seeds(*found: int, **change: Any) -> list[RunSpec]:
    return [replace(SMALL, seed=seed, **change) for seed in found]


def assert_alone(runs: list[RunSpec], bad: list[RunSpec], error: str) -> None:
    """The runs `bad` fail by `error`, and the others are as without them."""
    records, failures = trained(runs)
    assert list(failures) == bad
    for failure in failures.values():
        assert re.match(error, f"{type(failure).__name__}: {failure}"), failure
        assert "\n" not in str(failure)
    good = [run for run in runs if run not in bad]
    assert [identity(r) for r in records] == [identity(r) for r in train(good)]
    with pytest.raises(type(next(iter(failures.values())))):
        train(runs)


def test_rates_that_overflow_in_the_first_evaluation() -> None:
    runs = seeds(0, 1, 2)
    runs[1] = replace(runs[1], connectivity=Dense(gain=1e8))
    assert_alone(runs, runs[1:2], "Diverged: rates not finite")


def test_a_matrix_that_is_zero() -> None:
    runs = seeds(0, 1, 2)
    runs[0] = replace(runs[0], connectivity=LowRank(rank=2, gain=1e-310))
    assert_alone(runs, runs[:1], "ValueError: rescale: expected a matrix with a non-zero")


def test_a_draw_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = initial._draw

    def failing(spec: RunSpec, *more: Any) -> Any:
        if spec.seed == 1:
            raise np.linalg.LinAlgError("SVD did not converge")
        return draw(spec, *more)

    monkeypatch.setattr(initial, "_draw", failing)
    runs = seeds(0, 1, 2)
    assert_alone(runs, runs[1:2], "LinAlgError: SVD did not converge")


def test_eigenvalues_that_do_not_converge_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = evaluation.effective_rank
    bad = float(np.abs(train(seeds(1))[0]["measures"]["connectivity_effective_rank_singular"]))

    def failing(W: Any, *, singular: bool = False) -> float:
        found = ranks(W, singular=singular)
        if singular and found == bad:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return found

    monkeypatch.setattr(evaluation, "effective_rank", failing)
    runs = seeds(0, 1, 2)
    assert_alone(runs, runs[1:2], "LinAlgError: Eigenvalues did not converge")


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_point_of_the_trajectory_that_fails(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network leaves in the midst of a window."""
    monkeypatch.setenv("HPR_KERNELS_BACKEND", backend)
    observe = course.Course.observe

    def failing(self: course.Course, pack: Any) -> None:
        if self.spec.seed == 1 and self.learner.step > 1:
            raise ArpackNoConvergence("no convergence (%s of %s)", np.zeros(0), np.zeros(0))
        observe(self, pack)

    monkeypatch.setattr(course.Course, "observe", failing)
    runs = seeds(0, 1, 2)
    assert_alone(runs, runs[1:2], "ArpackNoConvergence: ")


def test_a_teacher_that_diverged() -> None:
    """Its students fail, each by the same reason, and the teacher is trained once."""
    bad = replace(TEACHER, connectivity=Dense(gain=1e30))
    runs = [replace(DIGITS, teacher=t, seed=s) for s in (0, 1) for t in (TEACHER, bad)]
    assert_alone(runs, runs[1::2], "ValueError: teacher: expected a trained network, got ")


def test_a_structure_that_draws_other_weights_than_it_was_bound_with() -> None:
    runs = seeds(0, 1, 2)
    runs[2] = replace(runs[2], drawn="0" * 16)
    assert_alone(runs, runs[2:], "ValueError: drawn: expected None, what ")


def test_all_may_fail() -> None:
    runs = seeds(0, 1, connectivity=Dense(gain=1e8))
    records, failures = trained(runs)
    assert records == []
    assert list(failures) == runs
    records, failures = trained(seeds(0, 1, drawn="0" * 16))
    assert records == []
    assert len(failures) == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
        Stopped("asked"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["draw", "start", "measure", "keep"])
def test_missing_memory_concerns_the_pack(
    error: Exception, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any, **named: Any) -> Any:
        raise error

    keep = failing if where == "keep" else None
    if where == "draw":
        monkeypatch.setattr(initial, "_draw", failing)
    elif where != "keep":
        monkeypatch.setattr(course.Course, where, failing)
    with pytest.raises(type(error)) as caught:
        trained(seeds(0, 1, iterations=5, checkpoints=0), keep=keep)
    assert caught.value is error


def test_records_are_kept_when_their_runs_leave() -> None:
    """A run that stopped early and one that diverged are kept before the others have ended."""
    # After 200 iterations the accuracies are 0.45 and 0.14, and after 300 the slow one has 0.31.
    base = replace(DIGITS, iterations=300, stop_accuracy=0.4)
    slow = replace(base, connectivity=Dense(gain=0.01))
    fast = replace(base, connectivity=Dense(gain=1.5))
    diverging = replace(base, connectivity=Dense(gain=1e30))
    runs, passed = [slow, fast, diverging], [0]
    kept: dict[RunSpec, tuple[int, dict[str, Any]]] = {}

    def keep(spec: RunSpec, record: dict[str, Any]) -> None:
        kept[spec] = (passed[0], record)

    def progress(iterations: int) -> None:
        passed[0] += iterations

    records = train(runs, keep=keep, progress=progress)
    assert [record["status"] for record in records] == ["finished", "stopped", "diverged"]
    assert list(kept) == [diverging, fast, slow]
    assert [kept[run][1] for run in runs] == records
    assert kept[diverging][0] < kept[fast][0] < kept[slow][0] == 300


@pytest.mark.parametrize("with_fail", [True, False])
def test_a_record_that_cannot_be_kept_loses_no_other(
    with_fail: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint stays, from which a later call has only to measure it again."""
    runs, folder = seeds(0, 1, 2), Checkpoints(tmp_path)
    kept: list[RunSpec] = []
    full = OSError(28, "No space left on device")

    def keep(spec: RunSpec, record: dict[str, Any]) -> None:
        if spec.seed == 0 and full is not None:
            raise full
        kept.append(spec)

    if with_fail:
        records, failures = trained(runs, keep=keep, checkpoints=folder)
        assert failures == {runs[0]: full}
        assert len(records) == 3
    else:
        with pytest.raises(OSError, match="No space left on device"):
            train(runs, keep=keep, checkpoints=folder)
    assert kept == runs[1:]
    assert list(tmp_path.iterdir()) == [folder.path(runs[0])]

    def untrained(*arguments: Any) -> Any:
        raise AssertionError("the run was trained again")

    whole = train(runs[:1])
    monkeypatch.setattr("hpr.training.cohort.Cohort.advance", untrained)
    (again,) = train(runs[:1], checkpoints=folder)
    assert identity(again) == identity(whole[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_fail", [True, False])
def test_what_was_trained_before_a_measure_failed_is_not_trained_again(
    with_fail: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for the run that failed, and for the others where the error is raised."""
    runs, folder = seeds(0, 1, 2), Checkpoints(tmp_path)
    measure = course.Course.measure

    def failing(self: course.Course, task: Any) -> Any:
        if self.spec.seed == 1:
            raise ZeroDivisionError("a measure of your own")
        return measure(self, task)

    with monkeypatch.context() as patched:
        patched.setattr(course.Course, "measure", failing)
        if with_fail:
            records, failures = trained(runs, checkpoints=folder)
            assert (len(records), list(failures)) == (2, runs[1:2])
        else:
            with pytest.raises(ZeroDivisionError):
                train(runs, checkpoints=folder)
    left = runs[1:2] if with_fail else runs[1:]
    assert sorted(tmp_path.iterdir()) == sorted(folder.path(spec) for spec in left)
    passed: list[int] = []
    records = train(left, checkpoints=folder, progress=passed.append)
    assert passed == [SMALL.iterations]
    assert [identity(record) for record in records] == [identity(r) for r in train(left)]


def test_a_diverged_run_that_could_not_be_kept_is_not_trained_again(tmp_path: Path) -> None:
    run, folder = replace(DIGITS, connectivity=Dense(gain=1e30)), Checkpoints(tmp_path)

    def full(spec: RunSpec, record: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    (record,), failures = trained([run], keep=full, checkpoints=folder)
    assert record["status"] == "diverged"
    assert list(failures) == [run]
    passed: list[int] = []
    (again,) = train([run], checkpoints=folder, progress=passed.append)
    assert passed == [run.iterations]
    assert identity(again) == identity(record)


def test_an_error_within_an_iteration_writes_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some networks may have taken their step, and others not."""
    monkeypatch.setattr(Watch, "count", lambda self, most, unit: min(most, 30))
    runs, folder = seeds(0, 1), Checkpoints(tmp_path)
    whole = [identity(record) for record in train(runs)]
    task = make_task("2AF")
    draw = task._draw

    def failing(seed: int, start: int, *more: Any) -> Any:
        if start >= 60:
            raise RuntimeError("no trials")
        return draw(seed, start, *more)

    with monkeypatch.context() as patched:
        patched.setattr(task, "_draw", failing)
        with pytest.raises(RuntimeError, match="no trials"):
            train_pack(runs, task, device=CPU, checkpoints=folder)
    assert list(tmp_path.iterdir()) == []
    assert [identity(record) for record in train(runs, checkpoints=folder)] == whole
