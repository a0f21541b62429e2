"""The counter-based random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpr.tasks.counter import random_words, standard_normal, uniform

WORDS = random_words(500_000, 0, "test", 0)
# The probability that a correct generator fails with a random seed; the seed here is fixed.
RARE = 1e-4


def test_a_long_stream_starts_with_a_short_one() -> None:
    np.testing.assert_array_equal(random_words(7, 3, "a", 1), random_words(99, 3, "a", 1)[:7])


@pytest.mark.parametrize(
    "other", [(1, "a", 1), (0, "b", 1), (0, "a", 2)], ids=["index", "name", "seed"]
)
def test_streams_differ_by(other: tuple[int, str, int]) -> None:
    assert not np.any(random_words(64, 0, "a", 1) == random_words(64, *other))


def test_the_stream_of_stored_runs_is_kept() -> None:
    words = random_words(2, 5, "2AF", "0.0.2", 100.0, 3, "train", 32)
    assert [f"{word:016x}" for word in words] == ["c45aceb726b918ed", "34054bb7bd1ce7cb"]


def test_uniform_numbers_are_uniform() -> None:
    numbers = uniform(WORDS)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > RARE


def test_the_largest_word_is_below_one() -> None:
    assert uniform(np.array([2**64 - 1], np.uint64))[0] < 1


def test_normal_numbers_are_normal() -> None:
    numbers = standard_normal(WORDS).astype(float)
    assert numbers.dtype == np.float64
    assert len(numbers) == 2 * len(WORDS)
    assert stats.kstest(numbers, "norm").pvalue > RARE
    bound = stats.norm.isf(RARE / 2)
    count = len(numbers)
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3)]:
        spread = np.sqrt(stats.norm.moment(2 * power) - moment**2)
        assert abs(np.mean(numbers**power) - moment) < bound * spread / np.sqrt(count), power


def test_normal_numbers_have_the_stated_accuracy() -> None:
    # A level is half of its sum with itself. The distribution of all sums of two levels is then exact.
    words = np.arange(2**16, dtype="<u2").view("<u8")
    levels = standard_normal(np.concatenate([words, words])).astype(float) / 2
    for x in np.linspace(-4, 4, 33):
        share = np.searchsorted(levels, x - levels, side="right").mean() / 2**16
        assert abs(share - stats.norm.cdf(x)) < 8e-6, x
    assert 2 * np.mean(levels**2) == pytest.approx(1, abs=1e-6)
    assert 2 * levels.max() == pytest.approx(6.1, abs=0.05)
    second, fourth = np.mean(levels**2), np.mean(levels**4)
    assert (2 * fourth + 6 * second**2) / (2 * second) ** 2 == pytest.approx(2.9996, abs=5e-5)


def test_normal_numbers_are_uncorrelated() -> None:
    numbers = standard_normal(WORDS)
    for lag in (1, 2, 3, len(WORDS)):
        assert stats.pearsonr(numbers[:-lag], numbers[lag:]).pvalue > RARE, lag
