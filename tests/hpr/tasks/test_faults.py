"""Environments and tasks with invalid trials are refused by name, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpr.tasks import Task, Trials, make_task
from hpr.tasks.base import Loss, Split, all_finite
from hpr.tasks.compiled_task import CompiledTask
from hpr.tasks.conditions import Bank
from hpr.tasks.streamed_task import StreamedTask

neurogym = pytest.importorskip("neurogym")

import gymnasium  # noqa: E402
from neurogym.core import TrialEnv  # noqa: E402
from neurogym.utils import spaces  # noqa: E402

NAME = "Faulty-v0"
IDS = sorted(
    name for name, spec in gymnasium.registry.items() if "neurogym" in str(spec.entry_point)
)


def test_neurogym_has_its_environments() -> None:
    assert len(IDS) > 40


@pytest.mark.parametrize("name", IDS)
def test_every_neurogym_id_is_a_task_or_one_line(name: str) -> None:
    try:
        task = make_task(name, version="2.3")
    except ValueError as error:
        line = str(error)
        assert name in line
        assert "\n" not in line
        assert len(line) < 400
        return
    assert isinstance(task, CompiledTask | StreamedTask)
    assert task.content is not None
    for seed in range(3):
        drawn = task.draw(seed, 0, 8, 4)
        assert np.isfinite(drawn.inputs).all()
        assert (drawn.targets >= 0).all()
        assert (drawn.targets < task.N_out).all()


@pytest.mark.parametrize("name", ["Reaching1D-v0", "Reaching1DWithSelfDistraction-v0"])
def test_targets_beyond_the_classes_are_named(name: str) -> None:
    """NeuroGym declares three classes for them, but the targets are the indices of many angles."""
    message = rf"^{name} cannot be a task: it has the target \d, which is none of its 3 "
    with pytest.raises(ValueError, match=message):
        make_task(name, version="2.3")


class Faulty(TrialEnv):
    """Three steps of two inputs, with two classes; `spoil` changes the trial."""

    def __init__(self, spoil: Callable[[Any], None], continuous: bool, dt: int = 100) -> None:
        super().__init__(dt=dt)
        self.spoil, self.continuous = spoil, continuous
        self.timing = {"stimulus": 300}
        self.observation_space = spaces.Box(-np.inf, np.inf, shape=(2,), dtype=np.float64)
        self.action_space = spaces.Discrete(2)

    def _new_trial(self, **kwargs: Any) -> dict[str, Any]:
        self.add_period("stimulus")
        self.add_ob(self.rng.uniform() if self.continuous else self.rng.choice(2))
        self.set_groundtruth(1)
        self.spoil(self)
        return {}

    def _step(self, action: Any) -> tuple[Any, ...]:
        return self.ob_now, 0.0, False, False, {"new_trial": False}


def shown(value: float) -> Callable[[Any], None]:
    def spoil(environment: Any) -> None:
        environment.ob[1, 0] = value

    return spoil


def wanted(*targets: Any) -> Callable[[Any], None]:
    def spoil(environment: Any) -> None:
        environment.gt = np.array(targets)

    return spoil


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "NaN": (shown(np.nan), "inputs that are NaN"),
    "infinite": (shown(-np.inf), "inputs that are NaN, infinite"),
    "beyond float32": (shown(1e39), "inputs that are .* or beyond float32"),
    "too great": (wanted(0, 1, 2), "the target 2, which is none of its 2 classes, 0 to 1"),
    "negative": (wanted(0, -1, 1), "the target -1, which"),
    "a fraction": (wanted(0, 0.5, 1), r"the target 0\.5, which"),
    "NaN for a target": (wanted(0, np.nan, 1), "the target nan, which"),
    "infinite target": (wanted(0, np.inf, 1), "the target inf, which"),
    "huge": (wanted(0, 1e300, 1), r"the target 1e\+300, which"),
    "too short": (wanted(0, 1), r"trials with inputs \[3, 2\] and targets \[2\]"),
    "words": (wanted("left", "right", "left"), "could not convert string"),
}


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[None]:
    gymnasium.register(NAME, entry_point=Faulty)
    yield
    del gymnasium.registry[NAME]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("continuous", [False, True], ids=["finite", "continuous"])
@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_an_environment_at_fault_is_no_task(
    spoil: Callable[[Any], None], message: str, continuous: bool
) -> None:
    gymnasium.registry[NAME].kwargs = {"spoil": spoil, "continuous": continuous}
    with pytest.raises(ValueError, match=f"^{NAME} cannot be a task: .*{message}") as e:
        make_task(NAME, version="2.3")
    assert "\n" not in str(e.value)


@pytest.mark.usefixtures("registered")
def test_a_fault_after_the_probe_is_found_when_it_is_drawn() -> None:
    """The bad target occurs once in hundreds of trials, and not in the 64 that are examined."""

    def spoil(environment: Any) -> None:
        if environment.rng.uniform() > 0.996:
            environment.gt[:] = 5

    gymnasium.registry[NAME].kwargs = {"spoil": spoil, "continuous": True}
    task = make_task(NAME, version="2.3")
    message = rf"^{NAME}: expected targets from 0 to N_out - 1 = 1, got 5, in the train trials of seed 0 from"
    with pytest.raises(ValueError, match=message):
        task.draw(0, 0, 100, 32)


def bank() -> Bank:
    zeros = np.zeros((2, 3, 1), np.float32)
    targets = np.array([[0, 0, 1], [1, 1, 1]])
    return Bank(zeros, zeros, targets, np.array([0.5, 0.5]), ({}, {}))


def test_a_bank_is_looked_at_whole() -> None:
    CompiledTask("toy", "2.3", "toy", 100.0, bank(), 2)
    for part, value in (
        ("inputs", np.full((2, 3, 1), np.nan, np.float32)),
        ("noise", np.full((2, 3, 1), np.inf, np.float32)),
        ("targets", np.full((2, 3), 2)),
        ("targets", np.full((2, 3), -1)),
    ):
        with pytest.raises(ValueError, match=r"^toy cannot be a task: it has "):
            CompiledTask("toy", "2.3", "toy", 100.0, replace(bank(), **{part: value}), 2)


class Own(Task):
    """A user's task, whose trials the test can change."""

    name = version = label = "own"
    N_in, N_out, T = 2, 3, 4

    def __init__(self, loss: Loss, **change: Any) -> None:
        self.loss, self.change = loss, change

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        lead = (count, self.T, batch)
        targets = (
            np.zeros(lead, np.int64)
            if self.loss == "cross_entropy"
            else np.zeros((*lead, self.N_out), np.float32)
        )
        return replace(Trials(np.zeros((*lead, self.N_in), np.float32), targets), **self.change)


WRONG: dict[str, tuple[Loss, dict[str, Any], str]] = {
    "float64": ("mse", {"inputs": np.zeros((1, 4, 5, 2))}, "inputs of float32 [1, 4, 5, 2], got float64"),
    "steps": ("mse", {"inputs": np.zeros((1, 3, 5, 2), np.float32)}, "inputs of float32 [1, 4, 5, 2], got"),
    "outputs": ("mse", {"targets": np.zeros((1, 4, 5, 2), np.float32)}, "targets of float32 [1, 4, 5, 3]"),
    "infinite": ("mse", {"targets": np.full((1, 4, 5, 3), np.inf, np.float32)}, "finite targets, got 60"),
    "floats": ("cross_entropy", {"targets": np.zeros((1, 4, 5))}, "targets of int64 [1, 4, 5], got float64"),
    "short": ("cross_entropy", {"targets": np.zeros((1, 4, 4), np.int64)}, "targets of int64 [1, 4, 5]"),
    "beyond": ("cross_entropy", {"targets": np.full((1, 4, 5), 3)}, "targets from 0 to N_out - 1 = 2, got 3"),
    "negative": ("cross_entropy", {"targets": np.full((1, 4, 5), -7)}, "targets from 0 to N_out - 1 = 2, got -7"),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "change", "message"), WRONG.values(), ids=WRONG)
def test_a_task_at_fault_is_named(loss: Loss, change: dict[str, Any], message: str) -> None:
    Own(loss).draw(0, 0, 1, 5)
    with pytest.raises(ValueError) as e:  # noqa: PT011
        Own(loss, **change).draw(0, 0, 1, 5)
    assert str(e.value).startswith(f"own: expected {message}")
    assert "in the train trials of seed 0 from step 0 on" in str(e.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, -1.0], True),
        ([3e38, 3e38], True),
        ([3e38, 3e38, -3e38], True),
        ([np.inf], False),
        ([np.inf, -np.inf], False),
        ([0.0, np.nan], False),
        ([], True),
    ],
    ids=str,
)
def test_finite(values: list[float], expected: bool) -> None:
    """The sum may overflow although no number does; NumPy must not warn."""
    assert all_finite(np.array(values, np.float32)) is expected
