"""Verdicts on tables whose answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hpr.figures.claims import FEWEST, Claim, Finding, judge

LEVELS = ("1", "30", "100", "300")


def table(slope: float, noise: float = 0.05, seeds: int = 10) -> NDArray[np.float64]:
    """[S, L]: a line along the sweep, an offset of each seed, and noise."""
    rng = np.random.default_rng(5)
    offset = rng.normal(0, 0.3, size=(seeds, 1))
    return 2.0 + offset + slope * np.arange(4) + noise * rng.normal(size=(seeds, 4))


def found(kind: str, values: NDArray[np.float64], missing: tuple[str, ...] = ()) -> Finding:
    claim = Claim("2AF", "kernel_alignment", kind, "so it is")  # type: ignore[arg-type]
    return judge(claim, values, LEVELS, missing)


@pytest.mark.parametrize(
    ("kind", "slope", "verdict"),
    [
        ("rises", 0.2, "agrees"),
        ("falls", -0.2, "agrees"),
        ("rises", -0.2, "disagrees"),
        ("falls", 0.2, "disagrees"),
        ("rises", 0.0, "inconclusive"),
        ("falls", 0.0, "inconclusive"),
    ],
)
def test_a_trend_is_judged_by_its_direction(kind: str, slope: float, verdict: str) -> None:
    finding = found(kind, table(slope))
    assert finding.verdict == verdict
    assert finding.seeds == 10
    assert finding.notes == ()
    spearman, wilcoxon = finding.statistics
    if slope:
        assert np.sign(spearman.effect) == np.sign(wilcoxon.effect) == np.sign(slope)
    for statistic in finding.statistics:
        assert statistic.effect is not None
        assert statistic.interval is not None
        low, high = statistic.interval
        assert low <= statistic.effect <= high


def test_spearman_is_the_mean_over_seeds_and_its_p_is_that_of_exact_permutation() -> None:
    values = table(0.03, seeds=3)[:, :3]
    claim = Claim("2AF", "kernel_alignment", "rises", "so it is")
    spearman = judge(claim, values, LEVELS[:3]).statistics[0]
    each = [stats.spearmanr(range(3), row).statistic for row in values]
    assert spearman.effect == pytest.approx(np.mean(each))
    # Where there is no trend, every order of the levels within every seed is equally likely.
    orders = [stats.spearmanr(range(3), o).statistic for o in itertools.permutations(range(3))]
    null = np.array([sum(choice) for choice in itertools.product(orders, repeat=3)]) / 3
    above = np.mean(null >= np.mean(each) - 1e-12)
    below = np.mean(null <= np.mean(each) + 1e-12)
    assert spearman.p == pytest.approx(min(1.0, 2 * min(above, below)))


def test_the_paired_test_sees_through_differences_between_seeds() -> None:
    values = table(0.05, noise=0.01)
    wilcoxon = found("rises", values).statistics[1]
    difference = values[:, 3] - values[:, 0]
    assert wilcoxon.effect == pytest.approx(np.median(difference))
    assert wilcoxon.p == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert wilcoxon.p == 2 / 2**10


def test_one_test_against_the_paper_and_none_for_it_disagrees() -> None:
    # The ends differ as often upwards as downwards, while the order within seeds is mostly downwards.
    down, bowl = [4.0, 3.9, 3.8, 3.0], [3.0, 2.0, 1.0, 4.0]
    values = np.array([down, bowl] * 12)
    values[:, 3] += 0.01 * np.arange(24) * np.tile([-1, 1], 12)
    spearman, wilcoxon = found("rises", values).statistics
    assert spearman.p is not None
    assert spearman.effect is not None
    assert wilcoxon.p is not None
    assert spearman.p < 0.05
    assert spearman.effect < 0
    assert wilcoxon.p > 0.05
    assert found("rises", values).verdict == "disagrees"
    assert found("falls", values).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ((1.0, 1.02, 1.03, 1.01), "agrees"),
        ((1.0, 1.02, 1.3, 1.01), "disagrees"),
        ((1.0, 1.0, 1.1, 1.0), "inconclusive"),
    ],
    ids=["within 10 %", "beyond 10 %", "on the edge"],
)
def test_losses_are_comparable_within_ten_per_cent(means: tuple[float, ...], verdict: str) -> None:
    noise = 0.02 * np.random.default_rng(1).normal(size=(10, 4))
    finding = found("comparable", np.array(means) + noise - noise.mean(axis=0))
    assert finding.verdict == verdict
    [ratio] = finding.statistics
    assert ratio.effect == pytest.approx(max(means) / min(means))
    assert ratio.p is None


def test_a_seed_without_all_its_values_is_left_out_and_named() -> None:
    values = table(0.2)
    whole = found("rises", values[:8])
    values[8, 0] = values[9, 2] = np.nan
    finding = found(
        "rises", values, missing=("rank 1 seed 8: diverged", "rank 100 seed 9: not run")
    )
    assert finding.statistics == whole.statistics
    assert finding.seeds == 8
    [note] = finding.notes
    assert note == ("2 of 10 seeds left out (rank 1 seed 8: diverged; rank 100 seed 9: not run)")
    # A level's summary counts all values of the level.
    assert [group.n for group in finding.groups] == [9, 10, 9, 10]
    assert finding.groups[1].mean == pytest.approx(values[:, 1].mean())
    assert finding.groups[0].mean == pytest.approx(np.nanmean(values[:, 0]))


@pytest.mark.parametrize("kind", ["rises", "falls", "comparable"])
@pytest.mark.parametrize("seeds", [0, 1, 2, 5, 6])
def test_few_seeds_give_no_verdict_either_way(kind: str, seeds: int) -> None:
    finding = found(kind, table(0.5)[:seeds])
    if seeds == 6:
        assert finding.verdict == ("agrees" if kind == "rises" else "disagrees")
        assert finding.notes == ()
    elif seeds >= 2:
        assert finding.verdict == "inconclusive"
        assert finding.statistics != ()
        assert finding.notes == (f"too few seeds: {seeds} complete, a verdict needs 6",)
    else:
        assert finding.verdict == "inconclusive"
        assert finding.statistics == ()
        assert finding.notes == (f"not tested: {seeds} complete seeds, at least 2 are needed",)


def test_fewest_is_where_the_paired_test_can_decide() -> None:
    differences = np.arange(1.0, 1 + FEWEST)
    assert stats.wilcoxon(differences).pvalue < 0.05
    assert stats.wilcoxon(differences[1:]).pvalue > 0.05


@pytest.mark.parametrize("kind", ["rises", "falls"])
def test_equal_values_are_no_trend(kind: str) -> None:
    finding = found(kind, np.ones((6, 4)))
    assert finding.verdict == "inconclusive"
    assert [statistic.p for statistic in finding.statistics] == [1.0, 1.0]


def test_a_loss_of_zero_has_no_ratio() -> None:
    finding = found("comparable", np.zeros((6, 4)))
    assert finding.verdict == "inconclusive"
    assert finding.statistics[0].effect is None


def test_all_seeds_missing_is_inconclusive() -> None:
    finding = found("rises", np.full((6, 4), np.nan), missing=("all: diverged",))
    assert finding.verdict == "inconclusive"
    assert [group.mean for group in finding.groups] == [None] * 4


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 4, 1)], ids=str)
def test_a_table_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"values: expected \[S, 4\] with at least 3 levels"):
        found("rises", np.zeros(shape))


def test_the_same_table_gives_the_same_finding() -> None:
    assert found("rises", table(0.01)) == found("rises", table(0.01))


PAIR = ("null", "EM")
THREE = ("null", "EM", "shuffled")


def paired(
    kind: str, *offsets: float, noise: float = 0.05, seeds: int = 10, was: str | None = None
) -> Finding:
    """A null whose seeds differ, and levels that differ from the null by offsets and noise."""
    rng = np.random.default_rng(8)
    null = rng.normal(2, 1, size=(seeds, 1))
    shifts = np.array([0.0, *offsets]) + noise * rng.normal(size=(seeds, 1 + len(offsets)))
    levels = PAIR if len(offsets) == 1 else THREE
    claim = Claim("EM", "kernel_alignment", kind, "so it is", levels, was)  # type: ignore[arg-type]
    return judge(claim, null + shifts, levels)


@pytest.mark.parametrize(
    ("kind", "offset", "verdict"),
    [
        ("higher", 0.5, "agrees"),
        ("lower", -0.5, "agrees"),
        ("higher", -0.5, "disagrees"),
        ("lower", 0.5, "disagrees"),
        ("lower", 0.0, "inconclusive"),
    ],
)
def test_a_pair_is_judged_by_its_direction_seed_by_seed(
    kind: str, offset: float, verdict: str
) -> None:
    """The seeds differ by twice the offset, so an unpaired test would find nothing."""
    finding = paired(kind, offset)
    assert finding.verdict == verdict
    [wilcoxon] = finding.statistics
    assert wilcoxon.effect == pytest.approx(offset, abs=0.1)
    assert [group.level for group in finding.groups] == ["null", "EM"]


@pytest.mark.parametrize(
    ("there", "left", "verdict"),
    [
        (-0.8, 0.0, "agrees"),
        (0.8, 0.0, "agrees"),
        # As much is left as before, or more than half of it, or as much with the other sign.
        (-0.8, -0.8, "disagrees"),
        (-0.8, -0.6, "disagrees"),
        (-0.8, 0.7, "disagrees"),
        # About half is left; or a quarter, which is small but still differs from the null.
        (-0.8, -0.4, "inconclusive"),
        (-0.8, -0.2, "inconclusive"),
    ],
)
def test_a_difference_vanishes_when_little_is_left_and_nothing_seen(
    there: float, left: float, verdict: str
) -> None:
    finding = paired("vanishes", there, left, was="higher" if there > 0 else "lower")
    assert finding.verdict == verdict
    before, after, share = finding.statistics
    assert before.test == "Wilcoxon signed-rank, EM - null"
    assert before.effect == pytest.approx(there, abs=0.1)
    assert after.effect == pytest.approx(left, abs=0.1)
    assert share.effect == pytest.approx(left / there, abs=0.15)


def test_what_was_not_there_cannot_vanish() -> None:
    finding = paired("vanishes", 0.0, 0.0, was="lower")
    assert finding.verdict == "inconclusive"
    assert finding.notes == ("nothing to vanish: EM does not differ from null",)


@pytest.mark.parametrize(("there", "was"), [(-0.8, "higher"), (0.8, "lower")])
@pytest.mark.parametrize("left", [0.0, 1.0], ids=["gone", "left"])
def test_a_difference_the_other_way_is_not_the_papers_and_cannot_vanish(
    there: float, was: str, left: float
) -> None:
    finding = paired("vanishes", there, left * there, was=was)
    assert finding.statistics[0].p < 0.05
    assert finding.verdict == "inconclusive"
    assert finding.notes == ("nothing to vanish: EM differs the other way from null",)


@pytest.mark.parametrize(("kind", "was"), [("vanishes", None), ("higher", "lower")])
def test_a_direction_is_of_what_vanishes_alone(kind: str, was: str | None) -> None:
    with pytest.raises(ValueError, match="was: expected a direction of what vanishes alone, got"):
        paired(kind, 0.5, was=was)


def test_no_evidence_is_not_evidence_of_nothing() -> None:
    """Noise hides whether anything is left: the level neither differs from the null nor is shown to be near it."""
    finding = paired("vanishes", -2.5, 0.0, noise=0.7, was="lower")
    assert finding.statistics[0].p < 0.05
    assert finding.statistics[1].p > 0.05
    assert finding.verdict == "inconclusive"


def test_equal_levels_have_no_share() -> None:
    values = np.tile([1.0, 1.0, 1.0], (8, 1))
    claim = Claim("EM", "kernel_alignment", "vanishes", "so it is", THREE, "lower")
    finding = judge(claim, values, THREE)
    assert finding.verdict == "inconclusive"
    assert finding.statistics[2].effect is None


@pytest.mark.parametrize(
    ("kind", "levels", "message"),
    [
        ("higher", 3, r"values: expected \[S, 3\] with 2 levels, got \(6, 3\)"),
        ("vanishes", 2, r"values: expected \[S, 2\] with 3 levels, got \(6, 2\)"),
        ("rises", 2, r"values: expected \[S, 2\] with at least 3 levels, got \(6, 2\)"),
    ],
)
def test_a_wrong_number_of_levels_is_refused(kind: str, levels: int, message: str) -> None:
    was = "lower" if kind == "vanishes" else None
    claim = Claim("EM", "kernel_alignment", kind, "so it is", was=was)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        judge(claim, np.ones((6, levels)), THREE[:levels])
