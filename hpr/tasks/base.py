"""The base class of tasks: a task is a pure function from (seed, step) to a batch of trials."""

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
    """Trials of K consecutive training steps, B trials per step.

    Attributes:
        inputs: float32 [K, T, B, N_in].
        targets: for a cross-entropy loss, the class at every time step, int64 [K, T, B]; for a
            mean squared error, the desired outputs, float32 [K, T, B, N_out]. If the loss counts
            the last time step only, the label is repeated at every time step.
    """

    inputs: np.ndarray  # [K, T, B, N_in]
    targets: np.ndarray  # [K, T, B] or [K, T, B, N_out]


class Task(ABC):
    """A task whose trials are a pure function of (task, seed, step, batch, split).

    Attributes:
        name: the paper's name of the task, or its NeuroGym id.
        version: the version of NeuroGym whose behaviour it has, "0.0.2" or "2.3"; "1" for all other tasks.
        label: the name of the task in the title of a picture.
        N_in: number of input channels.
        N_out: number of classes, or of outputs of a regression.
        T: number of time steps.
        loss: cross-entropy of classes, or mean squared error of outputs.
        loss_steps: the time steps that the loss counts.
        frozen: whether all trials of a seed are identical; then kernels and representations can
            only be compared across time steps.
        one_length: whether every trial has T steps of its own; where not, a shorter one is followed by the beginning of
            the next one, and the last step is no fixed moment of a trial.
        batch_size: the paper's number of trials per training step.
        dt: time step in ms; None if the steps have no duration.
        content: digest of everything else that the trials depend on, 16 hexadecimal digits; None if name, version and
            dt determine the trials.
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
    one_length: bool = True
    batch_size: int = 32
    dt: float | None = None
    content: str | None = None

    def draw(self, seed: int, start: int, count: int, batch: int, split: Split = "train") -> Trials:
        """Draw the trials of training steps start … start + count - 1.

        Step k of a long draw equals a draw of step k alone, bit for bit. The process and earlier
        draws make no difference.

        Args:
            seed: the run's seed.
            start: number of the first step, counted from 0.
            count: K, the number of steps.
            batch: B, the number of trials per step; another B gives other trials.
            split: "train" or "evaluation"; the trials of the two are drawn independently.

        Returns:
            New arrays, which the caller may change.

        Raises:
            TypeError: an argument is not a whole number.
            ValueError: an argument is out of range, a batch exceeds the task's data, or the task drew bad trials:
                non-finite inputs or targets, a wrong shape or type, or a class that is not in 0 … N_out - 1.
        """
        seed = _whole_number("seed", seed)
        start, count = _whole_number("start", start, 0), _whole_number("count", count, 1)
        batch = _whole_number("batch", batch, 1)
        if split not in get_args(Split):
            raise ValueError(f"split: expected 'train' or 'evaluation', got {split!r}")
        drawn = self._draw(seed, start, count, batch, split)
        fault = self._fault(drawn, (count, self.T, batch))
        if fault is not None:
            # Such trials would give a non-finite loss, which would look like a property of the network.
            raise ValueError(
                f"{self.name}: expected {fault}, in the {split} trials of seed {seed} from step {start} on"
            )
        return drawn

    def most(self, split: Split) -> int | None:
        """The most trials of a batch; None: any number."""
        return None

    def _fault(self, drawn: Trials, shape: tuple[int, int, int]) -> str | None:
        """Say what was expected of trials [K, T, B] and what they are instead; None if they are valid."""
        inputs, targets = drawn.inputs, drawn.targets
        classes = self.loss == "cross_entropy"
        wanted = {
            "inputs": (inputs, np.float32, (*shape, self.N_in)),
            "targets": (targets, np.int64, shape)
            if classes
            else (targets, np.float32, (*shape, self.N_out)),
        }
        for name, (array, kind, of) in wanted.items():
            if (array.dtype, array.shape) != (kind, of):
                return (
                    f"{name} of {np.dtype(kind)} {list(of)}, got {array.dtype} {list(array.shape)}"
                )
            if kind is np.float32 and not all_finite(array):
                bad = array.size - int(np.isfinite(array).sum())
                return f"finite {name}, got {bad} NaN or infinite"
        # Read as unsigned, a negative number is larger than every class.
        if classes and targets.view(np.uint64).max() >= self.N_out:
            wrong = targets[(targets < 0) | (targets >= self.N_out)]
            return f"targets from 0 to N_out - 1 = {self.N_out - 1}, got {wrong[0]}"
        return None

    @abstractmethod
    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        """Draw with checked arguments."""


def all_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite. If their sum is finite, they are, and one pass is enough."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _whole_number(name: str, value: int, least: int | None = None) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
    if least is not None and whole < least:
        raise ValueError(f"{name}: expected at least {least}, got {whole}")
    return whole
