"""The paper's tasks, and any NeuroGym task, as pure functions from (seed, step) to trials."""

from .base import Split, Task, Trials
from .mnist import MnistUnavailable, find_mnist
from .registry import TASKS, make_task
from .versions import task_version

__all__ = [
    "TASKS",
    "MnistUnavailable",
    "Split",
    "Task",
    "Trials",
    "find_mnist",
    "make_task",
    "task_version",
]
