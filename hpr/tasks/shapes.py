"""The shapes of the project's own tasks, known without making them: a plan needs neither NeuroGym nor files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .base import Task
from .environment import NEUROGYM_VERSION
from .paper import PAPER_TASKS
from .pattern import PatternGeneration
from .student_teacher import student_teacher
from .versions import own_version

# The inputs of NeuroGym's environments by version; each has three classes.
_INPUTS = {
    ("2AF", "0.0.2"): 3,
    ("2AF", NEUROGYM_VERSION): 3,
    ("DMS", "0.0.2"): 3,
    ("DMS", NEUROGYM_VERSION): 3,
    ("CXT", "0.0.2"): 7,
    ("CXT", NEUROGYM_VERSION): 5,
}
# Side of a task's square pictures.
_ROWS = {"sMNIST": 28, "sDigits": 8}
_WHOLE = {"MNIST": 28, "Digits": 8}


@dataclass
class Shape:
    """A task's numbers of inputs, outputs and time steps, and the steps that its loss counts."""

    N_in: int
    N_out: int
    T: int
    loss_steps: Literal["all", "last"]


def shape_of(name: str, version: str, dt: float) -> Shape | None:
    """The shape of the task that `make_task` makes of the same arguments, dt in ms.

    None where it must be made to know it, or can't be made: a NeuroGym id, or arguments that `make_task` refuses.
    """
    if not 0 < dt < math.inf:
        return None
    if (name, version) in _INPUTS:
        periods = PAPER_TASKS[name].timing.values()
        if any(length % dt for length in periods):
            return None
        return Shape(_INPUTS[name, version], 3, int(sum(periods) / dt), "all")
    if version != own_version(name):
        return None
    if name in _ROWS:
        return Shape(_ROWS[name], 10, _ROWS[name], "last")
    if name in _WHOLE:
        return Shape(_WHOLE[name] ** 2, 10, 1, "last")
    try:
        task: Task = (
            PatternGeneration(dt) if name == PatternGeneration.name else student_teacher(name)
        )
    except ValueError:
        return None
    return Shape(task.N_in, task.N_out, task.T, task.loss_steps)
