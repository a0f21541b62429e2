"""Tasks by name."""

from __future__ import annotations

import math
import numbers
import os

from .base import Task
from .compiled_task import CompiledTask
from .conditions import compile_environment
from .digits import small_digits
from .environment import NEUROGYM_VERSION, open_environment
from .mnist import mnist
from .paper import PAPER_TASKS, paper_task
from .pattern import PatternGeneration
from .script import NotEnumerable
from .streamed_task import StreamedTask
from .student_teacher import student_teacher
from .versions import NEUROGYM_VERSIONS, PICTURE_TASKS, own_version

TASKS = (*PAPER_TASKS, *PICTURE_TASKS, PatternGeneration.name)


def make_task(
    name: str,
    *,
    version: str | None = None,
    dt: float = 100.0,
    mnist_dir: str | os.PathLike[str] | None = None,
) -> Task:
    """Make a task.

    Args:
        name: one of `TASKS`; student-teacher(d=…,kappa=…,whitened), whose last two may be left
            out; or any NeuroGym id that gives one class a time step; an id's
            periods are the environment's own. Trials of an environment with a finite number of
            conditions are compiled, those of any other come through `neurogym.Dataset`.
        version: whose behaviour a NeuroGym task shows: "0.0.2" (the default), known for the
            paper's three, or "2.3", the installed NeuroGym's. All other tasks have one, "1".
        dt: time step in ms; the digits have one step a row, and students and whole pictures one.
        mnist_dir: folder of MNIST's four IDX files, for sMNIST and MNIST.

    Raises:
        ValueError: an argument is out of range, or the environment cannot be a task.
        ImportError: a NeuroGym task, and NeuroGym is missing.
        MnistUnavailable: sMNIST or MNIST, and it is neither here nor can be downloaded.
    """
    if not isinstance(dt, numbers.Real) or not math.isfinite(dt) or dt <= 0:
        raise ValueError(f"dt must be a positive number of ms, got {dt!r}")
    own = own_version(name)
    if own is not None:
        task = _own_task(name, dt, mnist_dir)
        if version not in (None, own):
            raise ValueError(f"version must be {own!r} for {name}, got {version!r}")
        return task
    version = NEUROGYM_VERSIONS[0] if version is None else version
    if version not in NEUROGYM_VERSIONS:
        raise ValueError(f"version must be one of {', '.join(NEUROGYM_VERSIONS)}, got {version!r}")
    if name in PAPER_TASKS:
        return paper_task(name, version, dt)
    if version != NEUROGYM_VERSION:
        raise ValueError(
            f"version must be {NEUROGYM_VERSION!r} for {name!r}, as 0.0.2's behaviour is known "
            f"for {', '.join(PAPER_TASKS)} only, got {version!r}"
        )
    environment, other = open_environment(name, dt), open_environment(name, dt)
    try:
        bank = compile_environment(environment)
        if not bank.equals(compile_environment(other)):
            raise NotEnumerable("it differs each time that it is made")
    except NotEnumerable as reason:
        return StreamedTask(name, version, dt, str(reason))
    return CompiledTask(name, version, name, dt, bank, int(environment.action_space.n))


def _own_task(name: str, dt: float, mnist_dir: str | os.PathLike[str] | None) -> Task:
    """Make one of the project's own tasks."""
    if name in ("sMNIST", "MNIST"):
        return mnist(mnist_dir, rows=name == "sMNIST")
    if name in ("sDigits", "Digits"):
        return small_digits(rows=name == "sDigits")
    return PatternGeneration(dt) if name == PatternGeneration.name else student_teacher(name)
