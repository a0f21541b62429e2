"""What every task is: a pure function from (seed, step) to a batch of trials."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Split = Literal["train", "evaluation"]
Loss = Literal["cross_entropy", "mse"]


@dataclass(frozen=True)
class Trials:
    """Trials of K consecutive training steps, B of them a step.

    Attributes:
        inputs: float32 [K, T, B, N_in].
        targets: the class at every time step, int64 [K, T, B], where the loss is the
            cross-entropy; the outputs wanted, float32 [K, T, B, N_out], where it is the mean
            squared error. A task whose loss counts the last time step only carries its label at
            all of them.
    """

    inputs: np.ndarray  # [K, T, B, N_in]
    targets: np.ndarray  # [K, T, B] or [K, T, B, N_out]


class Task(ABC):
    """A task whose trials are a pure function of (task, seed, step, batch, split).

    Attributes:
        name: the paper's name of the task, or its NeuroGym id.
        version: whose behaviour it shows ("0.0.2" or "2.3" of NeuroGym; "1" for all others).
        label: what a picture's title says.
        N_in: input channels.
        N_out: classes, or outputs of a regression.
        T: time steps.
        loss: cross-entropy of classes, or mean squared error of outputs.
        loss_steps: the time steps that the loss counts.
        frozen: whether all trials of a seed are one and the same, so that nothing but its time
            steps can be compared.
        batch_size: the paper's number of trials a training step.
    """

    name: str
    version: str
    label: str
    N_in: int
    N_out: int
    T: int
    loss: Loss = "cross_entropy"
    loss_steps: Literal["all", "last"] = "all"
    frozen: bool = False
    batch_size: int = 32

    def draw(self, seed: int, start: int, count: int, batch: int, split: Split = "train") -> Trials:
        """Draw the trials of training steps start … start + count - 1.

        Step k of a long draw equals the draw of step k alone, bit for bit, in any process and
        whatever was drawn before.

        Args:
            seed: the run's seed.
            start: first step, from 0.
            count: K, number of steps.
            batch: B, trials a step; with another B, other trials.
            split: "train" or "evaluation"; their trials are drawn independently.

        Returns:
            New arrays, the caller's own.

        Raises:
            TypeError: an argument is not a whole number.
            ValueError: an argument is out of range, or a batch exceeds the task's data.
        """
        seed = _whole("seed", seed)
        start, count = _whole("start", start, 0), _whole("count", count, 1)
        batch = _whole("batch", batch, 1)
        if split not in get_args(Split):
            raise ValueError(f"split must be 'train' or 'evaluation', got {split!r}")
        return self._draw(seed, start, count, batch, split)

    @abstractmethod
    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        """Draw with checked arguments."""


def _whole(name: str, value: int, least: int | None = None) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if least is not None and whole < least:
        raise ValueError(f"{name} must be at least {least}, got {whole}")
    return whole
