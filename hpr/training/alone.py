"""Errors that concern one network of a pack alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hpr.experiment.run_outcome import no_memory
from hpr.experiment.specification import RunSpec
from hpr.training.watch import Stopped

Fail = Callable[[RunSpec, Exception], None]


class Alone:
    """Hands an error that concerns one network to `fail`; without `fail` it is raised.

    Missing memory concerns the whole pack and is raised in any case, and so is `Stopped`.
    """

    def __init__(self, fail: Fail | None) -> None:
        self._fail = fail
        self.raises = fail is None

    @contextmanager
    def __call__(self, spec: RunSpec) -> Iterator[None]:
        """What is done inside concerns the run `spec`; the statement after it is reached if `fail` took the error."""
        try:
            yield
        except Exception as error:
            if self._fail is None or isinstance(error, Stopped) or no_memory(error):
                raise
            self._fail(spec, error)
