"""Batches of trials for a pack, drawn for many iterations at once; for a GPU also uploaded while it computes."""

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
    """Memory for targets: classes `shape`, or outputs [*shape, N_out]."""
    if task.loss == "cross_entropy":
        return torch.empty(shape, dtype=torch.int64, device=device)
    return torch.empty(*shape, task.N_out, device=device)


def _bytes(task: Task, batch: int) -> int:
    """Bytes of a batch of trials: inputs of fp32, and a class of int64 or outputs of fp32 per time step."""
    target = 8 if task.loss == "cross_entropy" else 4 * task.N_out
    return task.T * batch * (4 * task.N_in + target)


class Feed:
    """Trials on the device for a chunk of iterations, with the next chunk drawn and uploaded ahead.

    `x` [S, chunk, T, B, N_in] and `targets`, [S, chunk, T, B] or [S, chunk, T, B, N_out], stay at one address, so that
    a CUDA graph may read them. An upload goes from pinned memory to separate landing buffers, on a stream of its own,
    and `load` copies the landing buffers to `x` and `targets`.
    """

    def __init__(self, specs: Sequence[RunSpec], task: Task, device: torch.device) -> None:
        self.seeds = sorted({spec.seed for spec in specs})
        self.task, self.spec = task, specs[0]
        rows = (task.T, self.spec.batch)
        self.chunk = chunk_size(specs, task)
        cuda = device.type == "cuda"
        lead = (len(self.seeds), self.chunk)
        self.x = torch.empty(*lead, *rows, task.N_in, device=device)
        self.targets = empty_targets(task, *lead, *rows, device=device)
        self._landing = (torch.empty_like(self.x), torch.empty_like(self.targets))
        self._host = tuple(
            torch.empty(value.shape, dtype=value.dtype, pin_memory=cuda) for value in self._landing
        )
        self._stream = torch.cuda.Stream(device) if cuda else None
        if self._stream is not None:
            # Work on the current stream may still use the memory that the landing buffers were given.
            self._stream.wait_stream(torch.cuda.current_stream(device))
        # `_moved`: the landing buffers may be overwritten. `_uploaded`: the host's buffers may be overwritten.
        self._moved = torch.cuda.Event() if cuda else None
        self._uploaded = torch.cuda.Event() if cuda else None
        self._ahead = (0, 0)

    def load(self, start: int, size: int) -> None:
        """Put the trials of iterations start … start + size - 1 at the head of `x` and `targets`."""
        if self._ahead[0] != start or self._ahead[1] < size:
            self._draw(start, size)
        if self._stream is not None:
            torch.cuda.current_stream(self.x.device).wait_stream(self._stream)
        for held, landed in zip((self.x, self.targets), self._landing, strict=True):
            held.copy_(landed)
        if self._moved is not None:
            self._moved.record(torch.cuda.current_stream(self.x.device))

    def prefetch(self, start: int) -> None:
        """Draw and upload the chunk that begins at iteration `start`, while the device computes."""
        size = min(self.chunk, self.spec.iterations - start)
        if size > 0:
            self._draw(start, size)

    def _draw(self, start: int, size: int) -> None:
        if self._uploaded is not None:
            self._uploaded.synchronize()
        drawn = [self.task.draw(seed, start, size, self.spec.batch) for seed in self.seeds]
        np.stack([part.inputs for part in drawn], out=self._host[0][:, :size].numpy())
        np.stack([part.targets for part in drawn], out=self._host[1][:, :size].numpy())
        with torch.cuda.stream(self._stream):
            if self._stream is not None and self._moved is not None:
                self._stream.wait_event(self._moved)
            for landed, host in zip(self._landing, self._host, strict=True):
                landed.copy_(host, non_blocking=True)
                if self._stream is not None:
                    # If the buffer is freed early, its memory is not reused before the upload ends.
                    landed.record_stream(self._stream)
            if self._uploaded is not None:
                self._uploaded.record(self._stream)
        self._ahead = (start, size)
