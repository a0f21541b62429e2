"""The page itself: what was read is put into the templates."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hpr.command_line import counted, in_words
from hpr.figures.claims import Group
from hpr.figures.pages import setting_line, written
from hpr.figures.panel import MEASURES
from hpr.figures.stand_ins import STAND_INS
from hpr.report.claim_rows import claim_rows, is_stand_in, signed
from hpr.report.folder import Folder
from hpr.report.inline_svg import inline_svg
from hpr.report.provenance_tables import costs, seconds, sources
from hpr.report.reference_run import compare, reference
from hpr.report.small_multiples import HEIGHT, WIDTH, Plot, learning_curves, spectra

TEMPLATES = Path(__file__).with_name("templates")
VERDICTS = ("agrees", "disagrees", "inconclusive")
# A picture's description names at most this many panels and ends.
DESCRIBED = 8


def rendered(folder: Folder) -> str:
    """The page of a folder of results, as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words=in_words, counted=counted, signed=signed)
    script, style = (
        Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    context = {"script": script, "style": style, "script_hash": digest, **_context(folder)}
    return environment.get_template("report.html.j2").render(context)


def _context(folder: Folder) -> dict[str, Any]:
    figures, records = folder.figures, [*folder.records.values()]
    profiles = {figure["settings"]["profile"] for figure in figures}
    kept = {profile: reference(profile) for profile in sorted(profiles)}
    profile, known = next(((p, k) for p, k in kept.items() if k), (min(profiles), None))
    comparison = compare(figures, known) if known else None
    notes = [*dict.fromkeys(note for figure in figures for note in figure["notes"])]
    made = sources(records)
    return {
        "counts": _verdicts(figures),
        "verdicts": VERDICTS,
        "settings": _settings(figures),
        "endings": Counter(record["status"] for record in records),
        "runs": len({key for figure in figures for key in figure["runs"]}),
        "time": in_words(sum(map(seconds, records))),
        "sources": made,
        "machines": [*dict.fromkeys(source["machine"] for source in made)],
        "costs": costs(records),
        "rows": claim_rows(figures, comparison),
        "figures": [_figure(folder, figure) for figure in figures],
        "stand_in_notes": [note for note in notes if note in _stand_in_notes()],
        "shared_notes": [_plain(note) for note in notes if _is_shared(note, figures)],
        "unreadable": folder.unreadable,
        "failures": folder.failures,
        "lost": _lost(folder),
        "flagged": _flagged(folder),
        "profile": profile,
        "comparison": comparison,
        "shapes": learning_curves(records),
        "plot_size": (WIDTH, HEIGHT),
        **_spectra(folder),
    }


def _verdicts(figures: list[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(finding["verdict"] for figure in figures for finding in figure["claims"])
    return {verdict: counts[verdict] for verdict in VERDICTS}


def _settings(figures: list[dict[str, Any]]) -> list[str]:
    """What was run, in a sentence per setting; figures without pictures say the same with less."""
    lines = [*dict.fromkeys(_plain(setting_line(figure["settings"])) for figure in figures)]
    return [
        line
        for line in lines
        if not any(other.startswith(line[:-1]) for other in lines if other != line)
    ]


def _is_shared(note: str, figures: list[dict[str, Any]]) -> bool:
    """Whether all figures have a note, which then stands above them once. A stand-in's note stays where it is used."""
    return note not in _stand_in_notes() and all(note in figure["notes"] for figure in figures)


def _plain(text: str) -> str:
    """The text without Markdown's marks of code."""
    return text.replace("`", "")


def _stand_in_notes() -> set[str]:
    return {stand_in.note for stand_in in STAND_INS.values()}


def _figure(folder: Folder, figure: Mapping[str, Any]) -> dict[str, Any]:
    """One figure: its picture, its notes, and its tables of means."""
    name = figure["figure"]
    picture, missing = _picture(folder.out / f"figure_{name}.svg", f"figure-{name}-")
    return {
        "name": name,
        "title": figure["title"],
        "setting": _plain(setting_line(figure["settings"])),
        "verdicts": {verdict: figure["verdicts"].get(verdict, 0) for verdict in VERDICTS},
        "failed": len(figure["failed"]),
        "notes": [
            (_plain(note), note in _stand_in_notes())
            for note in figure["notes"]
            if not _is_shared(note, folder.figures)
        ],
        "rule": figure["rule"],
        "picture": picture,
        "missing": missing,
        "description": _description(figure),
        "measures": [*MEASURES.values()],
        "panels": [
            {
                "name": panel,
                "stand_in": is_stand_in(panel),
                "rows": [
                    [
                        groups[0]["level"],
                        *(written(Group(**group)).replace("-", "−") for group in groups),
                    ]
                    for groups in zip(*(measured[measure] for measure in MEASURES), strict=True)
                ],
            }
            for panel, measured in figure["measurements"].items()
            if all(measure in measured for measure in MEASURES)
        ],
    }


def _picture(path: Path, prefix: str) -> tuple[Markup | None, str]:
    """The SVG of a figure, or why there is none."""
    try:
        return inline_svg(path.read_bytes(), prefix), ""
    except OSError:
        return None, f"{path.name} is missing; the same hpr.reproduce command draws it again."
    except ValueError as error:
        return None, f"{path.name} can't be shown: {error}."


def _description(figure: Mapping[str, Any]) -> str:
    """A picture in words: its title, and the kernel alignment at the ends of each panel."""
    told = []
    for panel, measured in figure["measurements"].items():
        levels = [each for each in measured.get("kernel_alignment", []) if each["mean"] is not None]
        ends = [f"{each['mean']:.2g} at {each['level']}" for each in levels[:1] + levels[1:][-1:]]
        if ends:
            told.append(f"{panel}: {', '.join(ends)}")
    means = f" Mean kernel alignment: {'; '.join(told[:DESCRIBED])}." if told else ""
    counts = ", ".join(f"{figure['verdicts'].get(v, 0)} {v}" for v in VERDICTS)
    return f"Figure {figure['figure']}: {figure['title']}.{means} Claims: {counts}."


def _lost(folder: Folder) -> list[dict[str, Any]]:
    """The runs that diverged or failed, each once, with the figures that show them."""
    runs: dict[tuple[str, str], list[str]] = {}
    for figure in folder.figures:
        for failed in figure["failed"]:
            runs.setdefault((failed["run"], failed["reason"]), []).append(figure["figure"])
    return [
        {"run": run, "reason": reason, "figures": figures}
        for (run, reason), figures in runs.items()
    ]


def _flagged(folder: Folder) -> list[tuple[str, str]]:
    flags = {
        flag["run"]: ", ".join(flag["flags"])
        for figure in folder.figures
        for flag in figure["flagged"]
    }
    lost = {run["run"] for run in _lost(folder)}
    return [(run, words) for run, words in flags.items() if run not in lost]


def _spectra(folder: Folder) -> dict[str, Any]:
    plots: list[Plot] = []
    left_out: list[str] = []
    why = ""
    try:
        plots, left_out = spectra(folder.records.values())
    # A structure may be a user's own, whose code runs here: its spectrum must not cost the page.
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
    return {"spectra": plots, "spectra_left_out": left_out, "spectra_error": why}
