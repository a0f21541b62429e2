"""Shapes and versions known without making a task, against the tasks as they are made."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hpr.experiment.plan import tasks
from hpr.figures import Settings, discover
from hpr.tasks import TASKS, make_task, task_version
from hpr.tasks.paper import PAPER_TASKS
from hpr.tasks.shapes import TaskDimensions, shape_of

STUDENTS = (
    "student-teacher(d=2)",
    "student-teacher(d=33,whitened)",
    "student-teacher(d=20,kappa=2.5,whitened)",
)
STEPS = (100.0, 20.0, 70.0, 12.5, 1000.0, 33.3, 0.0, -20.0, math.nan)
VERSIONS = ("0.0.2", "2.3", "1", "0.1")


@pytest.fixture(scope="module")
def mnist_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of MNIST's form with 3 blank pictures of its size."""
    folder = tmp_path_factory.mktemp("mnist")
    for part in ("train", "t10k"):
        images, labels = np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8)
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            head = np.array([0x0800 + content.ndim, *content.shape], ">i4").tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + content.tobytes())
    return folder


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [*TASKS, *STUDENTS])
def test_a_shape_is_that_of_the_task_made_and_none_where_it_cannot_be_made(
    name: str, version: str, mnist_dir: Path
) -> None:
    for dt in STEPS:
        try:
            task = make_task(name, version=version, dt=dt, mnist_dir=mnist_dir)
        except ValueError:
            assert shape_of(name, version, dt) is None, dt
        else:
            made = TaskDimensions(task.N_in, task.N_out, task.T, task.loss_steps)
            assert shape_of(name, version, dt) == made, dt


def test_every_run_of_the_paper_is_planned_without_making_a_task() -> None:
    for profile in ("quick", "paper"):
        for smnist in ("sMNIST", "sDigits"):
            settings = Settings(profile=profile, smnist=smnist, seeds=1)
            for figure in discover().values():
                for spec in figure.runs(settings):
                    assert shape_of(spec.task, spec.task_version, spec.dt), spec


@pytest.mark.parametrize("name", ["student-teacher(d=1)", "student-teacher(d=2,kappa=0)", "none"])
def test_what_is_no_task_of_the_projects_has_no_shape(name: str) -> None:
    assert shape_of(name, "1", 100.0) is None


def test_a_neurogym_id_is_made_to_know_its_shape() -> None:
    assert shape_of("GoNogo-v0", "2.3", 100.0) is None
    from hpr.connectivity import Dense
    from hpr.experiment.cost import cost
    from hpr.experiment.plan import pack_cost
    from hpr.experiment.specification import RunSpec

    spec = RunSpec("GoNogo-v0", Dense(), seed=0, task_version="2.3")
    assert pack_cost([spec], tasks()) == cost([spec], make_task("GoNogo-v0", version="2.3"))


@pytest.mark.parametrize("name", [name for name in TASKS if name not in PAPER_TASKS] + [*STUDENTS])
def test_a_task_of_the_project_has_its_one_version_whatever_is_asked(
    name: str, mnist_dir: Path
) -> None:
    made = make_task(name, mnist_dir=mnist_dir)
    assert task_version(name, "2.3") == task_version(name, None) == made.version


@pytest.mark.parametrize("name", [*PAPER_TASKS, "GoNogo-v0"])
def test_a_neurogym_task_has_the_version_that_is_asked(name: str) -> None:
    assert task_version(name, "0.0.2") == "0.0.2"
    assert make_task(name, version=task_version(name, "2.3")).version == "2.3"


def test_a_version_is_known_without_opening_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise AssertionError(f"opened {arguments}")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refused)
        with pytest.raises(AssertionError, match="opened"):
            make_task("Digits")
        versions = [task_version(name, "2.3") for name in (*TASKS, *STUDENTS)]
    assert versions == ["2.3"] * 3 + ["1"] * 8
