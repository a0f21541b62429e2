"""One SGD iteration of a pack of networks: forward, loss, backward, momentum step, on buffers allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr.model import Pack
from hpr.runs import RunSpec
from hpr.tasks import Task
from hpr_kernels.leaky_rnn import cpu
from hpr_kernels.update import momentum_step


class Step:
    """One SGD iteration with momentum, as `torch.optim.SGD` on the mean loss.

    A pack whose `signs` are not zero is trained under Dale's law: its recurrent weights are |W| ∘ sign without
    self-connections, and what descends is W (Yang and Wang 2020; Figure 17).
    """

    def __init__(self, pack: Pack, spec: RunSpec, task: Task) -> None:
        R, N, _ = pack.weights.shape
        self.pack, self.spec, self.task = pack, spec, task
        self.velocity = torch.zeros_like(pack.weights)
        self.readout_velocity = torch.zeros_like(pack.readout)
        self.constrained = pack.signs.any(1).nonzero().flatten()
        self.first = task.T - 1 if task.loss_steps == "last" else 0
        if spec.model == "leaky_rnn":
            T, B = task.T, spec.batch
            self.trace = cpu.empty_trace(R, T, B, N, task.N_in, like=pack.weights)
            self.g = pack.weights.new_empty(R, T, B, N)

    def select(self, networks: list[int]) -> Step:
        """The step of the networks that go on."""
        step = Step(self.pack.select(networks), self.spec, self.task)
        step.velocity = self.velocity[networks]
        step.readout_velocity = self.readout_velocity[networks]
        return step

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Advance by one batch; returns the loss and, of classes, the accuracy before it, [R] each.

        `x` [R, T, B, N_in]; `targets` [R, T, B] classes, or [R, T, B, N_out] outputs.
        """
        rates = self._forward(x)  # [R, K, N]
        readout = self.pack.readout
        targets = targets[:, self.first :].flatten(1, 2)  # [R, K] or [R, K, N_out]
        accuracy: Tensor | None = None
        if self.task.loss == "mse":
            loss, dy = _mean_squared_error(readout, rates, targets)
        else:
            loss, accuracy, dy = _cross_entropy(readout, rates, targets)
        update = self._two_layer if self.spec.model == "two_layer" else self._leaky_rnn
        update(x, rates, dy, 1 / rates.shape[1])
        return loss, accuracy

    def _forward(self, x: Tensor) -> Tensor:
        pack, spec, N = self.pack, self.spec, self.pack.weights.shape[1]
        if spec.model == "two_layer":
            h = torch.bmm(x[:, 0], pack.weights.mT)
            return h.relu_() if spec.activation == "relu" else h
        self.trace[:, :-1, :, N : N + pack.N_in] = x
        cpu.forward(self.trace, pack.weights, spec.rho, spec.activation)
        return self.trace[:, 1 + self.first :, :, :N].flatten(1, 2)

    def _two_layer(self, x: Tensor, rates: Tensor, dy: Tensor, scale: float) -> None:
        g = torch.bmm(dy, self.pack.readout)
        if self.spec.activation == "relu":
            cpu.mask(g, rates)
        self._descend(self.pack.readout, self.readout_velocity, dy, rates, scale)
        self._descend(self.pack.weights, self.velocity, g, x[:, 0], scale)

    def _leaky_rnn(self, x: Tensor, rates: Tensor, dy: Tensor, scale: float) -> None:
        weights, g, trace, spec = self.pack.weights, self.g, self.trace, self.spec
        N = weights.shape[1]
        if self.first:
            g[:, : self.first] = 0
        torch.bmm(dy, self.pack.readout, out=g[:, self.first :].flatten(1, 2))
        cpu.sweep(g, trace, weights, spec.rho, spec.activation)
        self._descend(self.pack.readout, self.readout_velocity, dy, rates, scale)
        scale *= 1 - spec.rho
        left, right = g[:, 1:].flatten(1, 2), trace[:, 1:-1].flatten(1, 2)
        self._descend(weights, self.velocity, left, right, scale)
        # a_0 = 0: the first step has a gradient for the input weights alone.
        first = torch.bmm(g[:, 0].mT, trace[:, 0, :, N:])
        self.velocity[..., N:].add_(first, alpha=scale)
        weights[..., N:].add_(first, alpha=-scale * spec.learning_rate)
        for r in self.constrained.tolist():
            keep_signs(self.pack.recurrent[r], self.velocity[r, :, :N], self.pack.signs[r])

    def _descend(
        self, weights: Tensor, velocity: Tensor, left: Tensor, right: Tensor, scale: float
    ) -> None:
        sgd = {"learning_rate": self.spec.learning_rate, "momentum": self.spec.momentum}
        momentum_step(weights, velocity, left, right, scale=scale, **sgd)


def _cross_entropy(readout: Tensor, rates: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [R], accuracy [R], and K ∂loss/∂y [R, K, N_out] of y = w a."""
    labels = labels[:, None]  # [R, 1, K]
    # Classes before trials: what is summed or compared over the few classes then runs along the many trials.
    log_p = torch.bmm(readout, rates.mT).log_softmax(1)  # [R, N_out, K]
    picked = log_p.gather(1, labels)
    K = labels.shape[2]
    loss = -picked.sum((1, 2)) / K
    # A tie is a miss: a network whose units are all dead has learned nothing.
    accuracy = ((log_p >= picked).sum(1) == 1).sum(1) / K
    dy = log_p.exp_()
    dy.scatter_add_(1, labels, dy.new_full((), -1.0).expand(labels.shape))
    return loss, accuracy, dy.mT


def _mean_squared_error(readout: Tensor, rates: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [R], the mean of (y - target)² over rows and outputs, and K ∂loss/∂y [R, K, N_out] of y = w a."""
    difference = torch.bmm(rates, readout.mT) - targets
    loss = difference.square().mean((1, 2))
    return loss, difference.mul_(2 / targets.shape[2])


def keep_signs(recurrent: Tensor, velocity: Tensor, signs: Tensor) -> None:
    """Turn a free step of |W| ∘ sign into the step of W itself, in place.

    ∂|W|/∂W = sgn(W), so the effective weight and its velocity follow those of W until W changes its sign: where the
    effective weight [N, N] has come out with another sign than its column's, both are reflected. The diagonal is none
    of the parameters.
    """
    away = torch.where(recurrent * signs < 0, -1.0, 1.0).to(recurrent.dtype)
    away.fill_diagonal_(0)
    recurrent *= away
    velocity *= away
