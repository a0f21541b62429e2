"""The noise in the states has the variance that is asked for, and follows from the seed and the iteration."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from other_cells import CPU, SMALL

from hpr.connectivity import Dense, LowRank
from hpr.training.cells import cell_rates, state_noise


def test_noise_has_the_mean_and_variance_that_are_asked_for() -> None:
    """Without weights the state is the noise, filtered by the leak."""
    spec = replace(
        SMALL, activation="linear", noise=0.5, dt=20.0, N=40, batch=50, connectivity=Dense()
    )
    T = 12
    runs = [spec, replace(spec, seed=1), replace(spec, connectivity=LowRank(rank=1))]
    noise = state_noise(runs, T, 3, CPU)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], state_noise(runs, T, 4, CPU)[0])
    scale = 0.5 * math.sqrt(2 * 20 / 100)
    n = noise[0].numel()
    assert abs(float(noise[0].mean())) < 4 * scale / math.sqrt(n)
    assert float(noise[0].std()) == pytest.approx(scale, rel=4 / math.sqrt(2 * n))
    # Neighbours in time, trials and units are independent.
    for axis in range(3):
        one, other = (
            noise[0].narrow(axis, 0, noise.shape[axis + 1] - 1),
            noise[0].narrow(axis, 1, noise.shape[axis + 1] - 1),
        )
        assert abs(float((one * other).mean())) < 4 * scale**2 / math.sqrt(n)
    nothing = torch.zeros(1, 40, 40)
    x = torch.zeros(1, T, 50, 3)
    h = cell_rates(
        x, recurrent=nothing, input=nothing[..., :3], bias=None, spec=spec, noise=noise[:1]
    )
    rho = math.exp(-0.2)
    torch.testing.assert_close(h[0, 0], noise[0, 0])
    torch.testing.assert_close(h[0, 2], noise[0, 2] + rho * noise[0, 1] + rho**2 * noise[0, 0])
