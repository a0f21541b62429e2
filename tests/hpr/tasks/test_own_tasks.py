"""Tasks from outside the package: environments and tasks by import path or entry point, and arrays of trials."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpr.connectivity import Dense
from hpr.experiment import RunSpec, bind
from hpr.system import loading
from hpr.tasks import array_task, check_trials, keep_trials, make_task, read_trials, task_version
from hpr.tasks.compiled_task import CompiledTask
from hpr.tasks.own_class import path_of, split_name, task_name
from hpr.tasks.streamed_task import StreamedTask

ENVIRONMENT = """
import numpy as np
from neurogym.core import TrialEnv
from neurogym.utils import spaces


class Late(TrialEnv):
    def __init__(self, dt=100, sigma=0.3, jitter=False):
        super().__init__(dt=dt)
        self.sigma, self.jitter = sigma, jitter
        self.timing = {"stimulus": 300, "decision": 100}
        self.observation_space = spaces.Box(-np.inf, np.inf, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Discrete(3)

    def _new_trial(self, **kwargs):
        trial = {"choice": self.rng.choice([0, 1])}
        self.add_period(["stimulus", "decision"])
        self.view_ob("stimulus")[:, trial["choice"]] += 1
        if self.jitter:
            self.view_ob("stimulus")[:] += self.rng.uniform()
        self.add_randn(0, self.sigma, "stimulus")
        self.set_groundtruth(trial["choice"] + 1, "decision")
        return trial

    def _step(self, action):
        return self.ob_now, 0.0, False, False, {"new_trial": not self.in_period("stimulus")}
"""
TASK = """
import numpy as np
from hpr.tasks import Task, Trials
from hpr.tasks.counter import random_words


class Parity(Task):
    name = label = "parity"
    version, N_in, N_out = "3", 1, 2

    def __init__(self, T=8):
        self.T = T

    def _draw(self, seed, start, count, batch, split):
        words = [
            random_words(self.T * batch, step, seed, batch, split) for step in range(start, start + count)
        ]
        bits = (np.stack(words) >> 63).astype(np.int64).reshape(count, self.T, batch)
        return Trials(bits[..., None].astype(np.float32), bits.cumsum(axis=1) % 2)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module outside the package, under a name that is imported anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(code: str, name: str = "own_parts") -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        sys.modules.pop(name, None)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("own_parts", None)


def test_an_environment_that_is_not_registered(module: Any) -> None:
    module(ENVIRONMENT)
    task = make_task("own_parts:Late")
    assert isinstance(task, CompiledTask)
    assert (task.name, task.version, task.T, task.N_in, task.N_out) == (
        "own_parts:Late",
        "2.3",
        4,
        2,
        3,
    )
    drawn = task.draw(0, 0, 2, 5)
    assert set(drawn.targets[:, -1].ravel()) == {1, 2}
    streamed = make_task("own_parts:Late(jitter=True)", dt=50)
    assert isinstance(streamed, StreamedTask)
    assert (streamed.T, streamed.dt) == (8, 50.0)


def test_arguments_and_code_are_in_the_key(module: Any) -> None:
    keys = []
    for name, code in (
        ("own_parts:Late", ENVIRONMENT),
        ("own_parts:Late(sigma=0.5)", ENVIRONMENT),
        ("own_parts:Late", ENVIRONMENT.replace("] += 1", "] += 2")),
        ("own_parts:Late(jitter=True)", ENVIRONMENT),
        ("own_parts:Late(jitter=True)", ENVIRONMENT.replace("] += 1", "] += 2")),
    ):
        module(code)
        spec = bind(RunSpec(name, Dense(), 0, task_version="2.3"), make_task(name))
        keys.append(spec.key)
    assert len(set(keys)) == 5


def test_a_neurogym_id_takes_arguments() -> None:
    plain = make_task("GoNogo-v0", version="2.3")
    longer = make_task("GoNogo-v0(timing={'delay': 700})", version="2.3")
    assert longer.T > plain.T
    assert longer.content != plain.content
    with pytest.raises(ValueError, match=r"got 'GoNogo-v0\(nonsense=1\)'"):
        make_task("GoNogo-v0(nonsense=1)", version="2.3")


def test_a_task_of_ones_own(module: Any) -> None:
    module(TASK)
    task, longer = make_task("own_parts:Parity"), make_task("own_parts:Parity(T=9)")
    assert (task.name, task.label, task.version, task.T) == ("own_parts:Parity", "parity", "3", 8)
    assert longer.T == 9
    module(TASK.replace("% 2)", "% 2 * 1)"))
    assert make_task("own_parts:Parity").content != task.content
    with pytest.raises(ValueError, match="version: expected '3' for own_parts:Parity, got '1'"):
        make_task("own_parts:Parity", version="1")
    module(TASK.replace("self.T = T", "raise SystemExit(3)"))
    with pytest.raises(ValueError, match=r"own_parts:Parity to be made .*, got SystemExit: 3"):
        make_task("own_parts:Parity")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_parts:Nope", r"that can be imported, got 'own_parts:Nope': AttributeError"),
        ("no_such_module:Late", "that can be imported, got 'no_such_module:Late': ModuleNotFoundError"),
        ("own_parts:np", "expected a class, a TrialEnv of NeuroGym or a hpr.tasks.Task"),
        ("own_parts:Late(3)", "keyword arguments as in own_parts:Late"),
        ("own_parts:Late(sigma=open)", "keyword arguments as in own_parts:Late"),
        ("own_parts:Late(sigma=1", "keyword arguments as in own_parts:Late"),
        ("own_parts:Late(noise=1)", "noise"),
    ],
)  # fmt: skip
def test_a_bad_name_is_one_line(name: str, message: str, module: Any) -> None:
    module(ENVIRONMENT)
    with pytest.raises(ValueError, match=message) as caught:
        make_task(name)
    assert "\n" not in str(caught.value)


CONSTRUCTOR = "super().__init__(dt=dt)"


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        (CONSTRUCTOR, "raise KeyError('x')", "with dt=100, got 'own_parts:Late': KeyError: 'x'"),
        (CONSTRUCTOR, "assert dt < 5, 'too long'", "got 'own_parts:Late': AssertionError: too long"),
        (CONSTRUCTOR, "open('/none/such')", "got 'own_parts:Late': FileNotFoundError"),
        (CONSTRUCTOR, "raise SystemExit(3)", "got 'own_parts:Late': SystemExit: 3"),
        ("class Late", "raise SystemExit(3)\nclass Late", "got 'own_parts:Late': SystemExit: 3"),
        ("self.observation_space", "space", "has the observation_space None, not a Box"),
        ("self.action_space", "space", "has the action_space None, not Discrete classes"),
        ("self.set_groundtruth", "print", "has no ground truth; _new_trial has to call set_groundtruth"),
        ('"decision"])', '"decison"])', r"Late cannot be a task: its trials fail \(KeyError: 'decison'"),
    ],
    ids=str,
)  # fmt: skip
def test_an_environment_that_fails_is_one_line(
    line: str, instead: str, message: str, module: Any
) -> None:
    assert ENVIRONMENT.count(line) == 1
    module(ENVIRONMENT.replace(line, instead))
    with pytest.raises(ValueError, match=message) as caught:
        make_task("own_parts:Late")
    assert "\n" not in str(caught.value)


def test_an_environment_without_observations_is_one_line(module: Any) -> None:
    writes = ("self.view_ob", "self.add_randn")
    lines = [line for line in ENVIRONMENT.splitlines() if not any(call in line for call in writes)]
    module("\n".join(lines).replace("if self.jitter:", ""))
    with pytest.raises(ValueError, match="has no observations; _new_trial has to call add_ob"):
        make_task("own_parts:Late")


def test_a_name_holds_its_arguments() -> None:
    name = task_name("m:C", {"sigma": 0.5, "cohs": [1, 2.5], "kind": "a"})
    assert name == "m:C(cohs=[1, 2.5], kind='a', sigma=0.5)"
    assert split_name(name) == ("m:C", {"sigma": 0.5, "cohs": [1, 2.5], "kind": "a"})
    with pytest.raises(ValueError, match="keyword arguments as in"):
        task_name("m:C", {"sigma": np.float64})
    with pytest.raises(ValueError, match="at most 200 characters"):
        task_name("m:C", {"sigma": "x" * 200})
    assert path_of(CompiledTask) == "hpr.tasks.compiled_task:CompiledTask"

    class Local:
        pass

    with pytest.raises(ValueError, match="that its module has by its name"):
        path_of(Local)


def test_an_entry_point_names_a_task(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module(ENVIRONMENT + TASK)
    points = [
        EntryPoint("late", "own_parts:Late", "hpr.tasks"),
        EntryPoint("parity", "own_parts:Parity", "hpr.tasks"),
        EntryPoint("broken", "own_parts:Nope", "hpr.tasks"),
        EntryPoint("twice", "own_parts:Late", "hpr.tasks"),
        EntryPoint("twice", "own_parts:Parity", "hpr.tasks"),
    ]
    monkeypatch.setattr(loading, "entry_points", lambda **of: EntryPoints(points).select(**of))
    assert (make_task("late(sigma=0.1)").name, make_task("parity").T) == ("late(sigma=0.1)", 8)
    with pytest.raises(ValueError, match="an entry point broken = own_parts:Nope of "):
        make_task("broken")
    with pytest.raises(ValueError, match="one entry point twice of"):
        make_task("twice")


RNG = np.random.default_rng(0)
X = RNG.normal(size=(11, 5, 3))
CLASSES = RNG.integers(0, 4, (11, 5))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hpr.tasks.array_task._known", {})
    return tmp_path / "cache" / "trials"


def test_arrays_are_a_task(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = keep_trials(check_trials({"inputs": X, "targets": CLASSES}, "arrays"), "mine")
    assert task_version(name, "0.0.2") == "1"
    task = make_task(name, version="1")
    assert (task.label, task.T, task.N_in, task.N_out, task.loss_steps) == ("mine", 5, 3, 4, "all")
    drawn = task.draw(1, 3, 2, 6)
    shown = drawn.inputs.swapaxes(1, 2).reshape(12, 5, 3)
    for inputs, targets in zip(shown, drawn.targets.swapaxes(1, 2).reshape(12, 5), strict=True):
        (row,) = np.flatnonzero((X.astype(np.float32) == inputs).all((1, 2)))
        np.testing.assert_array_equal(targets, CLASSES[row])
    np.testing.assert_array_equal(task.draw(1, 4, 1, 6).inputs[0], drawn.inputs[1])
    assert not np.array_equal(task.draw(1, 3, 2, 6, "evaluation").inputs, drawn.inputs)
    # Another process finds them in the cache.
    monkeypatch.setattr("hpr.tasks.array_task._known", {})
    again = make_task(name)
    assert again.content == task.content
    np.testing.assert_array_equal(again.draw(1, 3, 2, 6).inputs, drawn.inputs)


def test_targets_choose_the_loss(cache: Path) -> None:
    def task(**arrays: Any) -> Any:
        return make_task(keep_trials(check_trials(arrays, "arrays")))

    last = task(inputs=X, targets=CLASSES[:, 0])
    assert (last.loss, last.loss_steps) == ("cross_entropy", "last")
    drawn = last.draw(0, 0, 1, 4)
    assert (drawn.targets == drawn.targets[:, :1]).all()
    regression = task(inputs=X, targets=X[:, :, 0])
    assert (regression.loss, regression.N_out, regression.loss_steps) == ("mse", 1, "all")
    assert task(inputs=X, targets=X[:, :, :2]).draw(0, 0, 1, 4).targets.shape == (1, 5, 4, 2)
    held = task(
        inputs=X, targets=CLASSES, evaluation_inputs=X[:1] + 9, evaluation_targets=CLASSES[:1]
    )
    assert (
        held.draw(0, 0, 1, 4, "evaluation").inputs.mean() > 5 > held.draw(0, 0, 1, 4).inputs.mean()
    )


def test_the_name_is_that_of_the_content(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "trials.npz"
    names = []
    for change in (0, 0, 1):
        np.savez(path, inputs=X + change, targets=CLASSES)
        names.append(keep_trials(read_trials(path), path.stem))
    assert names[0] == names[1] != names[2]
    kept = cache / f"{names[0].removeprefix('trials:')}.npz"
    np.savez(kept, inputs=X + 1, targets=CLASSES)
    array_task._known.clear()
    with pytest.raises(ValueError, match="expected the content of"):
        make_task(names[0])
    with pytest.raises(ValueError, match="expected trials that are kept in"):
        make_task("trials:none-0123456789ab")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no targets": ({"inputs": X}, "got no targets"),
    "a typing error": (
        {"inputs": X, "targets": CLASSES, "evaluation_input": X}, "did you mean 'evaluation_inputs'",
    ),
    "one class": ({"inputs": X, "targets": 0 * CLASSES}, "targets: expected two classes or more, got 0 alone"),
    "half of the evaluation": (
        {"inputs": X, "targets": CLASSES, "evaluation_inputs": X}, "expected both evaluation_inputs and",
    ),
    "two axes": ({"inputs": X[0], "targets": CLASSES}, r"the shape \[trials, T, N_in\], got \[5, 3\]"),
    "none": ({"inputs": X[:0], "targets": CLASSES[:0]}, r"the shape \[trials, T, N_in\]"),
    "NaN": ({"inputs": X * np.nan, "targets": CLASSES}, "inputs: expected finite float32 numbers, got 165"),
    "too large": ({"inputs": X * 1e39, "targets": CLASSES}, "finite float32"),
    "complex": ({"inputs": X * 1j, "targets": CLASSES}, "real numbers, got the type complex128"),
    "fewer targets": ({"inputs": X, "targets": CLASSES[:-1]}, r"classes \[trials\] = \[11\] or"),
    "a negative class": ({"inputs": X, "targets": CLASSES - 1}, "classes from 0 to 65,535, got -1"),
    "real numbers per trial": ({"inputs": X, "targets": X[:, 0, 0]}, r"desired outputs \[trials, T, N_out\]"),
    "another evaluation": (
        {"inputs": X, "targets": CLASSES, "evaluation_inputs": X[:, :4], "evaluation_targets": CLASSES[:, :4]},
        r"evaluation_inputs of float32 \[5, 3\] per trial as inputs are, got float32 \[4, 3\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_one_line(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "trials.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        check_trials(read_trials(path), str(path))
    assert str(caught.value).startswith(str(path))
