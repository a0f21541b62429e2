"""The theory of Section 2.3 and Appendix B, checked numerically: a figure without runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from hpr.experiment.record import Record
from hpr.figures.claims import Claim, Finding, Group
from hpr.figures.figure import Figure
from hpr.figures.settings import Settings
from hpr.theory import CHECK_RULE, PAPER, QUICK, Check, Size
from hpr.theory.statements import STATEMENTS, Statement

if TYPE_CHECKING:
    import matplotlib.figure


def size(settings: Settings) -> Size:
    """How much the profile computes; `seeds` sets the number of RNNs per rank, of which the checks need two."""
    chosen = {"quick": QUICK, "paper": PAPER}[settings.profile]
    return replace(chosen, networks=max(2, settings.seeds)) if settings.seeds else chosen


def check_finding(check: Check) -> Finding:
    """A check in the form of the other figures' findings; the notes have a line per case."""
    groups = tuple(
        Group(case.label, case.n, _finite_or_none(case.measured), _finite_or_none(case.sd))
        for case in check.cases
    )
    relations = {"equal": "expected", "at most": "at most", "at least": "at least"}
    lines = [
        f"{case.label}: {case.measured:.6g}, {relations[case.relation]} {case.expected:.6g}"
        + (f" ± {case.error:.2g}" if case.error else "")
        for case in check.cases
    ]
    notes = tuple([check.note] * bool(check.note) + lines)
    return Finding(
        _claim(check.statement), check.verdict, max(c.n for c in check.cases), groups, (), notes
    )


def _claim(statement: Statement) -> Claim:
    return Claim(statement.equation, statement.quantity, "holds", statement.says)


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class Theory(Figure):
    """Equations 7 to 22, Theorem 1 and both propositions."""

    name = "theory"
    title = "The theory of two-layer linear networks and of frozen recurrent weights, checked"
    rule = CHECK_RULE

    def claims(self, settings: Settings) -> list[Claim]:
        """One claim per statement."""
        return [_claim(statement) for statement in STATEMENTS.values()]

    def judge(self, settings: Settings, records: Mapping[str, Record]) -> list[Finding]:
        """Compute the checks; no run is needed."""
        from hpr.theory.results import run_checks

        return [check_finding(check) for check in run_checks(size(settings)).checks]

    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """Six panels, in the paper's order."""
        from hpr.figures.draw.theory_panels import checks
        from hpr.theory.results import run_checks

        n = size(settings)
        return checks(run_checks(n), n, settings.profile)


FIGURES = (Theory(),)
