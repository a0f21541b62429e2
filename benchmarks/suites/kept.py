"""Tasks for benchmarks: one whose trials are drawn once, and one of sMNIST's sizes without its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpr.tasks import Task
    from hpr.tasks.base import Trials


def random_pictures() -> Task:
    """Random grey values as pictures of 28 rows, with random classes at the last step."""
    import numpy as np

    from hpr.tasks.digits import RowDigits

    rng = np.random.default_rng(0)
    pictures = rng.integers(256, size=(2000, 28, 28), dtype=np.uint8)
    both = pictures, rng.integers(10, size=2000).astype(np.uint8)
    return RowDigits("pictures", "pictures", 200, 255, {"train": both, "evaluation": both})


class Kept:
    """A task whose draws are kept and handed out again; all else is that of the task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.kept: dict[tuple[Any, ...], Trials] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def draw(self, *arguments: Any) -> Trials:
        """The other task's trials."""
        if arguments not in self.kept:
            self.kept[arguments] = self.task.draw(*arguments)
        return self.kept[arguments]
