"""The Markdown of figures and of the summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpr.command_line import counted
from hpr.figures.claims import Finding, Group, Statistic
from hpr.figures.panel import MEASURES, WORDS, Panel

# What is written after the name of a claim's measure.
KIND_WORDS = {
    "rises": "rises",
    "falls": "falls",
    "comparable": "about equal",
    "higher": "is higher",
    "lower": "is lower",
    "vanishes": "no longer differs",
    "holds": "as stated",
}


def figure_markdown(
    content: Mapping[str, Any], findings: Sequence[Finding], panels: Sequence[Panel]
) -> str:
    """The page of one figure; `content`: what its JSON holds."""
    name = content["figure"]
    lines = [f"# Figure {name}: {content['title']}", "", setting_line(content["settings"]), ""]
    lines += [f"{note}\n" for note in content["notes"]]
    lines += [f"![Figure {name}](figure_{name}.png)", "", "## Claims", ""]
    counts = zip(_tally(content), ("agree", "disagree", "inconclusive"), strict=True)
    lines += [
        f"{counted(len(findings), 'claim')}: "
        + ", ".join(f"{n} {word}" for n, word in counts)
        + "."
    ]
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
            [level, *(written(Group(**measured[m][i])) for m in MEASURES)]
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


def summary_markdown(content: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> str:
    """The page of all figures; `content`: what `summary.json` holds, `figures`: what each figure's JSON holds."""
    lines = ["# Reproduction of Liu et al. (ICLR 2024)", "", setting_line(content["settings"]), ""]
    lines += [f"{note}\n" for note in dict.fromkeys(n for f in figures for n in f["notes"])]
    rows = [
        [f"[{f['figure']}](figure_{f['figure']}.md)", f["title"], *_tally(f), str(len(f["failed"]))]
        for f in figures
    ]
    head = ["figure", "what", "agrees", "disagrees", "inconclusive", "diverged or failed"]
    lines += _table(head, rows)
    if content["failures"]:
        lines += [
            "",
            "## Failures",
            "",
            *(f"- {f['what']}: {f['reason']}" for f in content["failures"]),
        ]
    without = {run["run"]: run["reason"] for figure in figures for run in figure["failed"]}
    diverged = [
        run for run in without if run not in {failure["what"] for failure in content["failures"]}
    ]
    if diverged:
        lines += ["", "## Diverged runs", "", "Results like any other, without measures.", ""]
        lines += [f"- {run}: {without[run]}" for run in diverged]
    return "\n".join(lines) + "\n"


def written(summary: Group) -> str:
    """A group's mean, standard deviation and number of runs; the deviation has two digits."""
    if summary.mean is None:
        return "none (0)"
    # There is one run, or all values are equal up to rounding.
    if not summary.sd or summary.sd < 1e-9 * abs(summary.mean):
        return f"{summary.mean:.3g} ({summary.n})"
    # The mean is rounded to the last place of the deviation.
    places = max(1 - math.floor(math.log10(summary.sd)), 0)
    if places > 6:
        return f"{summary.mean:.3g} ± {summary.sd:.2g} ({summary.n})"
    return f"{summary.mean:.{places}f} ± {summary.sd:.{places}f} ({summary.n})"


def _claim_row(finding: Finding) -> list[str]:
    claim = finding.claim
    ends = finding.groups if claim.levels else finding.groups[:1] + finding.groups[1:][-1:]
    says = f"{claim.says}: {WORDS.get(claim.measure, claim.measure)} {KIND_WORDS[claim.kind]}"
    measured = ", ".join(f"{written(end)} at {end.level}" for end in ends)
    tests = "; ".join(_statistic(statistic) for statistic in finding.statistics)
    return [claim.panel, says, measured, tests, f"**{finding.verdict}**", "; ".join(finding.notes)]


def _statistic(statistic: Statistic) -> str:
    if statistic.effect is None:
        return f"{statistic.test}: undefined"
    text = f"{statistic.test}: {statistic.effect_name} {statistic.effect:.3g}"
    if statistic.interval is not None:
        text += f" [{statistic.interval[0]:.3g}, {statistic.interval[1]:.3g}]"
    return text if statistic.p is None else f"{text}, p = {statistic.p:.2g}"


def _tally(content: Mapping[str, Any]) -> list[str]:
    return [str(content["verdicts"].get(v, 0)) for v in ("agrees", "disagrees", "inconclusive")]


def setting_line(settings: Mapping[str, Any]) -> str:
    """The sentence that says what was run: profile, variant, inputs, seeds, iterations, and the pictures."""
    iterations = (
        ""
        if settings["iterations"] is None
        else f", {counted(settings['iterations'], 'iteration')}"
    )
    smnist, content = settings["smnist"], settings["smnist_content"]
    given = f"other pictures (SHA-256 {content})" if content else smnist
    place = "pictures" if given == "sMNIST" else "in sMNIST's place"
    pictures = f"; {place}: {given}" if smnist else ""
    return (
        f"Profile `{settings['profile']}`, variant `{settings['variant']}`, NeuroGym "
        f"{settings['task_version']} inputs, {counted(settings['seeds'], 'seed')} per setting{iterations}{pictures}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
