"""What the report reads: the JSON of the figures and of the summary, and the records of the figures' runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpr.experiment.record import Record, validate
from hpr.experiment.specification import RunSpec

NAME = re.compile(r"figure_([\w-]+)\.json")
KEY = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Folder:
    """The content of a folder of results.

    Attributes:
        out: the folder.
        figures: what each figure's JSON holds; figures with numbers come first.
        failures: the runs, figures and files for which an exception was raised, each with `what` and `reason`.
        records: the records of the figures' runs, by key.
        unreadable: the files that could not be read, each with the reason.
    """

    out: Path
    figures: list[dict[str, Any]]
    failures: list[dict[str, str]]
    records: dict[str, Record] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def read_results(out: Path) -> Folder:
    """Read a folder that `hpr.reproduce` wrote. Nothing in it is changed.

    Raises:
        ValueError: one line, when the folder holds no figure that can be read.
    """
    figures, unreadable = [], {}
    for path in sorted(out.glob("figure_*.json"), key=_place):
        if NAME.fullmatch(path.name):
            try:
                figures.append(_figure(path))
            except (OSError, ValueError) as error:
                unreadable[path.name] = _line(error)
    if not figures:
        why = "".join(f"; {name}: {reason}" for name, reason in unreadable.items())
        raise ValueError(
            f"out: expected a folder with figure_*.json, which hpr.reproduce writes, got {out}{why}"
        )
    try:
        failures = _json(out / "summary.json")["failures"]
    except (OSError, ValueError, KeyError) as error:
        failures, unreadable["summary.json"] = [], _line(error)
    folder = Folder(out, figures, failures, unreadable=unreadable)
    for key in dict.fromkeys(key for figure in figures for key in figure["runs"]):
        path = out / "runs" / f"{key}.json"
        # A run that failed has no file, and the figure's JSON says why.
        if KEY.fullmatch(key) and path.is_file():
            try:
                folder.records[key] = _record(path)
            except (OSError, ValueError) as error:
                unreadable[f"runs/{path.name}"] = _line(error)
    return folder


def _place(path: Path) -> tuple[bool, int, str]:
    """The sort key of a figure's file: numbers by their value, then the other names."""
    name = path.stem.removeprefix("figure_")
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)


def _figure(path: Path) -> dict[str, Any]:
    content = _json(path)
    if content.get("schema") != 1 or f"figure_{content.get('figure')}" != path.stem:
        raise ValueError(f"expected schema 1 of {path.stem}, got another's")
    return content


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {type(content).__name__}")
    return content


def _record(path: Path) -> Record:
    content = path.read_bytes()
    return validate(content, RunSpec.from_dict(json.loads(content).get("spec")))


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
