"""Pattern generation: its targets, and that all trials of a seed are identical."""

from __future__ import annotations

import numpy as np
import pytest

from hpr.tasks import make_task
from hpr.tasks.pattern import PatternGeneration


def test_the_pattern_is_made_of_its_four_frequencies() -> None:
    """The sines are orthogonal over one second, so the spectrum has four lines and a constant."""
    task = PatternGeneration(dt=10)
    y = task.draw(4, 0, 1, 1).targets[0, :, 0, 0].astype(np.float64)
    assert len(y) == task.T == 100
    spectrum = np.abs(np.fft.rfft(y)) / 50
    assert set(np.flatnonzero(spectrum > 1e-5)) == {0, 1, 2, 3, 5}
    lines = spectrum[[1, 2, 3, 5]]
    assert lines.max() / lines.min() <= 4.0 + 1e-3
    assert y[0] == 0
    assert np.abs(y).max() == pytest.approx(1)


def test_every_trial_of_a_seed_is_the_same() -> None:
    task = make_task("pattern generation", dt=20)
    one = task.draw(1, 0, 1, 1)
    assert one.inputs.shape == (1, 50, 1, 20)
    assert one.targets.shape == (1, 50, 1, 1)
    many = task.draw(1, 7, 2, 3, split="evaluation")
    assert np.array_equal(many.inputs, np.broadcast_to(one.inputs, many.inputs.shape))
    assert np.array_equal(many.targets, np.broadcast_to(one.targets, many.targets.shape))
    other = task.draw(2, 0, 1, 1)
    assert not np.array_equal(other.inputs, one.inputs)
    assert not np.array_equal(other.targets, one.targets)
    assert one.inputs.std() == pytest.approx(1, rel=0.1)


def test_a_finer_step_shows_the_same_pattern() -> None:
    coarse, fine = PatternGeneration(20), PatternGeneration(10)
    y, z = (task.draw(3, 0, 1, 1).targets[0, :, 0, 0] for task in (coarse, fine))
    # Each is divided by its own largest magnitude, which may differ.
    share = z[::2][1:] / y[1:]
    assert share == pytest.approx(np.full(49, share[0]), rel=1e-4)


@pytest.mark.parametrize("dt", [30, 1000, 3000])
def test_a_step_must_divide_the_second(dt: float) -> None:
    with pytest.raises(ValueError, match="dt must divide pattern generation's 1000 ms"):
        PatternGeneration(dt)
