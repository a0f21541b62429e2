"""Batches of trials for a pack on a GPU, drawn for many iterations at once and uploaded while it computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.trials import chunk_size, empty_targets


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
        self.x = torch.empty(*lead, *rows, task.N_in, dtype=torch.float32, device=device)
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
