"""Failed runs, one file each: a run that failed is not trained again unless it is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, fields
from pathlib import Path

from hpr.experiment.run_outcome import Failure
from hpr.experiment.specification import RunSpec
from hpr.system.files import write_atomically

# A traceback is kept up to this many characters, and a larger file is no failure of this program's.
LONGEST = 100_000


class Failures:
    """The failures of runs, `<folder>/<key>.json`.

    A failure that was there before this object looked first is an earlier one; one that came later is of a process
    that works on the same folder now.

    Args:
        folder: where the files are; it is made at the first failure.
        retry: whether earlier failures are tried again.
    """

    def __init__(self, folder: Path, *, retry: bool = False) -> None:
        self.folder, self._retry = folder, retry
        self._earlier: dict[str, bytes] = {}
        # How many runs are not tried again.
        self.standing = 0

    def path(self, spec: RunSpec) -> Path:
        """The file of a run."""
        return self.folder / f"{spec.key}.json"

    def names(self) -> set[str]:
        """The keys of the runs that have a file."""
        try:
            return {name[:-5] for name in os.listdir(self.folder) if name.endswith(".json")}
        except OSError:
            return set()

    def earlier(self, spec: RunSpec) -> Failure | None:
        """The failure that keeps a run from being tried again, at the start."""
        content = self._content(spec)
        if content is None:
            return None
        self._earlier[spec.key] = content
        failure = _parsed(content)
        if failure is None or failure.passing or self._retry:
            return None
        self.standing += 1
        return failure

    def since(self, spec: RunSpec) -> Failure | None:
        """The failure of another process since the start that keeps a run from being tried again here."""
        content = self._content(spec)
        if content is None or content == self._earlier.get(spec.key):
            return None
        failure = _parsed(content)
        return None if failure is None or failure.passing else failure

    def keep(self, spec: RunSpec, failure: Failure) -> None:
        """Write a failure down. Where that is not possible, the run is tried again at the next start."""
        plain = {**asdict(failure), "traceback": failure.traceback[-LONGEST:]}
        content = {"key": spec.key, "spec": spec.to_dict(), "time": time.time(), **plain}
        with contextlib.suppress(OSError):
            write_atomically(self.path(spec), json.dumps(content, indent=1).encode() + b"\n")

    def drop(self, spec: RunSpec) -> None:
        """Remove the failure of a run that has a record now."""
        if spec.key in self._earlier:
            with contextlib.suppress(OSError):
                self.path(spec).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder if it is empty."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _content(self, spec: RunSpec) -> bytes | None:
        path = self.path(spec)
        try:
            if not path.is_file():
                return None
            with path.open("rb") as file:
                return file.read(4 * LONGEST)
        except OSError:
            return None


def _parsed(content: bytes) -> Failure | None:
    """The failure of a file; None for anything else, so that the run is tried again."""
    try:
        plain = json.loads(content)
        failure = Failure(**{field.name: plain[field.name] for field in fields(Failure)})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = (failure.what, failure.reason, failure.traceback)
    sound = all(isinstance(text, str) for text in texts) and isinstance(failure.passing, bool)
    return failure if sound else None
