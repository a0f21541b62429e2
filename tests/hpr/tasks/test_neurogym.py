"""Every NeuroGym id is compiled, streamed or refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hpr.tasks import Task, make_task
from hpr.tasks.compiled_task import CompiledTask
from hpr.tasks.streamed_task import StreamedTask

neurogym = pytest.importorskip("neurogym")

import gymnasium  # noqa: E402
from neurogym.core import TrialEnv  # noqa: E402
from neurogym.utils import spaces  # noqa: E402

COMPILED = ["GoNogo-v0", "DelayPairedAssociation-v0", "DelayComparison-v0", "AntiReach-v0"]
# The first has uniform angles, the second exponential periods. The third computes its periods by
# functions that draw from the environment's generator.
STREAMED = ["DelayMatchSampleDistractor1D-v0", "ContextDecisionMaking-v0", "ReadySetGo-v0"]


def make(name: str) -> Task:
    return make_task(name, version="2.3")


@pytest.mark.parametrize("name", COMPILED)
def test_finite_ids_compile(name: str) -> None:
    task = make(name)
    assert isinstance(task, CompiledTask)
    assert (task.name, task.version, task.label) == (name, "2.3", name)
    assert task.bank.probability.sum() == pytest.approx(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*doesn't include `render_modes`")
        environment = neurogym.make(name, dt=100).unwrapped
    environment.sigma = 0
    environment.seed(0)
    seen = {
        (inputs.tobytes(), targets.tobytes())
        for inputs, targets in zip(task.bank.inputs, task.bank.targets, strict=True)
    }
    for _ in range(200):
        environment.new_trial()
        trial = environment.ob.astype(np.float32), environment.gt.astype(np.int64)
        assert (trial[0].tobytes(), trial[1].tobytes()) in seen


@pytest.mark.parametrize("name", STREAMED)
def test_other_ids_stream(name: str) -> None:
    task = make(name)
    assert isinstance(task, StreamedTask)
    drawn = task.draw(0, 0, 3, 4)
    assert drawn.inputs.shape == (3, task.T, 4, task.N_in)
    assert drawn.targets.shape == (3, task.T, 4)
    assert (drawn.inputs.dtype, drawn.targets.dtype) == (np.float32, np.int64)
    assert np.all((drawn.targets >= 0) & (drawn.targets < task.N_out))


@pytest.mark.parametrize("name", STREAMED)
def test_streaming_is_pure(name: str) -> None:
    bulk = make(name).draw(3, 0, 12, 4)
    task = make(name)
    for step in (11, 0, 7):
        alone = task.draw(3, step, 1, 4)
        np.testing.assert_array_equal(alone.inputs[0], bulk.inputs[step])
        np.testing.assert_array_equal(alone.targets[0], bulk.targets[step])
    others = [task.draw(4, 0, 12, 4), task.draw(3, 0, 12, 4, "evaluation")]
    for other in others:
        assert not np.array_equal(other.inputs, bulk.inputs)
    assert len({step.tobytes() for step in bulk.inputs}) == 12


def test_streamed_trials_are_the_environments() -> None:
    task = make("DelayMatchSampleDistractor1D-v0")
    drawn = task.draw(0, 0, 30, 4)
    fixation = drawn.inputs[:, :, :, 0]
    assert set(np.unique(fixation)) == {0.0, 1.0}
    # Every sequence starts with a new trial: three steps of fixation, which show no angle.
    assert np.all(fixation[:, :3] == 1)
    assert np.all(drawn.inputs[:, :3, :, 1:] == 0)
    assert np.all(drawn.inputs[:, 3:6, :, 1:].std(axis=-1) > 0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ReachingDelayResponse-v0", "has the action_space Box"),
        ("SpatialSuppressMotion-v0", "has the action_space Box"),
        ("Bandit-v0", "no ground truth; _new_trial has to call set_groundtruth"),
        ("HierarchicalReasoning-v0", "a seed does not settle its trials"),
        ("perceptualdecisionmaking.ibl20-v0", "ScheduleAttr, not a bare TrialEnv"),
        ("AnnubesEnv-v0", "missing 2 required positional arguments"),
        ("ToneDetection-v0", "dt=100"),
        ("NoSuchTask-v0", "doesn't exist"),
        ("CartPole-v1", "task: expected a task, a NeuroGym id or module:Class"),
        ("2af", "task: expected a task, a NeuroGym id or module:Class"),
    ],
)
def test_impossible_ids_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^(task: expected|{name} cannot)") as raised:
        make(name)
    assert name in str(raised.value)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_old_behaviour_of_another_id_is_unknown() -> None:
    with pytest.raises(ValueError, match=r"^version: expected '2\.3' for 'GoNogo-v0'"):
        make_task("GoNogo-v0")


class Wilful(TrialEnv):
    """Shows a number from a generator that no seed reaches, drawn when it is made or at every trial."""

    def __init__(self, dt: int = 100, each_trial: bool = False, continuous: bool = False) -> None:
        super().__init__(dt=dt)
        self.timing = {"stimulus": 300}
        self.observation_space = spaces.Box(-np.inf, np.inf, shape=(1,), dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self._draw = np.random.default_rng().random
        self._shown = [self._draw()]
        self._each_trial, self._continuous = each_trial, continuous

    def _new_trial(self, **kwargs: Any) -> dict[str, Any]:
        self.add_period("stimulus")
        self.add_ob(self._draw() if self._each_trial else self._shown[0])
        self.add_ob(self.rng.uniform() if self._continuous else self.rng.choice(2))
        self.set_groundtruth(1)
        return {}

    def _step(self, action: Any) -> tuple[Any, ...]:
        return self.ob_now, 0.0, False, False, {"new_trial": False}


@pytest.fixture
def wilful() -> Iterator[None]:
    gymnasium.register("Wilful-v0", entry_point=lambda **arguments: Wilful(**arguments))
    yield
    del gymnasium.registry["Wilful-v0"]


@pytest.mark.usefixtures("wilful")
@pytest.mark.parametrize("each_trial", [False, True], ids=["when made", "each trial"])
@pytest.mark.parametrize("continuous", [False, True], ids=["finite", "continuous"])
def test_randomness_beyond_the_seed_is_refused(each_trial: bool, continuous: bool) -> None:
    gymnasium.registry["Wilful-v0"].kwargs = {"each_trial": each_trial, "continuous": continuous}
    with pytest.raises(ValueError, match="a seed does not settle its trials"):
        make("Wilful-v0")
