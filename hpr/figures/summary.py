"""What a reproduction found, as files: each figure's picture, JSON and Markdown, and a summary of all figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpr.command_line import counted
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.figures.claims import Finding, group
from hpr.figures.figure import Figure
from hpr.figures.pages import figure_markdown, summary_markdown
from hpr.figures.panel import MEASURES, Panel
from hpr.figures.settings import Settings
from hpr.figures.stand_ins import STAND_INS
from hpr.system.files import write_atomically
from hpr.tasks.versions import PICTURE_TASKS

QUICK_NOTE = (
    "This is the `quick` profile: fewer seeds, shorter training, and in some figures smaller networks "
    "and fewer kernel trials than the paper's. Its verdicts speak for that alone."
)


def write_figure(
    figure: Figure,
    settings: Settings,
    records: Mapping[str, Record],
    failures: Mapping[str, str],
    out: Path,
) -> dict[str, Any]:
    """Judge, draw and write one figure: `figure_<name>.png`, `.pdf`, `.svg`, `.json`, `.md` under `out`.

    Args:
        figure: which figure.
        settings: the settings of the whole reproduction.
        records: the records that exist, by key.
        failures: why runs have no record, by key.
        out: the folder.

    Returns:
        What the JSON holds.
    """
    from hpr.figures.draw import save

    findings = figure.judge(settings, records)
    panels = figure.panels(settings)
    content = _content(figure, settings, records, failures, findings, panels)
    path = out / f"figure_{figure.name}"
    save(lambda: figure.plot(settings, records), path)
    write_json(path.with_suffix(".json"), content)
    write_utf8(path.with_suffix(".md"), figure_markdown(content, findings, panels))
    return content


def write_summary(
    settings: Settings,
    figures: Sequence[dict[str, Any]],
    failures: Sequence[Mapping[str, str]],
    out: Path,
) -> None:
    """Write `summary.json` and `summary.md`; `failures` are the runs and figures that raised an exception."""
    content: dict[str, Any] = {
        "schema": 1,
        "settings": _settings(settings, any(figure["settings"]["smnist"] for figure in figures)),
        "figures": [
            {name: figure[name] for name in ("figure", "title", "verdicts", "notes", "failed")}
            for figure in figures
        ],
        "failures": list(failures),
    }
    write_json(out / "summary.json", content)
    write_utf8(out / "summary.md", summary_markdown(content, figures))


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON, in which NaN is an error."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_utf8(path, text + "\n")


def write_utf8(path: Path, text: str) -> None:
    """Write a text as UTF-8; bytes of paths that are not UTF-8 become escapes, which JSON can read."""
    write_atomically(path, text.encode(errors="backslashreplace"))


def _content(
    figure: Figure,
    settings: Settings,
    records: Mapping[str, Record],
    failures: Mapping[str, str],
    findings: Sequence[Finding],
    panels: Sequence[Panel],
) -> dict[str, Any]:
    """What a figure's JSON holds."""
    runs = figure.runs(settings)
    return {
        "schema": 1,
        "figure": figure.name,
        "title": figure.title,
        "settings": _settings(settings, pictured=any(spec.task in PICTURE_TASKS for spec in runs)),
        "notes": _notes(figure, settings, runs),
        "rule": figure.rule,
        "verdicts": dict(Counter(finding.verdict for finding in findings)),
        "claims": [finding.to_dict() for finding in findings],
        "measurements": {panel.name: _measurements(panel, records) for panel in panels},
        "runs": [records[spec.key]["key"] if spec.key in records else spec.key for spec in runs],
        "failed": [
            {"run": str(spec), "reason": failures.get(spec.key) or _unfinished(records, spec.key)}
            for spec in runs
            if spec.key not in records or records[spec.key]["status"] == "diverged"
        ],
        "flagged": [
            {"run": str(spec), "flags": records[spec.key]["flags"]}
            for spec in runs
            if spec.key in records and records[spec.key]["flags"]
        ],
        "provenance": _provenance([records[spec.key] for spec in runs if spec.key in records]),
    }


def _settings(settings: Settings, pictured: bool) -> dict[str, Any]:
    """The settings of the JSON; where no run sees pictures, no task is named for sMNIST."""
    plain = {**asdict(settings), "seeds": len(settings.replicates)}
    return plain if pictured else {**plain, "smnist": None, "smnist_content": None}


def _notes(figure: Figure, settings: Settings, runs: Sequence[RunSpec]) -> list[str]:
    """The figure's notes; notes on the profile and on the stand-ins that it shows come first."""
    shown = {spec.task for spec in runs}
    if figure.shows_connectome:
        shown.add(settings.connectome)
    standing_in = [each.note for each in STAND_INS.values() if each.name in shown]
    return [
        *([QUICK_NOTE] if settings.profile == "quick" else []),
        # The stand-ins of sMNIST and MNIST have one note.
        *dict.fromkeys(standing_in),
        *figure.notes(settings),
    ]


def _measurements(panel: Panel, records: Mapping[str, Record]) -> dict[str, list[dict[str, Any]]]:
    return {
        measure: [
            asdict(group(level, column))
            for level, column in zip(panel.levels, panel.values(records, measure).T, strict=True)
        ]
        for measure in MEASURES
    }


def _unfinished(records: Mapping[str, Record], key: str) -> str:
    record = records.get(key)
    return f"diverged after {counted(record['iterations'], 'iteration')}" if record else "not run"


def _provenance(records: Sequence[Record]) -> list[str]:
    """One line per device, commit and set of versions: how many runs of the figure it made."""

    def line(provenance: Mapping[str, Any]) -> str:
        versions = provenance.get("versions") or {}
        named = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
        return f"{provenance.get('device')}, commit {provenance.get('git')}, {named}"

    counts = Counter(line(record["provenance"]) for record in records)
    return [f"{counted(number, 'run')}: {what}" for what, number in sorted(counts.items())]
