"""The SGD iteration of linearised networks, f_0 + J (θ - θ_0) with the Jacobian J at the initial weights θ_0."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.pack import Pack
from hpr.training.step import Step, on_cache_lines
from hpr_kernels.internal import Constraint, recurrence


class LinearisedStep(Step):
    """A step is one SGD iteration of the linearised network, with the loss, trials and momentum of `Step`.

    `at` holds θ_0, and `pack` the change θ - θ_0 = (V_h, V_x, V_w). The linearised outputs are
    y = (w + V_w) a + w a', with the rates a of the initial network and their change a' (`rate_changes`).

    Under Dale's law the network is linearised in its raw weights W, which have no constraint but the frozen diagonal.
    `pack` holds the first-order change of |W| ∘ sign. It is that of W times ±1, so that SGD trains both alike.

    Args:
        pack: the initial weights.
        spec: a run of the pack's shape.
        task: the runs' task.
    """

    def __init__(self, pack: Pack, spec: RunSpec, task: Task) -> None:
        super().__init__(pack, spec, task)
        R, N_out, N = self.at.readout.shape
        self.pack = Pack(
            torch.zeros_like(self.at.weights),
            on_cache_lines(torch.zeros_like(self.at.readout)),
            pack.N_in,
            pack.signs,
        )
        if self.constraint is not None:
            free = self.constraint != Constraint.FROZEN
            self.constraint = self.constraint.masked_fill(free, int(Constraint.FREE))
        # y is the product of [w + V_w, w] and [a, a'].
        self.both_rates = self.g.new_zeros(R, task.T, spec.batch, 2 * N)
        self.both_gradients = torch.zeros_like(self.both_rates)
        self.both_readouts = on_cache_lines(self.g.new_zeros(R, N_out, 2 * N))
        self.both_readouts[..., N:] = self.at.readout

    def select(self, networks: list[int]) -> LinearisedStep:
        """Return the step of the networks that go on."""
        step = LinearisedStep(self.at.select(networks), self.spec, self.task)
        step.pack.weights.copy_(self.pack.weights[networks])
        step.pack.readout.copy_(self.pack.readout[networks])
        step.velocity.copy_(self.velocity[networks])
        step.readout_velocity.copy_(self.readout_velocity[networks])
        return step

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Advance by one batch; see `Step`."""
        N = self.at.weights.shape[1]
        rates = self._forward(x)
        trace = None if self.spec.model == "two_layer" else self.trace
        self.both_rates[..., :N] = rates
        self.both_rates[..., N:] = rate_changes(self.at, self.pack, x, rates, trace, self.spec)
        torch.add(self.at.readout, self.pack.readout, out=self.both_readouts[..., :N])
        loss, accuracy, dy = self._loss(
            self.both_readouts, self.both_rates, targets, self.both_gradients
        )
        self.g.copy_(self.both_gradients[..., N:])
        self._backward(x, rates, dy)
        return loss, accuracy


def rate_changes(
    at: Pack, change: Pack, x: Tensor, rates: Tensor, trace: Tensor | None, spec: RunSpec
) -> Tensor:
    """The first-order change a' of the rates, [R, T, B, N], by a change V of the hidden and input weights.

    h'_{t+1} = rho h'_t + (1 - rho) (W_h a'_t + V_h a_t + V_x x_t), a' = f'(h) ∘ h'; with two layers h' = V_1 x.

    Args:
        at: the weights W.
        change: their change V.
        x: inputs [R, T, B, N_in].
        rates: those of `at`, [R, T, B, N].
        trace: inputs and rates side by side (see `hpr_kernels.layout`); None for two layers.
        spec: a run of the packs.
    """
    if trace is None:
        out = torch.bmm(x[:, 0], change.weights.mT)[:, None]
        _times_slope(out, rates, spec)
        return out
    R, T, B, N = rates.shape
    rho, recurrent = spec.rho, at.weights[..., :N]
    out = torch.bmm(trace[:, :-1].flatten(1, 2), change.weights.mT).unflatten(1, (T, B))
    h = out.new_zeros(R, N, B)
    for t in range(T):
        if t == 0:
            h.copy_(out[:, 0].mT).mul_(1 - rho)
        else:
            h.baddbmm_(recurrent, out[:, t - 1].mT, beta=rho, alpha=1 - rho)
            h.add_(out[:, t].mT, alpha=1 - rho)
        out[:, t] = h.mT
        _times_slope(out[:, t], rates[:, t], spec)
    return out


def _times_slope(change: Tensor, rates: Tensor, spec: RunSpec) -> None:
    """Multiply by f'(h) in place: [a > 0] for ReLU, 1 - a² for tanh."""
    if spec.activation == "relu":
        recurrence.mask(change, rates)
    elif spec.activation == "tanh":
        change.mul_(1 - rates.square())
