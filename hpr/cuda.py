"""A training iteration of a pack in six kernel launches, replayed from a CUDA graph.

Between two reads of the loss curve the host does one thing: it draws the next chunk of trials and uploads it beside the
computation. An iteration allocates nothing, waits for nothing and reads nothing back: its partial sums of loss and hits
stay on the card, a row an iteration, and a loss that is not finite is found there at the window's end.

The same class runs under Triton's interpreter on the CPU, without graph and streams, which is how it is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from hpr.model import Pack
from hpr.runs import RunSpec
from hpr.step import TRIAL_BYTES, constraint
from hpr.tasks import Task
from hpr.training import WINDOW
from hpr_kernels.internal import layout, loss, recurrence, trials, update


class FusedStep:
    """SGD iterations of a pack on buffers that are allocated once; the Triton counterpart of `hpr.step.Step`."""

    def __init__(self, pack: Pack, spec: RunSpec, task: Task) -> None:
        R, N, _ = pack.weights.shape
        T, B, width = task.T, spec.batch, layout.padded(N)
        like = pack.weights
        # Rows of readout and adjoints are padded too, so that every kernel loads them 16 bytes at a time.
        readout, readout_velocity = (
            pad(value, (0, width - N))[..., :N]
            for value in (pack.readout, torch.zeros_like(pack.readout))
        )
        self.pack, self.spec, self.task = Pack(like, readout, pack.N_in, pack.signs), spec, task
        self.constraint = constraint(pack)
        self.first = T - 1 if task.loss_steps == "last" else 0
        self.trace = layout.empty_trace(R, T, B, N, task.N_in, like=like)
        self.potentials = like.new_empty(R, B, width)
        self.g = recurrence.sweep_buffer(R, T, B, N, like=like)
        self.targets = like.new_empty(R, T, B, dtype=torch.int64)
        self.sums, self.dy = loss.buffers(R, T, B, task.N_out, self.first, like=like)
        self.velocity = torch.zeros_like(like)
        self.readout_velocity = readout_velocity
        self.seed = torch.arange(R, device=like.device)
        self.feed: Feed | None = None
        # Those of a chunk's iterations, [chunk, R, 2, tiles].
        self.chunk_sums: Tensor | None = None
        self.warm = False
        self.graph: torch.cuda.CUDAGraph | None = None

    def select(self, networks: list[int]) -> FusedStep:
        """The step of the networks that go on."""
        step = FusedStep(self.pack.select(networks), self.spec, self.task)
        step.velocity.copy_(self.velocity[networks])
        step.readout_velocity.copy_(self.readout_velocity[networks])
        step.feed = self.feed
        return step

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one batch, x [R, T, B, N_in] and targets [R, T, B]; returns loss and accuracy [R] before it."""
        everyone = torch.arange(len(x), device=x.device)
        with torch.cuda.device_of(x):
            self._iteration(x.contiguous(), targets.contiguous(), everyone, self.sums)
        means = loss.mean(self.sums, self.dy.shape[1])
        return means[:, 0], means[:, 1]

    def window(
        self,
        specs: Sequence[RunSpec],
        start: int,
        count: int,
        observe: Callable[[int], None] = lambda iteration: None,
    ) -> tuple[Tensor, Tensor]:
        """Train iterations start … start + count - 1 of the runs `specs`; returns losses and accuracies [R, count].

        `observe`, which `hpr.step.Step` calls between iterations, is not called: there is no stopping between them.
        """
        feed = self.feed = self.feed or Feed(specs, self.task, self.trace.device)
        if self.chunk_sums is None:
            self.chunk_sums = self.sums.new_empty(feed.chunk, *self.sums.shape)
        self.seed.copy_(torch.tensor([feed.seeds.index(spec.seed) for spec in specs]))
        means = self.sums.new_empty(count, len(specs), 2)
        for first in range(start, start + count, feed.chunk):
            size = min(feed.chunk, start + count - first)
            with torch.cuda.device_of(self.trace):
                feed.load(first, size)
                self._advance(feed, self.chunk_sums[:size])
                feed.prefetch(first + size)
            done = slice(first - start, first - start + size)
            means[done] = loss.mean(self.chunk_sums[:size], self.dy.shape[1])
        return means[..., 0].T, means[..., 1].T

    def _advance(self, feed: Feed, sums: Tensor) -> None:
        """Train on the first iterations of the chunk that the feed holds, as many as `sums` has rows."""
        whole = len(sums) == feed.chunk
        if self.graph is None and self.warm and whole and sums.is_cuda:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._iterations(feed, sums)
        if self.graph is not None and whole:
            self.graph.replay()
            return
        # The first chunk compiles and loads every kernel, which a graph under capture must not.
        self._iterations(feed, sums)
        self.warm = self.warm or whole

    def _iterations(self, feed: Feed, sums: Tensor) -> None:
        for i, row in enumerate(sums):
            self._iteration(feed.x[:, i], feed.targets[:, i], self.seed, row)

    def _iteration(self, x: Tensor, targets: Tensor, seed: Tensor, sums: Tensor) -> None:
        for launch in self.launches(x, targets, seed, sums):
            launch()

    def launches(
        self, x: Tensor, targets: Tensor, seed: Tensor, sums: Tensor
    ) -> list[Callable[[], None]]:
        """An iteration's six; x [S, T, B, N_in] and targets [S, T, B] of S seeds, network r takes seed[r]'s."""
        pack, rho = self.pack, self.spec.rho
        weights, readout = pack.weights, pack.readout
        N, K = weights.shape[1], self.dy.shape[1]
        rates = self.trace[:, 1:, :, :N]
        g = self.g[..., :N]
        sgd: dict[str, Any] = {
            "learning_rate": self.spec.learning_rate,
            "momentum": self.spec.momentum,
        }
        counted, before = rates[:, self.first :].flatten(1, 2), self.trace[:, :-1].flatten(1, 2)
        return [
            partial(trials.place_trials, x, targets, seed, self.trace, self.targets, N),
            partial(recurrence.forward, self.trace, weights, rho, potentials=self.potentials),
            partial(
                loss.readout_cross_entropy,
                *(rates, readout, self.targets, g, sums, self.dy, self.first),
            ),
            partial(recurrence.sweep, self.g, self.trace, weights, rho),
            partial(
                update.momentum_step,
                *(readout, self.readout_velocity, self.dy, counted),
                scale=1 / K,
                **sgd,
            ),
            partial(
                update.momentum_step,
                *(weights, self.velocity, g.flatten(1, 2), before),
                scale=(1 - rho) / K,
                constraint=self.constraint,
                **sgd,
            ),
        ]


class Feed:
    """Trials on the device, a chunk of iterations at a time; the next chunk is drawn and uploaded ahead.

    `x` [S, chunk, T, B, N_in] and `targets` [S, chunk, T, B] keep their place, so that a CUDA graph may read them. What
    is uploaded lands beside them, from pinned memory on a stream of its own, and is moved over when its turn comes.
    """

    def __init__(self, specs: Sequence[RunSpec], task: Task, device: torch.device) -> None:
        self.seeds = sorted({spec.seed for spec in specs})
        self.task, self.spec = task, specs[0]
        rows = (task.T, self.spec.batch)
        bytes_each = len(self.seeds) * rows[0] * rows[1] * (4 * task.N_in + 8)
        # It divides the window, so that all chunks but a run's last have one size and one graph serves them.
        self.chunk = max(
            size
            for size in range(1, WINDOW + 1)
            if WINDOW % size == 0 and (size == 1 or size * bytes_each <= TRIAL_BYTES)
        )
        cuda = device.type == "cuda"
        lead = (len(self.seeds), self.chunk)
        self.x = torch.empty(*lead, *rows, task.N_in, device=device)
        self.targets = torch.empty(*lead, *rows, dtype=torch.int64, device=device)
        self._landing = (torch.empty_like(self.x), torch.empty_like(self.targets))
        self._host = tuple(
            torch.empty(value.shape, dtype=value.dtype, pin_memory=cuda) for value in self._landing
        )
        self._stream = torch.cuda.Stream(device) if cuda else None
        if self._stream is not None:
            # What the landing buffers' memory held before may still be in use.
            self._stream.wait_stream(torch.cuda.current_stream(device))
        # When what landed has been moved over, and when the host's buffer has been uploaded.
        self._moved = torch.cuda.Event() if cuda else None
        self._uploaded = torch.cuda.Event() if cuda else None
        self._ahead = (0, 0)

    def load(self, start: int, size: int) -> None:
        """Hold the trials of iterations start … start + size - 1 at the head of `x` and `targets`."""
        if self._ahead[0] != start or self._ahead[1] < size:
            self._draw(start, size)
        if self._stream is not None:
            torch.cuda.current_stream(self.x.device).wait_stream(self._stream)
        for held, landed in zip((self.x, self.targets), self._landing, strict=True):
            held.copy_(landed)
        if self._moved is not None:
            self._moved.record(torch.cuda.current_stream(self.x.device))

    def prefetch(self, start: int) -> None:
        """Draw and upload the chunk from iteration `start` on, while the device computes."""
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
                    # Freed early, the memory shall not be given away before the upload ends.
                    landed.record_stream(self._stream)
            if self._uploaded is not None:
                self._uploaded.record(self._stream)
        self._ahead = (start, size)
