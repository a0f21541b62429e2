"""A training iteration of a pack is six kernel launches, replayed from a CUDA graph.

Between two reads of the loss curve the host does one thing: it draws the next chunk of trials and uploads it beside the
computation. An iteration allocates nothing, waits for nothing and reads nothing back: its partial sums of loss and hits
stay on the card, one row per iteration, and a loss that is not finite is found there at the window's end.

Tests run the same class under Triton's interpreter on the CPU, without graph and streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.feed import Feed
from hpr.training.pack import Pack
from hpr.training.step import constraint
from hpr.training.trials import chunk_size, empty_targets
from hpr_kernels.internal import layout, loss, recurrence, trials, update


class FusedStep:
    """This trains a pack by SGD on buffers that are allocated once; it is the Triton counterpart of `Step`.

    A two-layer network is a leaky RNN of one step without leak: since a_0 = 0, no launch multiplies by its recurrent
    weights. `joined` holds zeros in their place, and training updates the columns of W_1 alone.
    """

    def __init__(self, pack: Pack, spec: RunSpec, task: Task) -> None:
        R, N, _ = pack.weights.shape
        T, B, width = task.T, spec.batch, layout.padded(N)
        like = self.joined = pack.weights
        self.rho, self.columns = spec.rho, slice(None)
        if spec.model == "two_layer":
            self.rho, self.columns = 0.0, slice(N, N + pack.N_in)
            self.joined = like.new_zeros(R, N, layout.padded(N + pack.N_in))
            self.joined[..., self.columns] = pack.weights
        # Rows of readout and adjoints are padded too, so that every kernel loads them 16 bytes at a time.
        readout, readout_velocity = (
            pad(value, (0, width - N))[..., :N]
            for value in (pack.readout, torch.zeros_like(pack.readout))
        )
        weights = self.joined[..., self.columns]
        self.pack, self.spec, self.task = Pack(weights, readout, pack.N_in, pack.signs), spec, task
        self.classes = task.loss == "cross_entropy"
        self.constraint = constraint(pack)
        self.first = T - 1 if task.loss_steps == "last" else 0
        self.trace = layout.empty_trace(R, T, B, N, task.N_in, like=like)
        self.potentials = like.new_empty(R, B, width)
        self.g = recurrence.sweep_buffer(R, T, B, N, like=like)
        self.targets = empty_targets(task, R, T, B, device=like.device)
        self.sums, self.dy = loss.buffers(
            R, T, B, task.N_out, self.first, like=like, classes=self.classes
        )
        self.velocity = torch.zeros_like(like)
        self.readout_velocity = readout_velocity
        self.seed = torch.arange(R, device=like.device)
        self.feed: Feed | None = None
        # These are the sums of a chunk's iterations, [chunk, R, 2, tiles].
        self.chunk_sums: Tensor | None = None
        self.warm = False
        self.graph: torch.cuda.CUDAGraph | None = None

    def select(self, networks: list[int]) -> FusedStep:
        """Return the step of the networks that go on."""
        step = FusedStep(self.pack.select(networks), self.spec, self.task)
        step.velocity.copy_(self.velocity[networks])
        step.readout_velocity.copy_(self.readout_velocity[networks])
        step.feed = self.feed
        return step

    def unit(self, specs: Sequence[RunSpec]) -> int:
        """The iterations of a graph; see `hpr.training.trainer.Trainer`."""
        return self.feed.chunk if self.feed else chunk_size(specs, self.task)

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Advance by one batch; see `Step`."""
        everyone = torch.arange(len(x), device=x.device)
        with torch.cuda.device_of(x):
            self._iteration(x.contiguous(), targets.contiguous(), everyone, self.sums)
        means = self._means(self.sums)
        return means[:, 0], means[:, 1] if self.classes else None

    def window(
        self, specs: Sequence[RunSpec], start: int, count: int
    ) -> tuple[Tensor, Tensor | None]:
        """Train iterations start … start + count - 1 of the runs `specs`; see `hpr.training.trainer.Trainer`."""
        feed = self.feed = self.feed or Feed(specs, self.task, self.trace.device)
        if self.chunk_sums is None:
            self.chunk_sums = self.sums.new_empty(feed.chunk, *self.sums.shape)
        self.seed.copy_(torch.tensor([feed.seeds.index(spec.seed) for spec in specs]))
        means = self.sums.new_empty(count, *self.sums.shape[:2])
        for first in range(start, start + count, feed.chunk):
            size = min(feed.chunk, start + count - first)
            with torch.cuda.device_of(self.trace):
                feed.load(first, size)
                self._advance(feed, self.chunk_sums[:size])
                feed.prefetch(first + size)
            done = slice(first - start, first - start + size)
            means[done] = self._means(self.chunk_sums[:size])
        return means[..., 0].T, means[..., 1].T if self.classes else None

    def _means(self, sums: Tensor) -> Tensor:
        """Loss and, for classes, accuracy [..., 2 or 1] from the sums of iterations [..., 2 or 1, tiles]."""
        return loss.mean(sums, self.dy.shape[1] if self.classes else self.dy[0].numel())

    def _advance(self, feed: Feed, sums: Tensor) -> None:
        """Train on the first `len(sums)` iterations of the chunk that the feed holds."""
        whole = len(sums) == feed.chunk
        if self.graph is None and self.warm and whole and sums.is_cuda:
            self.graph = torch.cuda.CUDAGraph()
            # Without a stream, captures share one on the device of the process's first.
            stream = torch.cuda.Stream(self.trace.device)
            with torch.cuda.graph(self.graph, stream=stream):
                self._iterations(feed, sums)
        if self.graph is not None and whole:
            self.graph.replay()
            return
        # The first chunk compiles and loads every kernel, which must not happen while a graph is captured.
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
        """Return the six launches for x [S, T, B, N_in] and targets of S seeds; network r takes those of seed[r]."""
        weights, readout, activation = self.pack.weights, self.pack.readout, self.spec.activation
        N, K = weights.shape[1], self.dy.shape[1]
        take_loss = loss.readout_cross_entropy if self.classes else loss.readout_squared_error
        rates = self.trace[:, 1:, :, :N]
        g = self.g[..., :N]
        sgd: dict[str, Any] = {
            "learning_rate": self.spec.learning_rate,
            "momentum": self.spec.momentum,
        }
        counted = rates[:, self.first :].flatten(1, 2)
        before = self.trace[:, :-1].flatten(1, 2)[..., self.columns]
        recurrent = (self.trace, self.joined, self.rho, activation)
        return [
            partial(trials.place_trials, x, targets, seed, self.trace, self.targets, N),
            partial(recurrence.forward, *recurrent, potentials=self.potentials),
            partial(take_loss, rates, readout, self.targets, g, sums, self.dy, self.first),
            partial(recurrence.sweep, self.g, *recurrent),
            partial(
                update.momentum_step,
                *(readout, self.readout_velocity, self.dy, counted),
                scale=1 / K,
                **sgd,
            ),
            partial(
                update.momentum_step,
                *(weights, self.velocity, g.flatten(1, 2), before),
                scale=(1 - self.rho) / K,
                constraint=self.constraint,
                **sgd,
            ),
        ]
