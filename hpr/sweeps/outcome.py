"""What a sweep gave: its records, a table with one row per run, means per setting, and a picture."""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpr.command_line import counted
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.fields import as_path, shown
from hpr.figures.panel import Panel
from hpr.sweeps.expansion import Setting
from hpr.sweeps.field_names import COMPUTED, RUN_FIELDS, did_you_mean, structure_fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["dots", "boxes", "lines"]
# The measures in the table that the command line prints.
SUMMARY = {
    "weight_change_norm": "weight change",
    "representation_alignment": "representation alignment",
    "kernel_alignment": "kernel alignment",
    "final_accuracy": "accuracy",
}


@dataclass(frozen=True)
class SweepResult:
    """The settings of a sweep in order, the records of their runs by key, and the reasons of failures by key.

    `sweep_file` makes the same runs again with `python -m hpr.run`.
    """

    settings: tuple[Setting, ...]
    by_key: Mapping[str, Record]
    failures: Mapping[str, str]
    out: Path
    sweep_file: Path

    def __repr__(self) -> str:
        endings = Counter(record["status"] for record in self.by_key.values())
        endings["failed"] += len(self.failures)
        counts = ", ".join(f"{n} {status}" for status, n in sorted(endings.items()) if n)
        return f"SweepResult({counted(len(self.settings), 'setting')}, {counts or 'no run'}, in {self.out})"

    @property
    def runs(self) -> list[RunSpec]:
        """The runs, setting by setting."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def records(self) -> list[Record]:
        """The records of the runs that have one, setting by setting."""
        return [self.by_key[run.key] for run in self.runs if run.key in self.by_key]

    @property
    def flags(self) -> dict[str, list[str]]:
        """By key, which measures of a run are no finite numbers, or how it diverged; the former come first."""
        found = sorted(self.records, key=lambda record: record["status"] == "diverged")
        return {record["key"]: record["flags"] for record in found if record["flags"]}

    def rows(self) -> list[dict[str, Any]]:
        """One row per run: every field of the run and of its structure, how it ended, and every measure.

        A field that a structure lacks and a measure that a run lacks are None.
        """
        rows = []
        for setting in self.settings:
            for run in setting.runs:
                record = self.by_key.get(run.key)
                ending = {"status": "failed" if record is None else record["status"]}
                rows.append(
                    {**_fields(setting, run), **ending, **(record or {}).get("measures", {})}
                )
        names = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name) for name in names} for row in rows]

    def table(self) -> Any:
        """The rows as a pandas DataFrame where pandas is installed, and else as a list of dicts."""
        if find_spec("pandas") is None:
            return self.rows()
        import pandas

        return pandas.DataFrame(self.rows())

    def summary(self) -> list[dict[str, Any]]:
        """One row per setting: what varies, the runs that count, and mean and sd of the measures over the seeds.

        `n` counts the runs that did not diverge or fail. The sd has n - 1 in its denominator; None where it needs more
        runs.
        """
        rows = []
        for setting in self.settings:
            found = [self.by_key[run.key] for run in setting.runs if run.key in self.by_key]
            good = [record["measures"] for record in found if record["status"] != "diverged"]
            measures = {}
            for name in SUMMARY:
                values = [each[name] for each in good if each.get(name) is not None]
                measures[name] = {
                    "n": len(values),
                    "mean": statistics.fmean(values) if values else None,
                    "sd": statistics.stdev(values) if len(values) > 1 else None,
                }
            rows.append(
                {
                    "setting": dict(setting.values),
                    "n": len(good),
                    "diverged": len(found) - len(good),
                    "failed": len(setting.runs) - len(found),
                    "measures": measures,
                }
            )
        return rows

    def plot(
        self,
        measure: str,
        x: str | None = None,
        kind: Kind = "dots",
        *,
        path: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draw a measure against a field: one panel per combination of the other fields that vary.

        Args:
            measure: a measure of the records, such as "kernel_alignment".
            x: a field that varies, or "connectivity"; None: the first one that varies.
            kind: "dots", one per run, with the means; "boxes", quartiles and whiskers, with the dots; "lines", means
                with a band of one sd.
            path: where to write the picture too, as .png, .pdf and .svg, whichever of them it ends in, if any.

        Raises:
            ValueError: one line; a name is not known, or no run has a value of the measure.
            TypeError: one line; `path` is no path.
        """
        target = None if path is None else as_path("path", path)
        if kind not in ("dots", "boxes", "lines"):
            raise ValueError(f"kind: expected dots, boxes or lines, got {shown(kind)}")
        known = {name for record in self.records for name in record["measures"]}
        if not isinstance(measure, str) or measure not in known:
            raise ValueError(
                f"measure: expected one of {', '.join(sorted(known)) or 'the records (there are none)'}, got "
                f"{shown(measure)}{did_you_mean(measure, known) if isinstance(measure, str) else ''}"
            )
        from hpr.figures.draw import ENDINGS, save
        from hpr.figures.draw.own_sweep import draw_panels, styled

        panels = self.panels(x)

        def draw() -> Figure:
            return draw_panels(panels, measure, self.by_key, kind)

        if target is not None:
            save(draw, target.with_suffix("") if target.suffix in ENDINGS else target)
        return styled(draw)

    def panels(self, x: str | None = None) -> list[Panel]:
        """The runs as panels whose levels are the values of `x`; see `plot`."""
        columns = [_fields(setting, setting.runs[0]) for setting in self.settings]
        names = list(dict.fromkeys(name for column in columns for name in column))
        hidden = ("seed", "key", "matrix", "task_version", *COMPUTED)
        varying = [
            name
            for name in names
            if name not in hidden and len({_shown(column.get(name)) for column in columns}) > 1
        ]
        if x is None:
            named = [name for setting in self.settings for name in setting.values]
            x = next(iter([*named, *varying]), "connectivity")
        if x not in names:
            raise ValueError(
                f"x: expected a field of the runs, got {shown(x)}{did_you_mean(str(x), names)}"
            )
        levels = [_shown(column.get(x)) for column in columns]
        # A field that follows from x, as the kind of structure does from its rank, makes no panels of its own.
        others = [
            name
            for name in varying
            if name != x and not _follows(levels, [_shown(column.get(name)) for column in columns])
        ]
        # Of fields that follow from each other the first one names the panels.
        others = [
            name
            for place, name in enumerate(others)
            if not any(
                _follows(
                    [_shown(c.get(first)) for c in columns], [_shown(c.get(name)) for c in columns]
                )
                for first in others[:place]
            )
        ]
        grouped: dict[str, dict[str, tuple[RunSpec, ...]]] = {}
        for setting, column, level in zip(self.settings, columns, levels, strict=True):
            title = ", ".join(_title(name, column.get(name)) for name in others)
            grouped.setdefault(title, {}).setdefault(level, setting.runs)
        return [
            Panel(title, title, x, tuple(runs), tuple(runs.values()))
            for title, runs in grouped.items()
        ]


def _fields(setting: Setting, run: RunSpec) -> dict[str, Any]:
    """The fields of a run and of its structure, flat; `connectivity` is what tables call the structure."""
    structure = run.connectivity
    own = {name: getattr(structure, name) for name in structure_fields(type(structure))}
    fields = {name: getattr(run, name) for name in RUN_FIELDS if name != "connectivity"}
    teacher = None if run.teacher is None else run.teacher.key
    first = {"key": run.key, "task": run.task, "connectivity": setting.connectivity}
    return {**first, **own, **fields, "teacher": teacher}


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        # As the shell takes them.
        return "+".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _title(name: str, value: Any) -> str:
    """A field and its value in a panel's title; tasks and structures are named by themselves."""
    if name == "task":
        return str(value).rpartition(":")[2]
    return str(value) if name == "connectivity" else f"{name} = {_shown(value)}"


def _follows(causes: Sequence[str], effects: Sequence[str]) -> bool:
    """Whether each cause comes with one effect."""
    return len(set(zip(causes, effects, strict=True))) == len(set(causes))


def text_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table of `SweepResult.summary`: mean ± sd per setting."""
    names = list(dict.fromkeys(name for row in rows for name in row["setting"]))
    ended = [name for name in ("diverged", "failed") if any(row[name] for row in rows)]
    cells = [[*names, "n", *SUMMARY.values(), *ended]]
    for row in rows:
        cells.append(
            [
                *(
                    _shown(row["setting"].get(name)) if name in row["setting"] else "-"
                    for name in names
                ),
                str(row["n"]),
                *(_mean(row["measures"][name]) for name in SUMMARY),
                *(str(row[name]) for name in ended),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _mean(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return "-"
    digits = 3 if abs(value["mean"]) < 100 else 1
    sd = value["sd"]
    spread = "" if sd is None or not math.isfinite(sd) else f" ± {sd:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"
