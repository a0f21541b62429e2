"""How far a long computation is, told to a function of the caller."""

from __future__ import annotations

from collections.abc import Callable

# Called with the number of parts done, and the number of all parts or None while it is not known.
Progress = Callable[[int, int | None], object]


class Steps:
    """Counts the parts of a computation that are done and tells them to `progress`, if one is given.

    Args:
        progress: the caller's function, or None.
        total: the number of all parts; None if it is not known before the end, when `finish` tells it.

    Raises:
        TypeError: `progress` cannot be called.
    """

    def __init__(self, progress: Progress | None, total: int | None) -> None:
        if progress is not None and not callable(progress):
            raise TypeError(
                f"progress: expected a function of two numbers, got {type(progress).__name__}"
            )
        self.progress, self.total, self.done = progress, total, 0

    def step(self, count: int = 1) -> None:
        """`count` more parts are done."""
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)

    def finish(self) -> None:
        """All parts are done, and their number is known now."""
        self.total = self.done
        if self.progress is not None:
            self.progress(self.done, self.total)
