"""Student-teacher regression: a linear function of anisotropic features (Section 2.3, Figures 3, 4 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .base import Loss, Split, Task, Trials
from .counter import random_words, standard_normal, uniform

# Variance of a number that is uniform over [-2, 2].
_VARIANCE = 4 / 3


@dataclass(frozen=True)
class Teacher:
    """The weights of a teacher y = w F x, or the hidden and readout weights of a trained network in its place.

    Attributes:
        features: F, float64 [d, d].
        readout: w, float64 [N_out, d].
        truncated: F truncated to rank d // 2, if it is known by construction.
    """

    features: np.ndarray  # [d, d]
    readout: np.ndarray  # [N_out, d]
    truncated: np.ndarray | None = None  # [d, d]

    def directions(self) -> np.ndarray:
        """Return β = w F, float64 [N_out, d], the directions of the task in input space."""
        return self.readout @ self.features

    def dominant(self) -> Teacher:
        """Return the teacher that has the dominant half of the features: F truncated to rank d // 2."""
        if self.truncated is not None:
            return Teacher(self.truncated, self.readout)
        half = len(self.features) // 2
        left, values, right = np.linalg.svd(self.features)
        return Teacher((left[:, :half] * values[:half]) @ right[:half], self.readout)


class StudentTeacher(Task):
    """Full-batch regression of y = β x, β = w F, on one fixed set of inputs x ~ U[-2, 2] per seed and split.

    All entries of w are 1. F = U S Vᵀ has random orthogonal U and V, drawn per seed; its first d // 2 singular values
    are kappa and the others 1. Without kappa, F is the identity (Appendix C.2). Tasks of different kappa share x, U and
    V if their seeds are equal. A batch is the set X [B, d]. If it is whitened, its covariance XᵀX / B is exactly that
    of U[-2, 2], 4/3 of the identity.
    """

    version = "1"
    label = "student-teacher"
    loss: Loss = "mse"
    T = 1
    N_out = 1
    batch_size = 256

    def __init__(self, d: int, kappa: float | None = None, *, whitened: bool = False) -> None:
        """Take the number of inputs d, the condition number kappa of F, and whether the inputs are whitened."""
        if d < 2:
            raise ValueError(f"d: expected at least 2, got {d}")
        if kappa is not None and not 1 <= kappa < np.inf:
            raise ValueError(f"kappa: expected a number of at least 1, got {kappa}")
        self.N_in, self.kappa, self.whitened = d, kappa, whitened
        parts = [f"d={d}"]
        parts += [] if kappa is None else [f"kappa={kappa:g}"]
        parts += ["whitened"] if whitened else []
        self.name = f"student-teacher({','.join(parts)})"

    def teacher(self, seed: int) -> Teacher:
        """Return the teacher of a seed."""
        d = self.N_in
        half = d // 2
        w = np.ones((1, d))
        if self.kappa is None:
            return Teacher(np.eye(d), w)
        values = np.ones(d)
        values[:half] = self.kappa
        U, V = (_orthogonal(d, seed, side) for side in ("left", "right"))
        # If kappa is 1, all singular values are equal, and rounding would decide which half an SVD keeps.
        truncated = (U[:, :half] * values[:half]) @ V[:, :half].T
        return Teacher((U * values) @ V.T, w, truncated)

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        d = self.N_in
        if self.whitened and batch < d:
            raise ValueError(f"batch: expected at least d = {d} to be whitened, got {batch}")
        words = random_words(batch * d, 0, "student-teacher", self.version, d, seed, split, batch)
        X = 4 * uniform(words).reshape(batch, d) - 2
        if self.whitened:
            left, _, right = np.linalg.svd(X, full_matrices=False)
            X = (_VARIANCE * batch) ** 0.5 * left @ right
        y = X @ self.teacher(seed).directions().T  # [B, 1]
        inputs = np.empty((count, 1, batch, d), np.float32)
        targets = np.empty((count, 1, batch, 1), np.float32)
        inputs[:], targets[:] = X, y
        return Trials(inputs, targets)


def student_teacher(name: str) -> StudentTeacher:
    """Make the task of a name such as `student-teacher(d=20,kappa=10,whitened)`.

    Raises:
        ValueError: the name is not exactly the name of a task, or a number is out of range.
    """
    found = re.fullmatch(
        r"student-teacher\(d=(\d{1,6})(?:,kappa=([\d.e+]+))?(,whitened)?\)", name, re.ASCII
    )
    if found is None:
        raise ValueError(
            f"task: expected a name like student-teacher(d=2) or student-teacher(d=20,kappa=10,whitened), got {name!r}"
        )
    kappa = None if found[2] is None else float(found[2])
    task = StudentTeacher(int(found[1]), kappa, whitened=found[3] is not None)
    if task.name != name:
        raise ValueError(f"task: expected {task.name!r}, the one name of that task, got {name!r}")
    return task


def _orthogonal(d: int, seed: int, side: str) -> np.ndarray:
    """Return an orthogonal matrix [d, d] from the uniform (Haar) distribution."""
    words = random_words(-(-d * d // 2), 0, "student-teacher", "orthogonal", d, seed, side)
    Q, R = np.linalg.qr(standard_normal(words)[: d * d].reshape(d, d).astype(np.float64))
    # The signs of R's diagonal depend on the factorisation; fixing them makes Q uniform.
    return Q * np.sign(np.diagonal(R))
