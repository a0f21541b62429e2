"""The table of guards in docs/benchmarks.md, from what asv has stored for this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from asv.machine import Machine
from asv.results import Results, iter_results

from benchmarks.gate import FLOORS, HARDWARE, values
from benchmarks.markdown import heading, row


def guards_section(folder: Path) -> str:
    """The section of every guard of the newest commit that asv has measured on this machine, beside its floor."""
    title = "## The guards\n\nWhat `asv run --bench track_` measured"
    found = newest(folder)
    if found is None:
        return f"{title}: nothing on this machine yet.\n"
    floors = json.loads(FLOORS.read_text(encoding="utf-8"))
    rows = [
        row(
            f"`{label}`",
            _as_shown(value),
            _as_shown(floors[label]["at_most"]) if label in floors else "",
        )
        for label, value, _ in values(found)
        if ".track_" in label
    ]
    day = datetime.fromtimestamp(max(found.started_at.values()) / 1e3, timezone.utc)
    return (
        f"{title} on {day:%Y-%m-%d} at commit {found.commit_hash[:8]}. Lower is better. "
        "`python -m benchmarks gate` fails where a value is above the last column.\n\n"
        + "\n".join([heading("guard", "value", "at most"), *rows])
        + "\n"
    )


def newest(folder: Path) -> Results | None:
    """The last result with guards of the newest commit that was measured on this machine; None without one."""
    here = Machine.get_defaults()

    def measured() -> Iterator[Results]:
        for result in iter_results(str(folder)):
            guarded = any(".track_" in name for name in result.get_all_result_keys())
            if guarded and all(result.params.get(key) == here[key] for key in HARDWARE):
                yield result

    return max(
        measured(),
        key=lambda result: (result.date, max(result.started_at.values())),
        default=None,
    )


def _as_shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "failed" if value is None else "skipped"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
