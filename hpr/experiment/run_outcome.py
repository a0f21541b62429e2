"""What became of the runs that were asked for: records, and failures with their reasons."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec

# The errors of a file system that takes no more: full, read-only, over its quota.
FULL = frozenset({errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True)
class Failure:
    """A run, figure or file for which an exception was raised: its name, the error in one line, the traceback.

    `passing`: the cause is outside the run (a signal, the memory or the disk), so that another try may succeed.
    """

    what: str
    reason: str
    traceback: str
    passing: bool = False

    @classmethod
    def of(cls, what: str, error: Exception) -> Failure:
        """Describe a caught exception; `what` names what it was raised for."""
        line = " ".join(f"{type(error).__name__}: {error}".split())
        passing = no_memory(error) or disk_full(error)
        return cls(what, line, "".join(traceback.format_exception(error)), passing)


@dataclass
class Outcome:
    """Records by key and failures by key. Each run asked for has either a record or a failure.

    `runs` are the runs asked for, in order, as they were trained and kept: bound to their tasks
    (`hpr.experiment.bind`). Binding changes a run only if its task has a `content` or its structure is your own.
    """

    runs: list[RunSpec] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def of(self, asked: Sequence[RunSpec]) -> tuple[dict[str, Record], dict[str, str]]:
        """Records and reasons of failures by the keys of the runs that `run_local` was asked for, in the same order."""
        pairs = [(spec.key, run.key) for spec, run in zip(asked, self.runs, strict=True)]
        return (
            {key: self.records[bound] for key, bound in pairs if bound in self.records},
            {key: self.failures[bound].reason for key, bound in pairs if bound in self.failures},
        )

    def decided(self, spec: RunSpec) -> bool:
        """Whether the run has a record or a failure."""
        return spec.key in self.records or spec.key in self.failures

    def ending(self, pack: Sequence[RunSpec]) -> str:
        """How many runs of a pack ended how."""
        statuses = [
            self.records[spec.key]["status"] if spec.key in self.records else "failed"
            for spec in pack
        ]
        return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def no_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory, so that fewer networks at once may fit."""
    # Torch is not imported for its own class's sake, and has no class for the memory of the CPU.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


def disk_full(error: BaseException) -> bool:
    """Whether an error says that the file system takes no more."""
    return isinstance(error, OSError) and error.errno in FULL
