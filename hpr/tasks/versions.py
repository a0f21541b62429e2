"""The version of a task by its name, known without making the task: no file is opened, NeuroGym is not imported."""

from __future__ import annotations

from typing import overload

from .array_task import PREFIX, ArrayTask
from .digits import RowDigits
from .environment import NEUROGYM_VERSION
from .pattern import PatternGeneration
from .student_teacher import StudentTeacher

# Whose behaviour a NeuroGym task can show; the first is make_task's default.
NEUROGYM_VERSIONS = ("0.0.2", NEUROGYM_VERSION)
PICTURE_TASKS = ("sMNIST", "sDigits", "MNIST", "Digits")


def own_version(name: str) -> str | None:
    """Return the only version of one of the project's own tasks, or None for NeuroGym's tasks."""
    if name in PICTURE_TASKS:
        return RowDigits.version
    if name == PatternGeneration.name:
        return PatternGeneration.version
    if name.startswith(PREFIX):
        return ArrayTask.version
    return StudentTeacher.version if name.startswith(StudentTeacher.label) else None


@overload
def task_version(name: str, asked: str) -> str: ...
@overload
def task_version(name: str, asked: str | None) -> str | None: ...
def task_version(name: str, asked: str | None) -> str | None:
    """Return the version of a task: `asked` for a NeuroGym task, and its only version, "1", for the project's own.

    Args:
        name: a name that `make_task` takes; it is not checked.
        asked: the version of NeuroGym whose behaviour the caller wants.
    """
    own = own_version(name)
    return asked if own is None else own
