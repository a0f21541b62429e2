"""`Step` takes one SGD iteration of a pack (forward, loss, backward, momentum step) on buffers allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.pack import Pack
from hpr.training.trials import trials
from hpr_kernels.internal import (
    Constraint,
    layout,
    momentum_step,
    readout_cross_entropy,
    readout_squared_error,
    recurrence,
)


class Step:
    """A step is one SGD iteration with momentum, as `torch.optim.SGD` takes it on the mean loss.

    A pack whose `signs` are not zero is trained under Dale's law: its recurrent weights are |W| ∘ sign without
    self-connections, and SGD trains W (Yang and Wang 2020; Figure 17).
    """

    def __init__(self, pack: Pack, spec: RunSpec, task: Task) -> None:
        R, N, _ = pack.weights.shape
        T, B = task.T, spec.batch
        self.spec, self.task = spec, task
        self.pack = Pack(pack.weights, on_cache_lines(pack.readout), pack.N_in, pack.signs)
        # The weights at which gradients are taken.
        self.at = self.pack
        self.velocity = torch.zeros_like(pack.weights)
        self.readout_velocity = on_cache_lines(torch.zeros_like(pack.readout))
        self.constraint = constraint(pack)
        self.first = T - 1 if task.loss_steps == "last" else 0
        self.rows = recurrence.sweep_buffer(R, T, B, N, like=pack.weights)
        self.g = self.rows[..., :N]
        if spec.model == "leaky_rnn":
            self.trace = layout.empty_trace(R, T, B, N, task.N_in, like=pack.weights)

    def select(self, networks: list[int]) -> Step:
        """Return the step of the networks that go on."""
        step = Step(self.pack.select(networks), self.spec, self.task)
        step.velocity = self.velocity[networks]
        step.readout_velocity = on_cache_lines(self.readout_velocity[networks])
        return step

    def window(
        self, specs: Sequence[RunSpec], start: int, count: int
    ) -> tuple[Tensor, Tensor | None]:
        """Train iterations start … start + count - 1 of the runs `specs`; see `hpr.training.trainer.Trainer`."""
        losses = self.g.new_empty(len(specs), count)
        accuracies = torch.empty_like(losses) if self.task.loss == "cross_entropy" else None
        for i, (x, targets) in enumerate(trials(specs, self.task, start, count, losses.device)):
            losses[:, i], accuracy = self(x, targets)
            if accuracies is not None and accuracy is not None:
                accuracies[:, i] = accuracy
        return losses, accuracies

    def unit(self, specs: Sequence[RunSpec]) -> int:
        """One: any number of iterations at once costs the same per iteration; see `hpr.training.trainer.Trainer`."""
        return 1

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Advance by one batch; return the loss [R] and, for classes, the accuracy [R], both from before the step.

        `x` is [R, T, B, N_in]; `targets` are [R, T, B] classes, or [R, T, B, N_out] outputs.
        """
        rates = self._forward(x)  # [R, T, B, N]
        loss, accuracy, dy = self._loss(self.pack.readout, rates, targets, self.g)
        self._backward(x, rates, dy)
        return loss, accuracy

    def _loss(
        self, readout: Tensor, rates: Tensor, targets: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return loss [R], accuracy [R] for classes, and K ∂loss/∂y; write K ∂loss/∂a into `gradient`."""
        if self.task.loss == "mse":
            loss, dy = readout_squared_error(rates, readout, targets, gradient, first=self.first)
            return loss, None, dy
        return readout_cross_entropy(rates, readout, targets, gradient, first=self.first)

    def _backward(self, x: Tensor, rates: Tensor, dy: Tensor) -> None:
        """Take the momentum steps of all weights, from K ∂loss/∂y and K ∂loss/∂a in `g`."""
        backward = self._two_layer if self.spec.model == "two_layer" else self._leaky_rnn
        backward(x, rates, dy, 1 / dy.shape[1])

    def _forward(self, x: Tensor) -> Tensor:
        pack, spec, N = self.at, self.spec, self.at.weights.shape[1]
        if spec.model == "two_layer":
            h = torch.bmm(x[:, 0], pack.weights.mT)
            return (h.relu_() if spec.activation == "relu" else h)[:, None]
        self.trace[:, :-1, :, N : N + pack.N_in] = x
        recurrence.forward(self.trace, pack.weights, spec.rho, spec.activation)
        return self.trace[:, 1:, :, :N]

    def _two_layer(self, x: Tensor, rates: Tensor, dy: Tensor, scale: float) -> None:
        g = self.g[:, 0]
        if self.spec.activation == "relu":
            recurrence.mask(g, rates[:, 0])
        self._descend(self.pack.readout, self.readout_velocity, dy, rates[:, 0], scale)
        self._descend(self.pack.weights, self.velocity, g, x[:, 0], scale)

    def _leaky_rnn(self, x: Tensor, rates: Tensor, dy: Tensor, scale: float) -> None:
        weights, g, trace, spec = self.pack.weights, self.g, self.trace, self.spec
        N = weights.shape[1]
        recurrence.sweep(self.rows, trace, self.at.weights, spec.rho, spec.activation)
        counted = rates[:, self.first :].flatten(1, 2)
        self._descend(self.pack.readout, self.readout_velocity, dy, counted, scale)
        scale *= 1 - spec.rho
        left, right = g[:, 1:].flatten(1, 2), trace[:, 1:-1].flatten(1, 2)
        self._descend(weights, self.velocity, left, right, scale, self.constraint)
        # As a_0 = 0, the first step has a gradient for the input weights alone.
        first = torch.bmm(g[:, 0].mT, trace[:, 0, :, N:])
        self.velocity[..., N:].add_(first, alpha=scale)
        weights[..., N:].add_(first, alpha=-scale * spec.learning_rate)

    def _descend(
        self,
        weights: Tensor,
        velocity: Tensor,
        left: Tensor,
        right: Tensor,
        scale: float,
        constraint: Tensor | None = None,
    ) -> None:
        momentum_step(
            weights,
            velocity,
            left,
            right,
            scale=scale,
            learning_rate=self.spec.learning_rate,
            momentum=self.spec.momentum,
            constraint=constraint,
        )


def constraint(pack: Pack) -> Tensor | None:
    """Return the `hpr_kernels.update.Constraint` of each of `pack.weights` by Dale's law; None where all are free."""
    if not bool(pack.signs.any()):
        return None
    kinds = torch.zeros_like(pack.weights, dtype=torch.int8)
    N = pack.weights.shape[1]
    recurrent = kinds[..., :N].copy_(pack.signs[:, None])
    # The diagonal is no parameter.
    constrained = pack.signs.any(1)[:, None].expand(-1, N)
    recurrent.diagonal(dim1=1, dim2=2)[constrained] = int(Constraint.FROZEN)
    return kinds


def on_cache_lines(matrices: Tensor) -> Tensor:
    """Return a copy of [R, M, N] in which every network's matrix begins at a multiple of 64 bytes.

    For other matrices, libraries take another path and round differently, by the network's place in the pack.
    """
    R, M, N = matrices.shape
    line = 64 // matrices.element_size()
    storage = matrices.new_zeros(R, -(-M * N // line) * line)
    copy = storage.as_strided((R, M, N), (storage.shape[1], N, 1))
    return copy.copy_(matrices)
