"""Batches of trials for a pack, drawn for many iterations at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task

# The mean loss and accuracy of this many iterations are one point of a curve. After each window the loop looks for runs
# that stop or diverged.
WINDOW = 100
# Trials are drawn ahead up to this many bytes.
TRIAL_BYTES = 64 << 20


def chunks(
    specs: Sequence[RunSpec], task: Task, start: int, count: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The trials of iterations start … start + count - 1, as many iterations at a time as `TRIAL_BYTES` holds.

    Each item is the row of x that each run takes, [R]; inputs x [S, size, T, B, N_in] of the S seeds; and targets
    [S, size, T, B] or [S, size, T, B, N_out].
    """
    seeds = sorted({spec.seed for spec in specs})
    index = torch.tensor([seeds.index(spec.seed) for spec in specs], device="cpu")
    batch = specs[0].batch
    chunk = max(1, TRIAL_BYTES // (len(seeds) * _bytes(task, batch)))
    for first in range(start, start + count, chunk):
        size = min(chunk, start + count - first)
        drawn = [task.draw(seed, first, size, batch) for seed in seeds]
        x = torch.from_numpy(np.stack([part.inputs for part in drawn]))
        targets = torch.from_numpy(np.stack([part.targets for part in drawn]))
        yield index, x, targets


def trials(
    specs: Sequence[RunSpec], task: Task, start: int, count: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch per iteration: inputs [R, T, B, N_in] and targets [R, T, B] or [R, T, B, N_out]."""
    for index, x, targets in chunks(specs, task, start, count):
        index, x, targets = (value.to(device) for value in (index, x, targets))
        for i in range(x.shape[1]):
            yield x[index, i], targets[index, i]


def chunk_size(specs: Sequence[RunSpec], task: Task) -> int:
    """How many iterations' trials `Feed` holds, within `TRIAL_BYTES`.

    The number divides the window, so all chunks but a run's last have one size and one graph serves them.
    """
    seeds, batch = len({spec.seed for spec in specs}), specs[0].batch
    bytes_each = seeds * _bytes(task, batch)
    return max(
        size
        for size in range(1, WINDOW + 1)
        if WINDOW % size == 0 and (size == 1 or size * bytes_each <= TRIAL_BYTES)
    )


def empty_targets(task: Task, *shape: int, device: torch.device) -> Tensor:
    """Memory for targets: classes `shape`, or outputs [*shape, N_out] in fp32."""
    if task.loss == "cross_entropy":
        return torch.empty(shape, dtype=torch.int64, device=device)
    return torch.empty(*shape, task.N_out, dtype=torch.float32, device=device)


def _bytes(task: Task, batch: int) -> int:
    """Bytes of a batch of trials: inputs of fp32, and a class of int64 or outputs of fp32 per time step."""
    target = 8 if task.loss == "cross_entropy" else 4 * task.N_out
    return task.T * batch * (4 * task.N_in + target)
