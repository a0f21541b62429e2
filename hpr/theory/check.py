"""A check of one statement: measured and expected numbers, and the error that is stated beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from hpr.theory.statements import Statement

if TYPE_CHECKING:
    from torch import Tensor

# Probability that a true equation fails its Monte Carlo check, over all cases of the check together.
FALSE_ALARM = 0.01
# Unit roundoff of fp64.
ROUNDOFF = 2.0**-53
# A relative squared error below this counts as zero: the residual is below 1e-10 of the target.
ZERO_ERROR = 1e-20

CHECK_RULE = (
    "Each case has a stated error, fixed before it is computed: a rounding bound for identities, "
    f"z standard errors for Monte Carlo averages (z such that a true equation fails in {FALSE_ALARM:.0%} "
    "of all repetitions, Bonferroni over the cases of a claim), and the derived bound of what the "
    "paper drops as O(σ²) where networks are trained. A claim disagrees when a case deviates by more "
    "than its stated error. Otherwise it agrees if every stated error is fine enough to tell c = 1/d "
    "from 1/(d + 1) (Monte Carlo) or a rank from full rank (trained networks), and is inconclusive if "
    "one is not."
)


@dataclass(frozen=True)
class CheckCase:
    """One number of a check, computed from n values; if it is their mean, `sd` is their standard deviation."""

    label: str
    measured: float
    expected: float
    error: float
    n: int
    sd: float | None = None
    relation: Literal["equal", "at least", "at most"] = "equal"
    # With a larger stated error, agreement is inconclusive.
    resolution: float = math.inf

    @property
    def deviation(self) -> float:
        """By how much the measured value violates the relation; 0 if an inequality holds."""
        excess = self.measured - self.expected
        if self.relation == "equal":
            return abs(excess)
        return max(excess if self.relation == "at most" else -excess, 0.0)


@dataclass(frozen=True)
class Check:
    """A statement with the cases that test it."""

    statement: Statement
    cases: tuple[CheckCase, ...]
    note: str = ""

    @property
    def verdict(self) -> Literal["agrees", "disagrees", "inconclusive"]:
        """The verdict by CHECK_RULE; a NaN never agrees."""
        if any(case.deviation > case.error for case in self.cases):
            return "disagrees"
        fine = all(case.deviation <= case.error <= case.resolution for case in self.cases)
        return "agrees" if fine else "inconclusive"


def standard_errors(cases: int) -> float:
    """The stated error of each case in standard errors, z, for a check with this number of cases."""
    return NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / cases)


def average(
    label: str, values: Tensor, expected: float, error: float, resolution: float = math.inf
) -> CheckCase:
    """The case that compares the mean of values [n] with `expected`."""
    mean, sd = float(values.mean()), float(values.std())
    return CheckCase(label, mean, expected, error, len(values), sd, resolution=resolution)


def extreme(
    label: str,
    values: Tensor,
    relation: Literal["at least", "at most"],
    expected: float,
    error: float = 0.0,
) -> CheckCase:
    """The case that all values [n] satisfy an inequality."""
    measured = float(values.min() if relation == "at least" else values.max())
    return CheckCase(label, measured, expected, error, len(values), relation=relation)
