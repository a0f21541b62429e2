"""`--log-json`: what happens while runs are trained, as one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


class RunLog:
    """Writes events. Every line is written at once and whole, so a killed process leaves whole lines.

    Nothing is written before `begin`, so a command line that is refused leaves no file.

    Args:
        where: a file, which is appended to and whose folder is made; "-" for stderr; None: nothing is written.
        **start: the fields of the first event.
    """

    def __init__(self, where: str | None = None, **start: Any) -> None:
        self.where, self._start = where, start
        self.on, self.on_stderr = False, where == "-"
        self._file: int | None = None
        # A signal's handler may write an event in the middle of another.
        self._lock = threading.RLock()
        self._started = time.monotonic()
        self._counts: Counter[str] = Counter()
        # What ended the program, in one line.
        self.error: str | None = None

    def begin(self) -> None:
        """Open the file and write the first event.

        Raises:
            OSError: the file can't be opened.
        """
        if self.where is None:
            return
        if not self.on_stderr:
            path = Path(self.where)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.on = True
        self.event("start", **self._start)

    def event(self, name: str, **fields: Any) -> None:
        """Write an event. It raises nothing: where the log can't be written, one line on stderr says so."""
        if not self.on:
            return
        self._counts[name] += 1
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        text = json.dumps({"time": now, "event": name, **_plain(fields)}, allow_nan=False)
        content = f"{text}\n"
        with self._lock:
            try:
                if self._file is not None:
                    _append(self._file, content.encode())
                elif self.on:
                    sys.stderr.write(content)
                    sys.stderr.flush()
            except (OSError, ValueError, RuntimeError) as error:
                self.on = False
                reason = getattr(error, "strerror", None) or error
                with contextlib.suppress(OSError, ValueError):
                    print(
                        f"hpr: --log-json: {self.where} can't be written: {reason}", file=sys.stderr
                    )

    def end(self, status: int) -> None:
        """Write the last event, and close the file."""
        self.event(
            "end",
            status=status,
            seconds=round(time.monotonic() - self._started, 3),
            finished=self._counts["finished"],
            failed=self._counts["failed"],
            error=self.error,
        )
        with self._lock:
            self.on = False
            if self._file is not None:
                os.close(self._file)
                self._file = None


def _append(number: int, line: bytes) -> None:
    """Write a line whole, or raise OSError and leave none of it: a full disk may take the first part."""
    written = 0
    try:
        while written < len(line):
            written += os.write(number, line[written:])
    except OSError:
        with contextlib.suppress(OSError):
            end = os.lseek(number, 0, os.SEEK_CUR)
            # Not where another program has appended to the file since.
            if end == os.fstat(number).st_size:
                os.ftruncate(number, end - written)
        raise


def _plain(value: Any) -> Any:
    """A value without numbers that JSON lacks: they become null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
