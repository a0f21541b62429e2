"""The rows of the table of claims: what the paper says beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpr.figures.claims import Group
from hpr.figures.pages import KIND_WORDS, written
from hpr.figures.panel import WORDS
from hpr.figures.stand_ins import STAND_INS
from hpr.report.reference_run import claim_key

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def claim_rows(
    figures: list[dict[str, Any]], comparison: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """One row per claim, in the order of the figures; `comparison` is that of `hpr.report.reference_run.compare`."""
    known = comparison["claims"] if comparison else {}
    return [
        {
            **_row(figure, finding),
            "place": place,
            "reference": known.get((figure["figure"], claim_key(finding["claim"]))),
        }
        for place, (figure, finding) in enumerate(
            (figure, finding) for figure in figures for finding in figure["claims"]
        )
    ]


def _row(figure: Mapping[str, Any], finding: Mapping[str, Any]) -> dict[str, Any]:
    claim = finding["claim"]
    groups = [Group(**group) for group in finding["groups"]]
    # A trend is shown by its ends; a comparison of levels by all of them. A check of the theory has its cases as notes.
    ends = groups if claim.get("levels") else groups[:1] + groups[1:][-1:]
    tests = [
        {
            "name": statistic["test"],
            "effect": "undefined" if statistic["effect"] is None else signed(statistic["effect"]),
            "effect_name": statistic["effect_name"],
            "interval": [signed(end) for end in statistic["interval"] or ()],
            "p": "" if statistic["p"] is None else probability(statistic["p"]),
        }
        for statistic in finding["statistics"]
    ]
    given = [s["p"] for s in finding["statistics"] if s["p"] is not None]
    effects = [s["effect"] for s in finding["statistics"] if s["effect"] is not None]
    return {
        "figure": figure["figure"],
        "panel": claim["panel"],
        "says": claim["says"],
        "measure": f"{WORDS.get(claim['measure'], claim['measure'])} {KIND_WORDS.get(claim['kind'], claim['kind'])}",
        "verdict": finding["verdict"],
        "measured": [
            {"value": written(end).replace("-", "−"), "level": end.level}
            for end in ([] if claim["kind"] == "holds" else ends)
        ],
        "tests": tests,
        # A claim needs all of its tests, so its largest p decides.
        "p": max(given) if given else None,
        "effect": effects[-1] if effects else None,
        "n": finding["seeds"],
        "notes": finding["notes"],
        "stand_in": is_stand_in(claim["panel"]),
    }


def is_stand_in(panel: str) -> bool:
    """Whether a panel shows a stand-in, by the label in its name."""
    return any(stand_in.label in panel for stand_in in STAND_INS.values())


def signed(value: float) -> str:
    """A number with three digits and a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def probability(p: float) -> str:
    """A p value with two digits, small ones as powers of ten."""
    if p >= 1e-3 or p == 0:
        return f"{p:.2g}"
    mantissa, exponent = f"{p:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
