"""What made the records, and what they cost, as rows of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hpr.command_line import counted, in_words
from hpr.experiment.record import Record

STATUSES = ("finished", "stopped", "diverged")


def sources(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row per machine, engine, commit and set of versions, with its runs and their time."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        source = record["provenance"]
        versions = tuple(sorted((source.get("versions") or {}).items()))
        machine, engine, commit = (source.get(name) for name in ("device", "engine", "git"))
        cores, threads = source.get("cores"), source.get("threads")
        row = rows.setdefault(
            (machine, engine, commit, cores, threads, versions),
            {
                "machine": _machine(machine, cores, threads),
                "engine": engine or "not recorded",
                "commit": commit or "not recorded",
                "versions": versions,
                "runs": 0,
                "seconds": 0.0,
                "started": [],
            },
        )
        row["runs"] += 1
        row["seconds"] += seconds(record)
        if record["timings"].get("started"):
            row["started"].append(record["timings"]["started"])
    for row in rows.values():
        row["time"] = in_words(row["seconds"])
        days = sorted(started[:10] for started in row["started"])
        row["days"] = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "not recorded"
    return sorted(rows.values(), key=lambda row: -row["runs"])


def costs(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row per task, size and number of iterations: its runs, how they ended, and their time."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        spec = record["spec"]
        row = rows.setdefault(
            (spec["task"], spec["N"], spec["iterations"]),
            {
                "task": spec["task"],
                "N": spec["N"],
                "iterations": spec["iterations"],
                "endings": Counter(),
                "training": 0.0,
                "measuring": 0.0,
            },
        )
        row["endings"][record["status"]] += 1
        row["training"] += record["timings"].get("training_s") or 0.0
        row["measuring"] += record["timings"].get("measures_s") or 0.0
    for row in rows.values():
        row["runs"] = row["endings"].total()
        row["ended"] = ", ".join(f"{row['endings'][s]} {s}" for s in STATUSES if row["endings"][s])
    return sorted(rows.values(), key=lambda row: -row["training"] - row["measuring"])


def _machine(device: Any, cores: int | None, threads: int | None) -> str:
    parts = [
        counted(number, name) for number, name in ((cores, "core"), (threads, "thread")) if number
    ]
    return ", ".join([str(device), *parts])


def seconds(record: Record) -> float:
    """The time of a run: its share of its pack's training, and its measures."""
    timings = record["timings"]
    return float(timings.get("training_s") or 0.0) + float(timings.get("measures_s") or 0.0)
