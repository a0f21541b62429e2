"""Run keys contain what a task depends on: a changed environment of the same name gives another run."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpr.connectivity import Dense, LowRank
from hpr.experiment.binding import bind
from hpr.experiment.execution import Outcome, run_local
from hpr.experiment.plan import tasks
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.tasks import TASKS, Task, make_task, paper
from hpr.tasks.compiled_task import CompiledTask
from hpr.tasks.streamed_task import StreamedTask
from hpr.training.loop import train_pack

neurogym = pytest.importorskip("neurogym")

import gymnasium  # noqa: E402
from neurogym.core import TrialEnv  # noqa: E402
from neurogym.utils import spaces  # noqa: E402

CPU = torch.device("cpu")
NAME = "OwnChoice-v0"
SPEC = RunSpec(
    NAME, LowRank(rank=1), seed=0, task_version="2.3", N=9, batch=3, iterations=2, trials=4,
    kernel_trials=2,
)  # fmt: skip


class OwnChoice(TrialEnv):
    """Shows one of two numbers and asks for its class; `continuous` adds a number that can't be enumerated."""

    def __init__(
        self,
        dt: int = 100,
        sigma: float = 0.1,
        wanted: tuple[int, int] = (0, 1),
        stimulus: int = 200,
        continuous: bool = False,
        rare: float = 0.0,
    ) -> None:
        super().__init__(dt=dt)
        self.sigma, self.wanted, self.continuous, self.rare = sigma, wanted, continuous, rare
        self.timing = {"stimulus": stimulus, "decision": 100}
        self.observation_space = spaces.Box(-np.inf, np.inf, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def _new_trial(self, **kwargs: Any) -> dict[str, Any]:
        shown = self.rng.choice(2)
        self.add_period(["stimulus", "decision"])
        self.add_ob(shown, "stimulus", where=0)
        if self.continuous:
            self.add_ob(self.rng.uniform(), "stimulus", where=1)
        self.add_randn(0, self.sigma, "stimulus")
        self.set_groundtruth(self.wanted[shown], "decision")
        return {}

    def _step(self, action: Any) -> tuple[Any, ...]:
        return self.ob_now, 0.0, False, False, {"new_trial": False}


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    def again(**arguments: Any) -> None:
        gymnasium.registry.pop(NAME, None)
        gymnasium.register(NAME, entry_point=OwnChoice, kwargs=arguments)

    yield again
    gymnasium.registry.pop(NAME, None)


def run(specs: list[RunSpec], store: Store) -> Outcome:
    """Run `specs`; each call makes the tasks anew, as another process would."""
    outcome = run_local(specs, store, tasks(), train_pack, CPU, lambda line: None)
    assert outcome.failures == {}
    assert [outcome.records[spec.key]["key"] for spec in outcome.runs] == [
        spec.key for spec in outcome.runs
    ]
    return outcome


CHANGES: list[dict[str, Any]] = [{"sigma": 0.2}, {"wanted": (1, 0)}, {"stimulus": 300}]


@pytest.mark.parametrize("continuous", [False, True], ids=["compiled", "streamed"])
def test_a_changed_environment_is_a_new_run_and_the_old_one_is_served_again(
    continuous: bool, register: Callable[..., None], tmp_path: Path
) -> None:
    """The noise, the targets and the timing change in turn; all runs use one store."""
    store = Store(tmp_path)
    kept: dict[str, Any] = {}
    for change in [{}, *CHANGES]:
        register(continuous=continuous, **change)
        outcome = run([SPEC], store)
        [bound] = outcome.runs
        assert bound == replace(SPEC, content=bound.content)
        assert bound.key not in kept
        kept[bound.key] = outcome.records[bound.key]
    assert len(kept) == len(list((tmp_path / "runs").iterdir())) == 4
    register(continuous=continuous)
    [served] = run([SPEC], store).records.values()
    # The first record is returned with its times, so the run was not trained again.
    assert served == next(iter(kept.values()))


def test_teachers_are_bound_too(register: Callable[..., None], tmp_path: Path) -> None:
    register()
    teacher = replace(SPEC, seed=9, keep_weights=True)
    student = replace(SPEC, connectivity=Dense(), teacher=teacher, aligned="features")
    store = Store(tmp_path)
    asked = [student, teacher, student]
    outcome = run(asked, store)
    assert [spec.teacher and spec.teacher.content for spec in outcome.runs] == [
        outcome.runs[1].content, None, outcome.runs[1].content,
    ]  # fmt: skip
    assert len(outcome.records) == 2
    register(sigma=0.3)
    assert not set(run(asked, store).records) & set(outcome.records)


def test_a_run_of_other_trials_is_not_trained(register: Callable[..., None]) -> None:
    register()
    task = make_task(NAME, version="2.3")
    for spec in (SPEC, replace(SPEC, content="0" * 16)):
        with pytest.raises(
            ValueError, match=r"^content: expected '[0-9a-f]{16}', that of Own"
        ) as e:
            train_pack([spec], task, device=CPU)
        assert "\n" not in str(e.value)
    [record] = train_pack([bind(SPEC, task)], task, device=CPU)
    assert RunSpec.from_dict(record["spec"]) == bind(SPEC, task)
    # A given content is kept, so that the record is found even if the task has changed since.
    assert bind(replace(SPEC, content="0" * 16), task).content == "0" * 16


def test_a_task_that_cannot_be_made_fails_its_own_runs(tmp_path: Path) -> None:
    """NAME is not registered here."""
    other = replace(SPEC, task="2AF", task_version="0.0.2")
    outcome = run_local([SPEC, other], Store(tmp_path), tasks(), train_pack, CPU, lambda line: None)
    assert list(outcome.records) == [other.key]
    assert NAME in outcome.failures[SPEC.key].reason
    assert outcome.runs == [SPEC, other]


def digests_elsewhere(names: list[str]) -> list[str]:
    program = (
        "from hpr.tasks import make_task\n"
        f"for name in {names!r}:\n    print(make_task(name, version='2.3').content)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_another_process_finds_the_same_content() -> None:
    """The order of sets, memory addresses and earlier draws differ between processes and don't matter."""
    names = [
        "GoNogo-v0", "ReadySetGo-v0", "MotorTiming-v0", "ContextDecisionMaking-v0",
        "DelayMatchSampleDistractor1D-v0", "yang19.dm1-v0",
    ]  # fmt: skip
    made = [make_task(name, version="2.3") for name in reversed(names)][::-1]
    assert {type(task) for task in made} == {CompiledTask, StreamedTask}
    contents = [task.content for task in made]
    assert digests_elsewhere(names) == contents
    assert len(set(contents)) == len(names)


def test_what_shows_in_no_probe_is_seen_by_what_the_environment_holds(
    register: Callable[..., None],
) -> None:
    """The value of `rare` changes no trial here, like an event that happens in one of a thousand trials."""
    contents = []
    for rare in (0.0, 1e-3, 0.0):
        register(continuous=True, rare=rare)
        contents.append(make_task(NAME, version="2.3").content)
    assert contents[0] == contents[2] != contents[1]


def test_the_source_of_an_environment_is_part_of_its_content(
    register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(continuous=True)
    content = make_task(NAME, version="2.3").content
    getsource = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda cls: f"{getsource(cls)} # edited")
    assert make_task(NAME, version="2.3").content != content
    monkeypatch.undo()
    assert make_task(NAME, version="2.3").content == content


PINNED: list[tuple[str, str, float]] = sorted(paper.PINNED)


@pytest.mark.parametrize(("name", "version", "dt"), PINNED, ids=str)
def test_the_papers_tasks_are_said_by_their_names(name: str, version: str, dt: float) -> None:
    assert make_task(name, version=version, dt=dt).content is None


def test_another_dt_of_a_papers_task_is_said_by_its_content() -> None:
    contents = [make_task("DMS", dt=dt).content for dt in (50, 25)]
    assert None not in contents
    assert len(set(contents)) == 2


@pytest.mark.parametrize("part", ["inputs", "noise", "targets", "probability", "periods"])
@pytest.mark.parametrize("name", ["2AF", "DMS", "CXT"])
def test_another_neurogym_is_no_source_of_the_papers_figures(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(environment: Any) -> Any:
        bank = compile_environment(environment)
        value = getattr(bank, part)
        if part == "periods":
            value = tuple({**of, "decision": (0, 1)} for of in value)
        elif part == "probability":
            # The probabilities differ and still add up to one.
            value = value + 1e-5 * np.resize([1, -1], len(value))
        elif part == "targets":
            value = (value + 1) % 3
        else:
            value = value * np.float32(1.0001)
        return replace(bank, **{part: value})

    compile_environment = paper.compile_environment
    monkeypatch.setattr(paper, "compile_environment", compiled)
    message = rf"^{name}: expected the trials of NeuroGym 2\.3\.1, got others of {neurogym.__version__}: pip"
    with pytest.raises(ValueError, match=message):
        make_task(name)


def test_a_rounding_of_another_processor_is_no_other_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Inputs and noise differ by one unit in the last place, as cosines do between processors."""

    def compiled(environment: Any) -> Any:
        bank = compile_environment(environment)
        up = np.float32(np.inf)
        return replace(
            bank, inputs=np.nextafter(bank.inputs, up), noise=np.nextafter(bank.noise, up)
        )

    compile_environment = paper.compile_environment
    monkeypatch.setattr(paper, "compile_environment", compiled)
    for name, version, dt in PINNED:
        if version == "2.3":
            assert make_task(name, version=version, dt=dt).content is None


def others() -> list[Task]:
    students = ["student-teacher(d=2)", "student-teacher(d=4,kappa=10,whitened)"]
    return [make_task(name) for name in ("pattern generation", "sDigits", "Digits", *students)]


def test_all_tasks_of_the_package_are_said_by_their_names() -> None:
    assert {task.content for task in others()} == {None}
    assert {task.name for task in others()} | {"2AF", "DMS", "CXT", "sMNIST", "MNIST"} >= set(TASKS)


# For each task without an environment: a weighted sum and the sum of squares of the first inputs, then of the targets.
FIRST_TRIALS: dict[str, list[float]] = {
    "pattern generation": [9.21172575, 3061.27871, 0.632248937, 36.270043],
    "sDigits": [-14.5157827, 248.777344, 4.52034735, 6176.0],
    "Digits": [-11.8889615, 235.308594, -7.37476045, 764.0],
    "student-teacher(d=2)": [0.416360256, 27.2221671, 1.94748245, 33.6856389],
    "student-teacher(d=4,kappa=10,whitened)": [1.89374253, 85.3333359, 3.26301945, 564.014119],
}


def test_the_first_trials_of_what_has_no_environment_are_kept() -> None:
    """If this fails, a task's trials have changed, and it needs a new version so that its runs get new keys."""
    found = {}
    for task in others():
        drawn = task.draw(3, 1, 2, 8)
        arrays = [array.astype(np.float64) for array in (drawn.inputs, drawn.targets)]
        weights = [np.cos(np.arange(array.size)).reshape(array.shape) for array in arrays]
        found[task.name] = [
            value
            for array, weight in zip(arrays, weights, strict=True)
            for value in (float((array * weight).sum()), float((array**2).sum()))
        ]
    assert found == {name: pytest.approx(of, rel=1e-5) for name, of in FIRST_TRIALS.items()}
