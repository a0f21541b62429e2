"""What a reproduction found, as files: each figure's picture, JSON and Markdown; a summary."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpr.connectivity.connectome import CELEGANS
from hpr.experiment.store import write_atomically
from hpr.figures.claims import Finding, Group, Statistic, group
from hpr.figures.figure import MEASURES, WORDS, Figure, Panel, Record, Settings

STAND_IN_NOTE = (
    "MNIST is replaced by a stand-in, the UCI optical digits (1,797 images of 8 x 8): what its "
    "panels show is not a result on MNIST."
)
EM_NOTE = (
    "The electron microscopy of mouse visual cortex is replaced by a stand-in, the chemical "
    "connectome of C. elegans (297 neurons): what its panel shows is not a result on cortex."
)
# Tasks of pictures, in whose figures it matters which stands in sMNIST's place.
PICTURES = ("sMNIST", "MNIST", "sDigits", "Digits")
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
    """Judge, draw and write one figure: `figure_<name>.png`, `.pdf`, `.json`, `.md` under `out`.

    Args:
        figure: which.
        settings: of the whole reproduction.
        records: those that there are, by key.
        failures: why runs have no record, by key.
        out: the folder.

    Returns:
        What the JSON holds.
    """
    from hpr.figures.draw import save

    runs = figure.runs(settings)
    present = [records[spec.key] for spec in runs if spec.key in records]
    failed = [
        {"run": str(spec), "reason": failures.get(spec.key) or _diverged(records, spec.key)}
        for spec in runs
        if spec.key not in records or records[spec.key]["status"] == "diverged"
    ]
    findings = figure.judge(settings, records)
    panels = figure.panels(settings)
    standing_in = any(spec.task in ("sDigits", "Digits") for spec in runs)
    content: dict[str, Any] = {
        "schema": 1,
        "figure": figure.name,
        "title": figure.title,
        "settings": _plain(settings, pictured=any(spec.task in PICTURES for spec in runs)),
        "notes": [
            *([QUICK_NOTE] if settings.profile == "quick" else []),
            *([STAND_IN_NOTE] if standing_in else []),
            *([EM_NOTE] if figure.shows_connectome and settings.connectome == CELEGANS else []),
            *figure.notes(settings),
        ],
        "rule": figure.rule,
        "verdicts": dict(Counter(finding.verdict for finding in findings)),
        "claims": [finding.to_dict() for finding in findings],
        "measurements": {panel.name: _measurements(panel, records) for panel in panels},
        "runs": [spec.key for spec in runs],
        "failed": failed,
        "flagged": [
            {"run": str(spec), "flags": records[spec.key]["flags"]}
            for spec in runs
            if spec.key in records and records[spec.key]["flags"]
        ],
        "provenance": _provenance(present),
    }
    path = out / f"figure_{figure.name}"
    save(lambda: figure.plot(settings, records), path)
    write_json(path.with_suffix(".json"), content)
    text = _figure_markdown(content, findings, panels)
    write_utf8(path.with_suffix(".md"), text)
    return content


def _provenance(records: Sequence[Record]) -> list[str]:
    """Each device, commit and set of versions that runs of the figure came from, with how many."""

    def line(provenance: Mapping[str, Any]) -> str:
        versions = provenance.get("versions") or {}
        named = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
        return f"{provenance.get('device')}, commit {provenance.get('git')}, {named}"

    counts = Counter(line(record["provenance"]) for record in records)
    return [f"{number} runs: {what}" for what, number in sorted(counts.items())]


def write_summary(
    settings: Settings,
    figures: Sequence[dict[str, Any]],
    failures: Sequence[Mapping[str, str]],
    out: Path,
) -> None:
    """Write `summary.json` and `summary.md`; `failures` are the things that raised."""
    content: dict[str, Any] = {
        "schema": 1,
        "settings": _plain(settings, any(figure["settings"]["smnist"] for figure in figures)),
        "figures": [
            {name: figure[name] for name in ("figure", "title", "verdicts", "notes", "failed")}
            for figure in figures
        ],
        "failures": list(failures),
    }
    write_json(out / "summary.json", content)
    lines = ["# Reproduction of Liu et al. (ICLR 2024)", "", _settings(content["settings"]), ""]
    lines += [f"{note}\n" for note in dict.fromkeys(n for f in figures for n in f["notes"])]
    rows = [
        [f"[{f['figure']}](figure_{f['figure']}.md)", f["title"], *_tally(f), str(len(f["failed"]))]
        for f in figures
    ]
    head = ["figure", "what", "agrees", "disagrees", "inconclusive", "diverged or failed"]
    lines += _table(head, rows)
    if failures:
        lines += ["", "## Failures", "", *(f"- {f['what']}: {f['reason']}" for f in failures)]
    without = {run["run"]: run["reason"] for figure in figures for run in figure["failed"]}
    diverged = [run for run in without if run not in {failure["what"] for failure in failures}]
    if diverged:
        lines += ["", "## Diverged runs", "", "Results like any other, without measures.", ""]
        lines += [f"- {run}: {without[run]}" for run in diverged]
    write_utf8(out / "summary.md", "\n".join(lines) + "\n")


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON: a NaN is an error, not a token."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_utf8(path, text + "\n")


def write_utf8(path: Path, text: str) -> None:
    """Write a text as UTF-8; a byte of a path that is none is written as an escape, which JSON reads, too."""
    write_atomically(path, text.encode(errors="backslashreplace"))


def _figure_markdown(
    content: dict[str, Any], findings: Sequence[Finding], panels: Sequence[Panel]
) -> str:
    name = content["figure"]
    lines = [f"# Figure {name}: {content['title']}", "", _settings(content["settings"]), ""]
    lines += [f"{note}\n" for note in content["notes"]]
    lines += [f"![Figure {name}](figure_{name}.png)", "", "## Claims", ""]
    counts = zip(_tally(content), ("agree", "disagree", "inconclusive"), strict=True)
    lines += [f"{len(findings)} claims: " + ", ".join(f"{n} {word}" for n, word in counts) + "."]
    lines += ["", content["rule"], ""]
    head = [
        "panel",
        "the paper says",
        "measured",
        "tests: effect [95 % interval]",
        "verdict",
        "notes",
    ]
    lines += _table(head, [_claim_row(finding) for finding in findings])
    for panel in panels:
        lines += ["", f"## {panel.name}: mean ± s.d. (runs)", ""]
        measured = content["measurements"][panel.name]
        rows = [
            [level, *(_group(Group(**measured[m][i])) for m in MEASURES)]
            for i, level in enumerate(panel.levels)
        ]
        lines += _table([panel.axis, *MEASURES.values()], rows)
    if content["failed"]:
        lines += ["", "## Diverged or failed runs", ""]
        lines += [f"- {failed['run']}: {failed['reason']}" for failed in content["failed"]]
    if content["flagged"]:
        lines += ["", "## Flags", ""]
        lines += [f"- {flag['run']}: {', '.join(flag['flags'])}" for flag in content["flagged"]]
    if content["provenance"]:
        lines += ["", "## Computed by", "", *(f"- {line}" for line in content["provenance"])]
    return "\n".join(lines) + "\n"


def _diverged(records: Mapping[str, Record], key: str) -> str:
    record = records.get(key)
    return f"diverged after {record['iterations']} iterations" if record else "not run"


def _measurements(panel: Panel, records: Mapping[str, Record]) -> dict[str, list[dict[str, Any]]]:
    return {
        measure: [
            asdict(group(level, column))
            for level, column in zip(panel.levels, panel.values(records, measure).T, strict=True)
        ]
        for measure in MEASURES
    }


def _claim_row(finding: Finding) -> list[str]:
    claim = finding.claim
    ends = finding.groups if claim.levels else finding.groups[:1] + finding.groups[1:][-1:]
    says = f"{claim.says}: {WORDS.get(claim.measure, claim.measure)} {_KINDS[claim.kind]}"
    measured = ", ".join(f"{_group(end)} at {end.level}" for end in ends)
    tests = "; ".join(_statistic(statistic) for statistic in finding.statistics)
    return [claim.panel, says, measured, tests, f"**{finding.verdict}**", "; ".join(finding.notes)]


_KINDS = {
    "rises": "rises",
    "falls": "falls",
    "comparable": "about equal",
    "higher": "is higher",
    "lower": "is lower",
    "vanishes": "no longer differs",
    "holds": "as stated",
}


def _statistic(statistic: Statistic) -> str:
    if statistic.effect is None:
        return f"{statistic.test}: undefined"
    text = f"{statistic.test}: {statistic.effect_name} {statistic.effect:.3g}"
    if statistic.interval is not None:
        text += f" [{statistic.interval[0]:.3g}, {statistic.interval[1]:.3g}]"
    return text if statistic.p is None else f"{text}, p = {statistic.p:.2g}"


def _group(summary: Group) -> str:
    if summary.mean is None:
        return "none (0)"
    # One and the same number but for rounding, or a single one.
    if not summary.sd or summary.sd < 1e-9 * abs(summary.mean):
        return f"{summary.mean:.3g} ({summary.n})"
    # Two digits of the deviation, and the mean to the same place.
    places = max(1 - math.floor(math.log10(summary.sd)), 0)
    if places > 6:
        return f"{summary.mean:.3g} ± {summary.sd:.2g} ({summary.n})"
    return f"{summary.mean:.{places}f} ± {summary.sd:.{places}f} ({summary.n})"


def _tally(content: dict[str, Any]) -> list[str]:
    return [str(content["verdicts"].get(v, 0)) for v in ("agrees", "disagrees", "inconclusive")]


def _plain(settings: Settings, pictured: bool) -> dict[str, Any]:
    """The settings as they stand in the JSON; where no run sees pictures, nothing stands in sMNIST's place."""
    plain = {**asdict(settings), "seeds": len(settings.replicates)}
    return plain if pictured else {**plain, "smnist": None, "smnist_content": None}


def _settings(settings: Mapping[str, Any]) -> str:
    iterations = "" if settings["iterations"] is None else f", {settings['iterations']} iterations"
    smnist, content = settings["smnist"], settings["smnist_content"]
    given = f"other pictures (SHA-256 {content})" if content else smnist
    place = "pictures" if given == "sMNIST" else "in sMNIST's place"
    pictures = f"; {place}: {given}" if smnist else ""
    return (
        f"Profile `{settings['profile']}`, variant `{settings['variant']}`, NeuroGym "
        f"{settings['task_version']} inputs, {settings['seeds']} seeds a setting{iterations}{pictures}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
