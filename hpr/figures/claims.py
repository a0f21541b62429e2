"""Claims as data, fixed before anything is measured, and the test of each claim over the seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpr.command_line import counted

Kind = Literal["rises", "falls", "comparable", "higher", "lower", "vanishes", "holds"]
Direction = Literal["higher", "lower"]
Verdict = Literal["agrees", "disagrees", "inconclusive"]
Values = NDArray[np.float64]

ALPHA = 0.05
CONFIDENCE = 0.95
RESAMPLES = 5000
# Complete seeds that a verdict needs: all n differences have one sign in 2 of 2^n ways, so this is
# the least n with which a two-sided Wilcoxon signed-rank test can reach p < 0.05.
FEWEST = 6
# Losses are comparable where the largest mean is at most this many times the smallest.
COMPARABLE = 1.10
# A difference has vanished where at most this share of it is left, in either direction.
VANISHED = 0.5
# Levels that a claim of each kind compares.
LEVELS: dict[Kind, tuple[int, float]] = {
    "rises": (3, math.inf),
    "falls": (3, math.inf),
    "comparable": (2, math.inf),
    "higher": (2, 2),
    "lower": (2, 2),
    "vanishes": (3, 3),
}

RULE = (
    "A trend agrees when Spearman's correlation along the sweep (averaged over seeds; Page's test) "
    "and Wilcoxon's signed-rank test between its ends (paired by seed) both have a two-sided "
    f"p < {ALPHA} in the paper's direction; it disagrees when one of them does in the other "
    "direction and neither in the paper's. A level is higher or lower than another by Wilcoxon's "
    "test of the pairs alone. A difference vanishes (agrees) when it was there in the "
    f"paper's direction (Wilcoxon p < {ALPHA}), can no longer be seen (p >= {ALPHA}), and the "
    f"{CONFIDENCE:.0%} interval of the share of it that is left lies within ±{VANISHED}; it does not "
    "(disagrees) when it was there and the interval lies outside. Losses are comparable (agrees) when the "
    f"{CONFIDENCE:.0%} interval of largest / smallest mean ends at or below {COMPARABLE:.2f}, not "
    "comparable (disagrees) when it lies above. All else is inconclusive, and so is "
    f"any claim with fewer than {FEWEST} complete seeds. Each test stands at "
    f"{ALPHA} by itself: p values are not corrected for the number of claims."
)


@dataclass(frozen=True)
class Claim:
    """What the paper says of a measure in a panel; `says` has the paper's statement in words.

    The measure rises, falls or is comparable along the panel's levels; or it is higher or lower at
    the second of two `levels` than at the first; or its difference between the second and the first
    of three levels vanishes at the third. A statement that `holds` is judged by its own figure.
    """

    panel: str
    measure: str
    kind: Kind
    says: str
    # The names of the levels that are compared; empty: all levels of the panel.
    levels: tuple[str, ...] = ()
    # For a difference that vanishes: whether the second level was higher or lower than the first.
    was: Direction | None = None

    def __post_init__(self) -> None:
        if (self.kind == "vanishes") != (self.was is not None):
            raise ValueError(f"was: expected a direction of what vanishes alone, got {self.was!r}")

    def to_dict(self) -> dict[str, Any]:
        """The plain form of the JSON summaries."""
        return asdict(self)


@dataclass(frozen=True)
class Statistic:
    """One test: effect size, bootstrap interval over seeds, two-sided p; None where undefined."""

    test: str
    effect_name: str
    effect: float | None
    interval: tuple[float, float] | None
    p: float | None


@dataclass(frozen=True)
class Group:
    """One level of a sweep: how many runs gave a value, their mean and s.d. (n - 1)."""

    level: str
    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim, and the verdict."""

    claim: Claim
    verdict: Verdict
    seeds: int
    groups: tuple[Group, ...]
    statistics: tuple[Statistic, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plain form of the JSON summaries."""
        return asdict(self)


# Longer than 60 lines: the docstring is the statement of the method.
def judge(
    claim: Claim, values: Values, levels: Sequence[str], missing: Sequence[str] = ()
) -> Finding:
    """Test a claim on `values` [S, L]: S seeds, L levels in the order of the sweep.

    *Trends* (`rises`, `falls`). Two tests, both two-sided, with the seed as replicate. The first is
    Spearman's rank correlation of value and level within each seed, averaged over the seeds; its
    exact test is Page's (1963), whose statistic is a linear function of that average. The second is
    Wilcoxon's signed-rank test of last minus first level, paired by seed; its effect size is the
    median paired difference. The claim **agrees** when both have p < 0.05 in its direction,
    **disagrees** when at least one has p < 0.05 in the other direction and neither in its own, and
    is **inconclusive** otherwise.

    *Pairs* (`higher`, `lower`). Two levels; the same Wilcoxon test decides alone.

    *Equivalence* (`vanishes`). Three levels: a null, a structure, and the structure without what
    is said to make the difference. Wilcoxon's test compares each of the two with the null. If
    structure and null do not differ in the direction that the claim names (`was`), what is said to
    vanish was not there, and the claim is **inconclusive**.
    The effect is the share that is left: the median paired difference of the third level from the
    null over that of the second. The claim **agrees** when the whole interval of the share lies
    within ±0.5 and the third level does not differ from the null, **disagrees** when all of the
    interval lies outside (more than half is left, or as much with the other sign), and is
    **inconclusive** otherwise: a difference that is small but still there has not vanished.

    *Comparable*. The effect is the largest of the L means over the smallest. The claim **agrees**
    when the whole interval of that ratio lies at or below 1.10, **disagrees** when all of it lies
    above, and is **inconclusive** otherwise. It has no p value.

    Intervals are percentile bootstraps that resample seeds, each with all its levels, by a fixed
    generator. A seed counts only where every level has a finite value; the others are left out and
    named from `missing`. With fewer than two complete seeds nothing is tested, and with fewer than
    six, where no Wilcoxon test can reach p < 0.05, the verdict is **inconclusive**: notes say so.

    Raises:
        ValueError: `values` isn't a table with one level for each name, or has another number of
            levels than the kind of claim compares.
    """
    least, most = LEVELS[claim.kind]
    if values.ndim != 2 or values.shape[1] != len(levels) or not least <= len(levels) <= most:
        number = f"{least}" if least == most else f"at least {least}"
        raise ValueError(
            f"values: expected [S, {len(levels)}] with {number} levels, got {values.shape}"
        )
    complete = values[np.isfinite(values).all(axis=1)]
    left_out = len(values) - len(complete)
    notes = []
    if left_out:
        notes.append(
            f"{left_out} of {counted(len(values), 'seed')} left out ({'; '.join(missing)})"
        )
    statistics: tuple[Statistic, ...] = ()
    verdict: Verdict = "inconclusive"
    if len(complete) < 2:
        notes.append(f"not tested: {len(complete)} complete seeds, at least 2 are needed")
    elif claim.kind == "comparable":
        statistics = (_ratio(complete),)
        verdict = _comparable(statistics[0])
    elif claim.kind in ("higher", "lower"):
        statistics = (_wilcoxon(complete),)
        verdict = _direction(statistics, 1 if claim.kind == "higher" else -1)
    elif claim.kind == "vanishes":
        null, there, gone = levels
        before = _wilcoxon(complete[:, :2], f"Wilcoxon signed-rank, {there} - {null}")
        after = _wilcoxon(complete[:, ::2], f"Wilcoxon signed-rank, {gone} - {null}")
        statistics = (before, after, _share(complete))
        was = _direction((before,), 1 if claim.was == "higher" else -1)
        verdict = _vanished(after, statistics[2]) if was == "agrees" else "inconclusive"
        if was != "agrees":
            how = "does not differ" if was == "inconclusive" else "differs the other way"
            notes.append(f"nothing to vanish: {there} {how} from {null}")
    else:
        statistics = (_spearman(complete), _wilcoxon(complete))
        verdict = _direction(statistics, 1 if claim.kind == "rises" else -1)
    if 2 <= len(complete) < FEWEST:
        verdict = "inconclusive"
        notes.append(f"too few seeds: {len(complete)} complete, a verdict needs {FEWEST}")
    groups = tuple(group(level, column) for level, column in zip(levels, values.T, strict=True))
    return Finding(claim, verdict, len(complete), groups, statistics, tuple(notes))


def group(level: str, column: Values) -> Group:
    """Summarise the finite values of one level."""
    finite = column[np.isfinite(column)]
    mean = float(finite.mean()) if len(finite) else None
    sd = float(finite.std(ddof=1)) if len(finite) > 1 else None
    return Group(level, len(finite), mean, sd)


def _direction(statistics: Sequence[Statistic], sign: int) -> Verdict:
    outcomes = [
        0 if s.effect is None or not _significant(s) else sign * np.sign(s.effect)
        for s in statistics
    ]
    if min(outcomes) > 0:
        return "agrees"
    return "disagrees" if min(outcomes) < 0 and max(outcomes) <= 0 else "inconclusive"


def _comparable(ratio: Statistic) -> Verdict:
    if ratio.interval is None:
        return "inconclusive"
    low, high = ratio.interval
    if high <= COMPARABLE:
        return "agrees"
    return "disagrees" if low > COMPARABLE else "inconclusive"


def _significant(statistic: Statistic) -> bool:
    return statistic.p is not None and statistic.p < ALPHA


def _vanished(after: Statistic, share: Statistic) -> Verdict:
    if share.interval is None:
        return "inconclusive"
    low, high = share.interval
    if max(abs(low), abs(high)) <= VANISHED:
        return "inconclusive" if _significant(after) else "agrees"
    return "disagrees" if low > VANISHED or high < -VANISHED else "inconclusive"


def _spearman(values: Values) -> Statistic:
    from scipy import stats

    level = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2

    def rho(chosen: Values) -> Values:
        """Mean over S of Spearman's rho along L, of [..., S, L]; equal values count as 0."""
        ranks = stats.rankdata(chosen, axis=-1)
        ranks -= ranks.mean(axis=-1, keepdims=True)
        norm = np.sqrt((ranks**2).sum(axis=-1) * (level**2).sum())
        each: Values = np.divide(ranks @ level, norm, out=np.zeros_like(norm), where=norm > 0)
        return each.mean(axis=-1)

    one_sided = (stats.page_trend_test(sign * values).pvalue for sign in (1, -1))
    p = min(1.0, 2 * float(min(one_sided)))
    return Statistic("Spearman", "mean rho", float(rho(values)), _interval(values, rho), p)


def _wilcoxon(values: Values, test: str = "Wilcoxon signed-rank") -> Statistic:
    from scipy import stats

    def median(chosen: Values) -> Values:
        """Median over seeds of last minus first level, of [..., S, L]."""
        return np.median(chosen[..., -1] - chosen[..., 0], axis=-1)

    difference = values[:, -1] - values[:, 0]
    # The test is not defined where no pair differs. Nothing speaks against equality then, so p is 1.
    p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
    effect = float(median(values))
    interval = _interval(values, median)
    return Statistic(test, "median paired difference", effect, interval, p)


def _ratio(values: Values) -> Statistic:
    def ratio(chosen: Values) -> Values:
        """Largest over smallest of the L means over seeds, of [..., S, L]."""
        means = chosen.mean(axis=-2)
        return means.max(axis=-1) / means.min(axis=-1)

    name = "largest / smallest mean"
    if values.min() <= 0:
        return Statistic("ratio of means", name, None, None, None)
    return Statistic("ratio of means", name, float(ratio(values)), _interval(values, ratio), None)


def _share(values: Values) -> Statistic:
    def share(chosen: Values) -> Values:
        """Median difference from level 0 of level 2 over that of level 1, of [..., S, 3]."""
        differences = np.median(chosen[..., 1:] - chosen[..., :1], axis=-2)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Values = differences[..., 1] / differences[..., 0]
        return ratio

    left = float(share(values))
    effect = left if math.isfinite(left) else None
    interval = _interval(values, share) if effect is not None else None
    return Statistic("share of medians", "share left", effect, interval, None)


def _interval(values: Values, statistic: Callable[[Values], Values]) -> tuple[float, float] | None:
    from scipy import stats

    result = stats.bootstrap(
        (np.arange(len(values)),),
        lambda seeds, axis: statistic(values[seeds]),
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
