"""Make a task by its name."""

from __future__ import annotations

import math
import numbers
import os

from .array_task import PREFIX, open_trials
from .base import Task
from .compiled_task import CompiledTask
from .conditions import compile_environment
from .digits import small_digits
from .environment import NEUROGYM_VERSION, open_environment
from .mnist import mnist
from .own_class import make_own, own_class, split_name
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
        name: one of `TASKS`; "student-teacher(d=…,kappa=…,whitened)", of which the last two may be
            left out; a NeuroGym id with one class per time step; "module:Class" or an entry point's
            name, for a TrialEnv or Task of your own (`own_class`); or "trials:…", which
            `array_task.keep_trials` gave. Ids and classes take keyword arguments, as in
            "GoNogo-v0(dim_ring=2)"; the periods of an id are the environment's defaults. If an
            environment has finitely many conditions, they are compiled (`CompiledTask`); if not,
            trials come from `neurogym.Dataset` (`StreamedTask`).
        version: the NeuroGym version whose behaviour a NeuroGym task has: "0.0.2" (the default),
            for the paper's three tasks only, or "2.3", the installed NeuroGym. A TrialEnv of your
            own has "2.3" and a Task of your own the version of its class. All other tasks have one
            version, "1".
        dt: time step in ms. It does not affect the digits, which have one step per row or per
            whole picture, and the students, which have one step.
        mnist_dir: folder of MNIST's four IDX files, for sMNIST and MNIST.

    Raises:
        ValueError: an argument is out of range, or the environment cannot be a task.
        ImportError: the task is NeuroGym's, and NeuroGym is not installed.
        MnistUnavailable: the task is sMNIST or MNIST, and its files are neither found nor downloaded.
    """
    if not isinstance(dt, numbers.Real) or not math.isfinite(dt) or dt <= 0:
        raise ValueError(f"dt: expected a positive number of ms, got {dt!r}")
    own = own_version(name)
    if own is not None:
        task = _own_task(name, dt, mnist_dir)
        if version not in (None, own):
            raise ValueError(f"version: expected {own!r} for {name}, got {version!r}")
        return task
    base, arguments = split_name(name)
    if arguments and base in TASKS:
        raise ValueError(f"task: expected {base} without arguments, got {name!r}")
    cls = None if name in PAPER_TASKS else own_class(base)
    if cls is not None and issubclass(cls, Task):
        task = make_own(cls, name, arguments, dt)
        if version not in (None, task.version):
            raise ValueError(f"version: expected {task.version!r} for {name}, got {version!r}")
        return task
    if version is None:
        version = NEUROGYM_VERSIONS[0] if cls is None else NEUROGYM_VERSION
    if version not in NEUROGYM_VERSIONS:
        known = ", ".join(NEUROGYM_VERSIONS)
        raise ValueError(f"version: expected one of {known}, got {version!r}")
    if name in PAPER_TASKS:
        return paper_task(name, version, dt)
    if version != NEUROGYM_VERSION:
        raise ValueError(
            f"version: expected {NEUROGYM_VERSION!r} for {name!r}, as 0.0.2's behaviour is known "
            f"for {', '.join(PAPER_TASKS)} only, got {version!r}"
        )
    return _of_environment(name, version, dt)


def _of_environment(name: str, version: str, dt: float) -> Task:
    """Make the task of a NeuroGym environment."""
    environment, other = open_environment(name, dt), open_environment(name, dt)
    try:
        bank = compile_environment(environment)
        if not bank.equals(compile_environment(other)):
            raise NotEnumerable("it differs each time that it is made")
    except NotEnumerable as reason:
        return StreamedTask(name, version, dt, str(reason))
    return CompiledTask(name, version, name, dt, bank, int(environment.action_space.n))


def _own_task(name: str, dt: float, mnist_dir: str | os.PathLike[str] | None) -> Task:
    """Make one of the project's own tasks, or one of arrays."""
    if name.startswith(PREFIX):
        return open_trials(name)
    if name in ("sMNIST", "MNIST"):
        return mnist(mnist_dir, rows=name == "sMNIST")
    if name in ("sDigits", "Digits"):
        return small_digits(rows=name == "sDigits")
    return PatternGeneration(dt) if name == PatternGeneration.name else student_teacher(name)
