"""Runs with trajectories, teachers and regressions give records that depend on their specification alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hpr.connectivity import Dale, Dense, LowRank
from hpr.experiment import store
from hpr.experiment.execution import run_local
from hpr.experiment.plan import tasks
from hpr.experiment.record import identity as record_identity
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training.course import checkpoints
from hpr.training.initial import initial_pack
from hpr.training.loop import train_pack
from hpr.training.pack import tangent_kernel

CPU = torch.device("cpu")
# Vectors divide these widths: with others some matrix libraries round by a matrix's place in the pack.
DIGITS = RunSpec(
    "sDigits", LowRank(rank=5), seed=0, task_version="1", N=32, batch=32, iterations=130, trials=40,
    kernel_trials=8, checkpoints=5,
)  # fmt: skip
STUDENT = RunSpec(
    "student-teacher(d=16,kappa=3)", Dense(gain=0.1), seed=0, task_version="1", N=32, batch=32,
    iterations=60, model="two_layer", activation="linear", readout_deviation=0.1, momentum=0.0,
    trials=32, kernel_trials=32, checkpoints=4,
)  # fmt: skip
PATTERN = RunSpec(
    "pattern generation", LowRank(rank=3), seed=0, task_version="1", dt=50, N=32, batch=1,
    iterations=30, trials=1, kernel_trials=1,
)  # fmt: skip
DALE = RunSpec(
    "2AF", Dale(dale_throughout=True), seed=0, N=32, iterations=30, trials=32, kernel_trials=8
)
KEPT = replace(DIGITS, seed=1000, keep_weights=True, checkpoints=0)


def train(spec: RunSpec, **more: Any) -> dict[str, Any]:
    (record,) = train_pack([spec], make_task(spec.task, dt=spec.dt), device=CPU, **more)
    return record


def identity(record: dict[str, Any]) -> str:
    return json.dumps(record_identity(record), sort_keys=True)


@pytest.mark.parametrize(
    ("iterations", "points", "expected"),
    [(100, 3, [0, 1, 10, 100]), (10, 50, [0, *range(1, 11)]), (7, 1, [0, 1]), (7, 0, [0])],
)
def test_points_are_evenly_spaced_in_log_iterations(
    iterations: int, points: int, expected: list[int]
) -> None:
    assert checkpoints(replace(DIGITS, iterations=iterations, checkpoints=points)) == expected


@pytest.mark.parametrize("spec", [DIGITS, STUDENT], ids=["sDigits", "student"])
def test_a_trajectory_goes_from_the_first_measures_to_the_last(spec: RunSpec) -> None:
    record = train(spec)
    course, measures = record["trajectory"], record["measures"]
    assert course["iteration"] == checkpoints(spec)
    assert course["iteration"][-1] == spec.iterations
    for name in (
        "kernel_effective_rank",
        "task_kernel_alignment",
        "centred_kernel_alignment",
    ):
        assert course[name][0] == measures[f"{name}_initial"]
        assert course[name][-1] == measures[f"{name}_final"]
    assert course["kernel_alignment"][0] == pytest.approx(1)
    assert course["kernel_alignment"][-1] == measures["kernel_alignment"]
    assert len(set(course["kernel_alignment"])) == len(course["iteration"])


def test_a_point_is_what_a_run_of_that_length_ends_with() -> None:
    course = train(DIGITS)["trajectory"]
    [place] = [i for i, k in enumerate(course["iteration"]) if 1 < k < 10]
    short = train(replace(DIGITS, iterations=course["iteration"][place], checkpoints=0))
    assert "trajectory" not in short
    assert short["measures"]["kernel_alignment"] == course["kernel_alignment"][place]


def test_measuring_does_not_change_training() -> None:
    with_points, without = train(DIGITS), train(replace(DIGITS, checkpoints=0))
    assert with_points["curves"] == without["curves"]
    assert with_points["measures"] == without["measures"]


def test_a_run_that_stops_early_ends_its_trajectory_there() -> None:
    # Every network gets a tenth of the digits right, so this one stops at the end of the first window.
    record = train(replace(DIGITS, stop_accuracy=0.05, iterations=300))
    assert (record["status"], record["iterations"]) == ("stopped", 100)
    assert record["trajectory"]["iteration"][-1] == 100
    final = record["measures"]["kernel_alignment"]
    assert record["trajectory"]["kernel_alignment"][-1] == final


def test_a_diverging_run_keeps_the_points_that_it_had() -> None:
    # Torch does not warn of overflow, so a huge step is enough.
    record = train(replace(STUDENT, learning_rate=1e6))
    assert record["status"] == "diverged"
    assert record["measures"] == {}
    assert record["trajectory"]["iteration"][0] == 0
    assert record["trajectory"]["iteration"][-1] < 60
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("spec", [STUDENT, PATTERN, DALE], ids=["student", "pattern", "Dale"])
def test_a_record_is_the_same_alone_in_a_pack_and_in_another_order(spec: RunSpec) -> None:
    free = replace(spec, connectivity=LowRank(rank=4, gain=spec.connectivity.gain))
    runs = [replace(each, seed=seed) for seed in range(2) for each in (spec, free)]
    if spec.model == "two_layer":
        runs.append(replace(spec, aligned="directions"))
    task = make_task(spec.task, dt=spec.dt)
    together = [identity(r) for r in train_pack(runs, task, device=CPU)]
    backwards = [identity(r) for r in train_pack(runs[::-1], task, device=CPU)]
    alone = [identity(train(run)) for run in runs]
    assert together == backwards[::-1]
    assert together == alone


def test_a_student_is_the_same_whether_its_teacher_is_given_or_trained(tmp_path: Any) -> None:
    kept = store.Store(tmp_path)
    kept.save(train(KEPT))
    record = kept.load(KEPT)
    assert record is not None
    student = replace(
        DIGITS, teacher=KEPT, aligned="features", checkpoints=0, iterations=5, connectivity=Dense()
    )
    given = train(student, teachers={KEPT.key: record})
    assert identity(given) == identity(train(student))
    assert RunSpec.from_dict(json.loads(json.dumps(given["spec"]))) == student


def test_kept_weights_are_the_trained_ones() -> None:
    """The record's weights alone give the measured change and a kernel, and a student begins with them."""

    from hpr.training.weights import decoded

    record = train(KEPT)
    weights = decoded(record["weights"])
    task = make_task("sDigits")
    start = initial_pack([KEPT], task, CPU)
    change = (weights["recurrent"].double() - start.recurrent[0].double()).norm()
    assert record["measures"]["weight_change_norm"] == pytest.approx(float(change), rel=1e-12)
    student = replace(DIGITS, teacher=KEPT, aligned="features", connectivity=Dense())
    pack = initial_pack([student], task, CPU, {KEPT.key: weights})
    assert torch.equal(pack.input[0], weights["input"])
    cosine = torch.cosine_similarity(pack.recurrent[0].flatten(), weights["recurrent"].flatten(), 0)
    assert float(cosine) == pytest.approx(1, rel=1e-6)
    assert not torch.equal(pack.readout[0], weights["readout"])
    x = torch.from_numpy(task.draw(0, 0, 1, 4).inputs[0])
    assert tangent_kernel(pack, x, student, "last").shape == (40, 40)


def test_a_student_without_a_trained_teacher_is_refused() -> None:
    student = replace(DIGITS, teacher=KEPT)
    with pytest.raises(ValueError, match="teacher: expected a trained network"):
        train(student, teachers={KEPT.key: {"status": "diverged"}})


def test_a_regression_has_no_accuracy() -> None:
    record = train(PATTERN)
    assert set(record["curves"]) == {"iteration", "loss"}
    assert "final_accuracy" not in record["measures"]
    with pytest.raises(
        ValueError, match=r"stop_accuracy: expected None for a regression, got 0\.9"
    ):
        train(replace(PATTERN, stop_accuracy=0.9))


def test_a_pattern_is_compared_over_its_time_steps() -> None:
    """All trials are the same, so alignment over trials would be 1 whatever was learned."""
    alignment = train(PATTERN)["measures"]["representation_alignment"]
    assert 0 < alignment < 1 - 1e-6


def test_two_layer_linear_networks_reach_the_kernel_of_equation_8() -> None:
    """Gradient descent from small weights on whitened inputs gives K_f = X^T (ββ^T / |β|² + 1) X, up to scale."""
    spec = replace(
        STUDENT, task="student-teacher(d=4,whitened)", connectivity=Dense(gain=0.001), N=64,
        readout_deviation=0.001, learning_rate=0.01, iterations=900, checkpoints=0,
    )  # fmt: skip
    measures = train(spec)["measures"]
    # K_f has the eigenvalues 2, 1, 1, 1 on whitened inputs.
    assert measures["kernel_effective_rank_final"] == pytest.approx(2.5, rel=0.01)
    assert measures["task_kernel_alignment_final"] == pytest.approx(2 / 5, rel=0.01)
    W = initial_pack([spec], make_task(spec.task), CPU)
    M_0 = (W.hidden[0].mT @ W.hidden[0] + W.readout.square().sum() * torch.eye(4)).double()
    beta = np.ones(4) / 2
    M_f = torch.from_numpy(np.outer(beta, beta) + np.eye(4))
    expected = float((M_0 * M_f).sum() / (M_0.norm() * M_f.norm()))
    assert measures["kernel_alignment"] == pytest.approx(expected, rel=0.01)


def test_the_local_executor_trains_a_teacher_once_for_all_its_students(tmp_path: Any) -> None:
    """This holds within one call, and when a later call finds the teacher in the store."""
    seen: list[tuple[int, bool]] = []

    def trainer(specs: Any, task: Any, **how: Any) -> Any:
        seen.append((specs[0].seed, KEPT.key in how.get("teachers", {})))
        return train_pack(specs, task, **how)

    students = [replace(DIGITS, teacher=KEPT, seed=s, iterations=2, checkpoints=0) for s in (0, 1)]
    for runs in ([KEPT, students[0]], [KEPT, *students]):
        outcome = run_local(runs, store.Store(tmp_path), tasks(), trainer, CPU, lambda line: None)
        assert outcome.failures == {}
    assert seen == [(1000, False), (0, True), (1, True)]


@pytest.mark.parametrize("spec", [DALE, DIGITS, STUDENT, PATTERN], ids=lambda spec: spec.task)
def test_autocast_of_the_caller_reaches_no_record(spec: RunSpec) -> None:
    plain = train(spec)
    with torch.autocast("cpu"):
        within = train(spec)
    assert identity(within) == identity(plain)
