"""A group of runs is written with two digits of its standard deviation, whatever the size of the mean."""

from __future__ import annotations

import pytest

from hpr.figures.claims import Group
from hpr.figures.pages import written


@pytest.mark.parametrize(
    ("mean", "deviation", "said"),
    [
        (1.0791, 0.0578, "1.079 ± 0.058 (10)"),
        (290.4, 143.2, "290 ± 143 (10)"),
        (1.411e-7, 6.03e-8, "1.41e-07 ± 6e-08 (10)"),
        (0.101949, 1e-17, "0.102 (10)"),
        (0.5, 0.0, "0.5 (10)"),
        (None, None, "none (0)"),
    ],
)
def test_a_group_is_written(mean: float | None, deviation: float | None, said: str) -> None:
    assert written(Group("null", 0 if mean is None else 10, mean, deviation)) == said
