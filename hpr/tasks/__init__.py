"""The paper's tasks, and any NeuroGym task, as pure functions from (seed, step) to trials."""

from .array_task import check_trials, keep_trials, read_trials
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
    "check_trials",
    "find_mnist",
    "keep_trials",
    "make_task",
    "read_trials",
    "task_version",
]
