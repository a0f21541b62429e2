"""The shapes of the paper's and the project's tasks, known without making them, so that planning needs no files."""

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

# The number of inputs of the paper's NeuroGym tasks by version; each has three classes.
_NEUROGYM_INPUTS = {
    ("2AF", "0.0.2"): 3,
    ("2AF", NEUROGYM_VERSION): 3,
    ("DMS", "0.0.2"): 3,
    ("DMS", NEUROGYM_VERSION): 3,
    ("CXT", "0.0.2"): 7,
    ("CXT", NEUROGYM_VERSION): 5,
}
# Side of the square pictures, of tasks that show rows and of tasks that show whole pictures.
_ROW_SIDES = {"sMNIST": 28, "sDigits": 8}
_WHOLE_SIDES = {"MNIST": 28, "Digits": 8}


@dataclass
class TaskDimensions:
    """The dimensions of a task, and the time steps that its loss counts (see `Task`)."""

    N_in: int
    N_out: int
    T: int
    loss_steps: Literal["all", "last"]


def shape_of(name: str, version: str, dt: float) -> TaskDimensions | None:
    """Return the shape of the task that `make_task` would make of the same arguments; `dt` is in ms.

    The result is None for a NeuroGym id, whose task must be made to know its shape, and for arguments that `make_task`
    refuses.
    """
    if not 0 < dt < math.inf:
        return None
    if (name, version) in _NEUROGYM_INPUTS:
        periods = PAPER_TASKS[name].timing.values()
        if any(length % dt for length in periods):
            return None
        return TaskDimensions(_NEUROGYM_INPUTS[name, version], 3, int(sum(periods) / dt), "all")
    if version != own_version(name):
        return None
    if name in _ROW_SIDES:
        return TaskDimensions(_ROW_SIDES[name], 10, _ROW_SIDES[name], "last")
    if name in _WHOLE_SIDES:
        return TaskDimensions(_WHOLE_SIDES[name] ** 2, 10, 1, "last")
    try:
        task: Task = (
            PatternGeneration(dt) if name == PatternGeneration.name else student_teacher(name)
        )
    except ValueError:
        return None
    return TaskDimensions(task.N_in, task.N_out, task.T, task.loss_steps)
