"""Student-teacher tasks: features, directions, inputs and names."""

from __future__ import annotations

import numpy as np
import pytest

from hpr.tasks import make_task
from hpr.tasks.student_teacher import StudentTeacher, Teacher


@pytest.mark.parametrize("d", [2, 5, 20])
def test_features_have_their_singular_values(d: int) -> None:
    F = StudentTeacher(d, 7).teacher(3).features
    expected = [7.0] * (d // 2) + [1.0] * (d - d // 2)
    assert np.linalg.svd(F, compute_uv=False) == pytest.approx(expected, rel=1e-12)


def test_without_kappa_all_directions_are_one() -> None:
    assert np.array_equal(StudentTeacher(4).teacher(0).directions(), np.ones((1, 4)))


def test_the_dominant_half_loses_exactly_the_rest() -> None:
    teacher = StudentTeacher(6, 5).teacher(1)
    half = teacher.dominant().features
    assert np.linalg.matrix_rank(half) == 3
    assert np.linalg.svd(teacher.features - half, compute_uv=False)[:3] == pytest.approx([1.0] * 3)
    beta = teacher.readout @ half
    assert teacher.dominant().directions() == pytest.approx(beta)


@pytest.mark.parametrize("d", [5, 6])
def test_at_kappa_one_the_dominant_half_is_that_of_every_kappa(d: int) -> None:
    """All singular values are equal, so a decomposition of F could not separate the halves."""
    equal, unlike = (StudentTeacher(d, kappa).teacher(2).dominant().features for kappa in (1, 8))
    np.testing.assert_allclose(equal, unlike / 8, rtol=0, atol=1e-14)


def test_of_a_trained_teacher_the_dominant_half_is_the_truncated_svd() -> None:
    F = np.random.default_rng(0).normal(size=(6, 6))
    half = Teacher(F, np.ones((1, 6))).dominant().features
    values = np.linalg.svd(F, compute_uv=False)
    assert np.linalg.norm(F - half) == pytest.approx(np.linalg.norm(values[3:]))


@pytest.mark.parametrize("whitened", [False, True])
def test_targets_are_the_teachers_of_one_fixed_set(whitened: bool) -> None:
    task = StudentTeacher(3, 4, whitened=whitened)
    trials = task.draw(seed=2, start=5, count=2, batch=64)
    assert trials.inputs.shape == (2, 1, 64, 3)
    assert trials.targets.shape == (2, 1, 64, 1)
    assert np.array_equal(trials.inputs[0], trials.inputs[1])
    assert np.array_equal(trials.inputs[0], task.draw(2, 99, 1, 64).inputs[0])
    X = trials.inputs[0, 0].astype(np.float64)
    y = X @ task.teacher(2).directions()[0]
    assert trials.targets[0, 0, :, 0] == pytest.approx(y, rel=1e-5, abs=1e-5)
    covariance = X.T @ X / 64
    if whitened:
        assert covariance == pytest.approx(4 / 3 * np.eye(3), abs=1e-6)
    else:
        assert np.abs(X).max() < 2
        assert np.diag(covariance) == pytest.approx([4 / 3] * 3, rel=0.4)


def test_a_seed_shares_inputs_and_orientation_over_kappa_but_not_with_evaluation() -> None:
    low, high = StudentTeacher(4, 2), StudentTeacher(4, 9)
    assert np.array_equal(low.draw(1, 0, 1, 8).inputs, high.draw(1, 0, 1, 8).inputs)
    U, _, Vt = np.linalg.svd(low.teacher(1).features - high.teacher(1).features)
    # The two differ only in the singular values of the dominant half.
    difference = (U[:, :2] * 7) @ Vt[:2]
    assert high.teacher(1).features - low.teacher(1).features == pytest.approx(-difference)
    evaluation = low.draw(1, 0, 1, 8, split="evaluation").inputs
    assert not np.array_equal(evaluation, low.draw(1, 0, 1, 8).inputs)
    assert not np.array_equal(low.draw(2, 0, 1, 8).inputs, low.draw(1, 0, 1, 8).inputs)


@pytest.mark.parametrize(
    "name",
    [
        "student-teacher(d=2)",
        "student-teacher(d=20,kappa=10)",
        "student-teacher(d=3,kappa=2.5,whitened)",
        "student-teacher(d=3,whitened)",
        "student-teacher(d=4,kappa=1e+06)",
    ],
)
def test_a_name_makes_its_task(name: str) -> None:
    assert make_task(name, version="1").name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("student-teacher", "task: expected a name like"),
        ("student-teacher(d=2,kappa=)", "task: expected a name like"),
        ("student-teacher(d=1)", "d: expected at least 2, got 1"),
        ("student-teacher(d=2,kappa=0.5)", "kappa: expected a number of at least 1"),
        ("student-teacher(d=02)", r"task: expected 'student-teacher\(d=2\)'"),
        ("student-teacher(d=2,kappa=10.0)", "the one name of that task"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(name)


def test_fewer_examples_than_inputs_cannot_be_whitened() -> None:
    with pytest.raises(ValueError, match="batch: expected at least d = 5 to be whitened, got 4"):
        StudentTeacher(5, whitened=True).draw(0, 0, 1, 4)
