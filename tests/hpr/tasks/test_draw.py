"""Drawing is a pure function of (task, seed, step, batch, split)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from hpr.system.extras import install
from hpr.tasks import TASKS, Task, Trials, make_task

pytest.importorskip("neurogym")

NAMES = ["2AF", "DMS", "CXT", "sDigits"]


@pytest.fixture(scope="module", params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return make_task(request.param)


def assert_same(first: Trials, second: Trials) -> None:
    np.testing.assert_array_equal(first.inputs, second.inputs)
    np.testing.assert_array_equal(first.targets, second.targets)


def fingerprint(trials: Trials) -> str:
    return hashlib.sha256(trials.inputs.tobytes() + trials.targets.tobytes()).hexdigest()[:16]


def test_shapes_and_types(task: Task) -> None:
    drawn = task.draw(0, 3, 5, 7)
    assert drawn.inputs.shape == (5, task.T, 7, task.N_in)
    assert drawn.targets.shape == (5, task.T, 7)
    assert (drawn.inputs.dtype, drawn.targets.dtype) == (np.float32, np.int64)
    assert drawn.inputs.flags.c_contiguous
    assert drawn.targets.flags.c_contiguous
    assert np.all((drawn.targets >= 0) & (drawn.targets < task.N_out))
    assert np.all(np.isfinite(drawn.inputs))


@pytest.mark.parametrize("step", [0, 7, 63, 64, 127, 128, 149])
def test_a_step_alone_equals_the_step_in_bulk(task: Task, step: int) -> None:
    bulk, alone = task.draw(5, 0, 150, 32), task.draw(5, step, 1, 32)
    assert_same(alone, Trials(bulk.inputs[step : step + 1], bulk.targets[step : step + 1]))


@pytest.mark.parametrize(("start", "count"), [(0, 64), (1, 63), (62, 4), (65, 80), (20, 130)])
def test_any_cut_gives_the_same(task: Task, start: int, count: int) -> None:
    bulk = task.draw(5, 0, 150, 8)
    part = slice(start, start + count)
    assert_same(task.draw(5, start, count, 8), Trials(bulk.inputs[part], bulk.targets[part]))


def test_earlier_draws_leave_no_trace(task: Task) -> None:
    fresh = make_task(task.name).draw(1, 40, 3, 16)
    task.draw(1, 0, 50, 16)
    task.draw(2, 40, 3, 16, "evaluation")
    assert_same(task.draw(1, 40, 3, 16), fresh)


def test_the_arrays_are_the_callers_own(task: Task) -> None:
    first = task.draw(1, 2, 1, 16)
    kept = Trials(first.inputs.copy(), first.targets.copy())
    first.inputs[:] = np.nan
    first.targets[:] = -1
    assert_same(task.draw(1, 2, 1, 16), kept)


def test_another_process_draws_the_same() -> None:
    script = (
        "import hashlib\n"
        "from hpr.tasks import make_task\n"
        f"for name in {NAMES}:\n"
        "    t = make_task(name).draw(11, 37, 2, 32, 'evaluation')\n"
        "    print(hashlib.sha256(t.inputs.tobytes() + t.targets.tobytes()).hexdigest()[:16])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    expected = [fingerprint(make_task(name).draw(11, 37, 2, 32, "evaluation")) for name in NAMES]
    assert done.stdout.split() == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2AF", "67bc0ed746e4d591"),
        ("DMS", "2254fa826ed80bd5"),
        ("CXT", "1ca2b4ae42985139"),
        ("sDigits", "d877c80cea5136fa"),
    ],
)
def test_the_trials_of_stored_runs_are_kept(name: str, expected: str) -> None:
    assert fingerprint(make_task(name).draw(0, 0, 40, 32)) == expected


def different(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two sets of inputs [K, T, B, N_in] have no trial in common."""
    trials = [
        {trial.tobytes() for trial in inputs.transpose(0, 2, 1, 3).reshape(-1, inputs[0].size)}
        for inputs in (first, second)
    ]
    return trials[0].isdisjoint(trials[1])


def test_seeds_differ(task: Task) -> None:
    assert different(task.draw(0, 0, 40, 8).inputs, task.draw(1, 0, 40, 8).inputs)


def test_evaluation_differs_from_train(task: Task) -> None:
    evaluation = task.draw(0, 0, 40, 8, "evaluation").inputs
    assert different(task.draw(0, 0, 40, 8).inputs, evaluation)


def test_steps_and_blocks_differ(task: Task) -> None:
    drawn = task.draw(0, 0, 160, 8).inputs
    assert len({step.tobytes() for step in drawn}) == 160


def test_other_tasks_and_steps_in_ms_have_other_streams() -> None:
    old, new = make_task("DMS"), make_task("DMS", version="2.3")
    fine = make_task("DMS", dt=50)
    targets = [task.draw(0, 0, 20, 32).targets[:, -1] for task in (old, new, fine)]
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        assert np.mean(targets[first] == targets[second]) == pytest.approx(0.5, abs=0.1)


def test_an_int_and_a_float_step_are_the_same() -> None:
    assert_same(
        make_task("2AF", dt=50).draw(0, 0, 2, 4), make_task("2AF", dt=50.0).draw(0, 0, 2, 4)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, -1, 1, 1), ValueError, "start: expected at least 0, got -1"),
        ((0, 0, 0, 1), ValueError, "count: expected at least 1, got 0"),
        ((0, 0, 1, 0), ValueError, "batch: expected at least 1, got 0"),
        ((0.5, 0, 1, 1), TypeError, "seed: expected a whole number, got 0.5"),
        ((0, 0, 1, "8"), TypeError, "batch: expected a whole number, got '8'"),
        ((0, 0, 1, 1, "test"), ValueError, "split: expected 'train' or 'evaluation', got 'test'"),
    ],
    ids=["start", "count", "batch", "seed", "batch type", "split"],
)
def test_bad_arguments_are_named(
    task: Task, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        task.draw(*arguments)
    assert str(raised.value) == message


def test_numpy_whole_numbers_are_whole_numbers(task: Task) -> None:
    numbers: list[Any] = [np.int64(3), np.int32(2), 1, np.uint8(4)]
    assert_same(task.draw(*numbers), task.draw(3, 2, 1, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dt": 0}, "dt: expected a positive number of ms, got 0"),
        ({"dt": float("nan")}, "dt: expected a positive number of ms, got nan"),
        ({"dt": "100"}, "dt: expected a positive number of ms, got '100'"),
    ],
    ids=["zero", "nan", "text"],
)
@pytest.mark.parametrize("name", TASKS)
def test_bad_task_arguments_are_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        make_task(name, **arguments)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("2AF", "version: expected one of 0.0.2, 2.3, got '2.2'"),
        ("sDigits", "version: expected '1' for sDigits, got '2.2'"),
    ],
)
def test_an_unknown_version_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        make_task(name, version="2.2")
    assert str(raised.value) == message


def test_importing_the_tasks_needs_numpy_only() -> None:
    script = (
        "import sys, hpr.tasks\n"
        "print({'torch', 'neurogym', 'gymnasium', 'scipy', 'pooch'} & set(sys.modules))\n"
        "hpr.tasks.make_task('sDigits').draw(0, 0, 1, 2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_missing_neurogym_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neurogym", None)
    with pytest.raises(ImportError, match=r"^NeuroGym tasks need neurogym") as raised:
        make_task("2AF")
    assert str(raised.value).endswith(install("repro"))
    assert "\n" not in str(raised.value)


def test_another_neurogym_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurogym.__version__", "2.4.0")
    with pytest.raises(ImportError, match=r"need neurogym 2\.3, got 2\.4\.0"):
        make_task("DMS")
