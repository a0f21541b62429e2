"""Pattern generation: a sum of sines from frozen noise inputs (Figure 18; Bellec et al. 2020, Figure S7)."""

from __future__ import annotations

import numpy as np

from .base import Loss, Split, Task, Trials
from .counter import random_words, standard_normal, uniform

DURATION = 1000.0  # ms
_FREQUENCIES = np.array([1.0, 2.0, 3.0, 5.0])  # Hz
_INPUTS = 20


class PatternGeneration(Task):
    """The target is one second of y(t) = Σ_k a_k sin(2π f_k t + φ_k); the inputs are 20 channels of Gaussian noise.

    f = 1, 2, 3, 5 Hz, a_k ~ U(0.5, 2), φ_k ~ U(0, 2π). The first value is subtracted from y, which is then divided by
    its largest magnitude. The noise has standard deviation 1 and is independent at each time step. The seed determines
    pattern and noise: all trials of a seed are identical, in training and evaluation, so that a batch of one suffices.
    """

    name = label = "pattern generation"
    version = "1"
    loss: Loss = "mse"
    frozen = True
    N_in = _INPUTS
    N_out = 1
    batch_size = 1
    dt: float

    def __init__(self, dt: float) -> None:
        """Take the time step `dt` in ms, which must divide 1,000 ms."""
        if DURATION % dt or dt >= DURATION:
            raise ValueError(f"dt must divide {self.name}'s {DURATION:g} ms, got {dt}")
        self.dt = float(dt)
        self.T = int(DURATION / dt)

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        key = (self.name, self.version, self.dt, seed)
        inputs = np.empty((count, self.T, batch, _INPUTS), np.float32)
        targets = np.empty((count, self.T, batch, 1), np.float32)
        noise = standard_normal(random_words(self.T * _INPUTS // 2, 0, "noise", *key))
        inputs[:] = noise.reshape(self.T, 1, _INPUTS)
        # The key of the pattern lacks dt, so that every time step samples the same function of time.
        amplitude, phase = uniform(random_words(8, 0, self.name, self.version, seed)).reshape(2, 4)
        time = np.arange(self.T) * self.dt / 1000  # s
        angles = 2 * np.pi * (np.outer(time, _FREQUENCIES) + phase)
        pattern = np.sin(angles) @ (0.5 + 1.5 * amplitude)
        pattern -= pattern[0]
        targets[:] = (pattern / np.abs(pattern).max())[:, None, None]
        return Trials(inputs, targets)
