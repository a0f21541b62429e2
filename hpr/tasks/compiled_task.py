"""A task whose trials are drawn in bulk from a bank of conditions."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .base import Split, Task, Trials
from .conditions import Bank
from .content import digest
from .counter import random_words, standard_normal, uniform
from .environment import fault

# The number of steps that share a generator. Starting a generator costs as much as drawing a batch,
# so many steps share one; drawing a single step requires its whole block, so the block is not larger.
_BLOCK = 64


@dataclass(frozen=True)
class _Noise:
    """The noise of one input channel in successive time steps."""

    channel: int
    steps: slice
    deviation: (
        np.ndarray
    )  # float32: one number, or [T * C], where t * C + c is condition c at step t


class CompiledTask(Task):
    """A task in which each trial is one of finitely many conditions, plus Gaussian noise.

    Attributes:
        bank: the conditions, whose digest is the task's content.
    """

    dt: float

    def __init__(
        self, name: str, version: str, label: str, dt: float, bank: Bank, classes: int
    ) -> None:
        """Take the conditions and the number of classes; the random streams depend on `dt`, in ms.

        Raises:
            ValueError: inputs or noise are not finite, or a target is not one of the classes.
        """
        self.name, self.version, self.label, self.bank = name, version, label, bank
        C, self.T, self.N_in = bank.inputs.shape
        self.N_out = classes
        self.dt = float(dt)
        self.content = digest(classes, *bank.parts())
        for values in (bank.inputs, bank.noise):
            wrong = fault(values.reshape(-1, self.N_in), bank.targets.ravel(), classes)
            if wrong is not None:
                raise ValueError(f"{name} cannot be a task: it {wrong}")
        self._cumulative = np.cumsum(bank.probability)
        self._cumulative[-1] = 1.0
        # Rows are ordered by time step, then condition: condition c at step t is row t * C + c.
        self._first_row = np.arange(self.T)[:, None] * C  # [T, 1]
        self._inputs = np.ascontiguousarray(bank.inputs.transpose(1, 0, 2)).reshape(-1, self.N_in)
        self._targets = bank.targets.T.ravel()
        self._noise = tuple(_noise(bank.noise))
        self._block = functools.lru_cache(maxsize=16)(self._new_block)

    def _fault(self, drawn: Trials, shape: tuple[int, int, int]) -> str | None:
        # __init__ has checked the conditions and the noise; their sums need no check per draw.
        return None

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        trials = self._empty(count, batch)
        for block in range(start // _BLOCK, (start + count - 1) // _BLOCK + 1):
            low = max(start, block * _BLOCK)
            high = min(start + count, (block + 1) * _BLOCK)
            here = slice(low - start, high - start)
            if high - low == _BLOCK:
                part = Trials(trials.inputs[here], trials.targets[here])
                self._fill(part, seed, block, split)
            else:
                there = slice(low % _BLOCK, low % _BLOCK + high - low)
                whole = self._block(seed, block, batch, split)
                trials.inputs[here] = whole.inputs[there]
                trials.targets[here] = whole.targets[there]
        return trials

    def _empty(self, count: int, batch: int) -> Trials:
        return Trials(
            np.empty((count, self.T, batch, self.N_in), np.float32),
            np.empty((count, self.T, batch), np.int64),
        )

    def _new_block(self, seed: int, block: int, batch: int, split: Split) -> Trials:
        trials = self._empty(_BLOCK, batch)
        self._fill(trials, seed, block, split)
        return trials

    def _fill(self, trials: Trials, seed: int, block: int, split: Split) -> None:
        """Draw the trials of one block into arrays of `_BLOCK` steps."""
        K, _, B, _ = trials.inputs.shape
        noisy = sum(noise.steps.stop - noise.steps.start for noise in self._noise)
        key = (self.name, self.version, self.dt, seed, split, B)
        words = random_words(K * B + K * B * noisy // 2, block, *key)
        chance = uniform(words[: K * B]).reshape(K, 1, B)
        rows = self._first_row + np.searchsorted(self._cumulative, chance, side="right")
        # All rows are in range, and with "clip" take() needs no bounds check and no copy.
        np.take(self._inputs, rows, axis=0, out=trials.inputs, mode="clip")
        np.take(self._targets, rows, out=trials.targets, mode="clip")
        used = K * B
        for noise in self._noise:
            inputs = trials.inputs[:, noise.steps, :, noise.channel]
            first, used = used, used + inputs.size // 2
            added = standard_normal(words[first:used]).reshape(inputs.shape)
            deviation = noise.deviation
            added *= deviation[rows[:, noise.steps]] if deviation.ndim else deviation
            inputs += added


def _noise(deviation: np.ndarray) -> list[_Noise]:
    """Split deviations [C, T, N_in] by channel and by runs of successive steps with noise."""
    described = []
    for channel in range(deviation.shape[2]):
        of_channel = deviation[:, :, channel].T  # [T, C]
        noisy = np.flatnonzero(of_channel.any(axis=1))
        for run in np.split(noisy, np.flatnonzero(np.diff(noisy) > 1) + 1):
            if len(run):
                steps = slice(int(run[0]), int(run[-1]) + 1)
                levels = np.unique(of_channel[steps])
                constant = len(levels) == 1
                described.append(
                    _Noise(channel, steps, levels.reshape(()) if constant else of_channel.ravel())
                )
    return described
