"""SGD or Adam through autograd and `torch.optim`, for what the other trainers lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.cells import cell_rates, state_noise
from hpr.training.pack import Pack
from hpr.training.step import constraint, on_cache_lines
from hpr.training.trials import trials
from hpr_kernels.internal import Constraint

# The moments of the gradient that an optimiser keeps, by the tensor of `Pack.tensors` that they are of.
VELOCITY = {"weights": "velocity", "readout": "readout_velocity", "bias": "bias_velocity"}
SQUARE = {"weights": "square", "readout": "readout_square", "bias": "bias_square"}


def by_autograd(spec: RunSpec) -> bool:
    """Whether a run needs `AutogradStep`."""
    asked = (spec.cell, spec.bias, spec.noise, spec.optimizer, spec.weight_decay, spec.trained)
    return asked != (
        RunSpec.cell, RunSpec.bias, RunSpec.noise, RunSpec.optimizer, RunSpec.weight_decay,
        RunSpec.trained,
    )  # fmt: skip


def zero_moments(tensors: Mapping[str, Tensor], spec: RunSpec) -> dict[str, Tensor]:
    """The optimiser's moments of `tensors` before training: the mean gradient, and Adam's mean square."""
    kinds = (VELOCITY, SQUARE) if spec.optimizer == "adam" else (VELOCITY,)
    return {kind[name]: torch.zeros_like(of) for kind in kinds for name, of in tensors.items()}


def _graphs(weights: Tensor) -> list[slice]:
    """The networks of each graph."""
    R = len(weights)
    return [slice(r, r + 1) for r in range(R)] if weights.device.type == "cpu" else [slice(0, R)]


@dataclass(frozen=True)
class _Part:
    """Networks that share one graph: their weights by the names of `Pack.named`, views of the trainer's.

    `trained` are those that the optimiser changes. `constraint` is that of the recurrent weights by Dale's law.
    """

    networks: slice
    weights: dict[str, Tensor]
    trained: list[Tensor]
    constraint: Tensor | None


class AutogradStep:
    """This trains a pack by `torch.optim` on the gradients of autograd; it is the general counterpart of `Step`.

    On the CPU each network has a graph of its own, so that its numbers are the same bit for bit alone and in any pack.
    On a GPU the whole pack is in one graph, whose batched products may round by the size of the pack.

    Under Dale's law (see `Step`) the raw weights need not exist: a weight that a step carries across zero is reflected
    together with its mean gradient, as `hpr_kernels.update` does it. Adam's mean square has no sign.
    """

    def __init__(self, pack: Pack, spec: RunSpec, task: Task) -> None:
        self.spec, self.task = spec, task
        self.pack = pack.of({**pack.tensors, "readout": on_cache_lines(pack.readout)})
        self.first = task.T - 1 if task.loss_steps == "last" else 0
        self.moments = zero_moments(self.pack.tensors, spec)
        self.velocity = self.moments["velocity"]
        self.readout_velocity = self.moments["readout_velocity"]
        self.parts = [self._part(networks) for networks in _graphs(pack.weights)]
        leaves = [leaf for part in self.parts for leaf in part.trained]
        decay, rate, momentum = spec.weight_decay, spec.learning_rate, spec.momentum
        self.optimizer: torch.optim.Optimizer
        if spec.optimizer == "adam":
            self.optimizer = torch.optim.Adam(
                leaves, lr=rate, betas=(momentum, 0.999), weight_decay=decay
            )
        else:
            self.optimizer = torch.optim.SGD(leaves, lr=rate, momentum=momentum, weight_decay=decay)
        self._give_moments()

    def select(self, networks: list[int]) -> AutogradStep:
        """Return the step of the networks that go on."""
        step = AutogradStep(self.pack.select(networks), self.spec, self.task)
        for name, moment in step.moments.items():
            moment.copy_(self.moments[name][networks])
        return step

    def unit(self, specs: Sequence[RunSpec]) -> int:
        """One: any number of iterations at once costs the same per iteration; see `hpr.training.trainer.Trainer`."""
        return 1

    def window(
        self, specs: Sequence[RunSpec], start: int, count: int
    ) -> tuple[Tensor, Tensor | None]:
        """Train iterations start … start + count - 1 of the runs `specs`; see `hpr.training.trainer.Trainer`."""
        device = self.pack.weights.device
        if self.spec.optimizer == "adam":
            for state in self.optimizer.state.values():
                state["step"].fill_(start)
        losses = self.pack.weights.new_empty(len(specs), count)
        accuracies = torch.empty_like(losses) if self.task.loss == "cross_entropy" else None
        for i, (x, targets) in enumerate(trials(specs, self.task, start, count, device)):
            noise = None
            if self.spec.noise:
                noise = state_noise(specs, self.task.T, start + i, device)
            losses[:, i], accuracy = self(x, targets, noise)
            if accuracies is not None and accuracy is not None:
                accuracies[:, i] = accuracy
        return losses, accuracies

    def __call__(
        self, x: Tensor, targets: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Advance by one batch, with `noise` [R, T, B, N] added to the states; see `Step`."""
        losses, accuracies = [], []
        for part in self.parts:
            with torch.enable_grad():
                loss, accuracy = self._loss(
                    part,
                    x[part.networks],
                    targets[part.networks],
                    None if noise is None else noise[part.networks],
                )
                gradients = torch.autograd.grad(loss.sum(), part.trained)
            for leaf, gradient in zip(part.trained, gradients, strict=True):
                leaf.grad = gradient
            recurrent = part.weights["recurrent"]
            if part.constraint is not None and recurrent.grad is not None:
                recurrent.grad.masked_fill_(part.constraint == Constraint.FROZEN, 0)
            losses.append(loss.detach())
            accuracies.append(accuracy)
        self.optimizer.step()
        self._reflect()
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        return torch.cat(losses), torch.cat(known) if known else None

    def _loss(
        self, part: _Part, x: Tensor, targets: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The loss and, for classes, the accuracy of the networks of a part, [r]."""
        weights = part.weights
        rates = cell_rates(
            x,
            recurrent=weights["recurrent"],
            input=weights["input"],
            bias=weights.get("bias"),
            spec=self.spec,
            noise=noise,
        )
        y = torch.bmm(rates[:, self.first :].flatten(1, 2), weights["readout"].mT)
        targets = targets[:, self.first :].flatten(1, 2)
        if self.task.loss == "mse":
            return (y - targets).square().mean((1, 2)), None
        loss = cross_entropy(y.mT, targets, reduction="none").mean(1)
        return loss, (y.detach().argmax(2) == targets).float().mean(1)

    def _part(self, networks: slice) -> _Part:
        pack = self.pack.view(networks)
        weights = {name: value.detach() for name, value in pack.named.items()}
        trained = [weights[name] for name in self._names(weights)]
        for leaf in trained:
            leaf.requires_grad_()
        kinds = constraint(pack)
        if kinds is not None:
            kinds = kinds[..., : self.spec.N] if "recurrent" in self.spec.trained else None
        return _Part(networks, weights, trained, kinds)

    def _names(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Which of `weights` are trained."""
        group_of = {name: name for name in weights} | {"bias": "input"}
        if self.spec.model == "two_layer":
            # W_1 stands in the place of the input weights.
            group_of |= {"input": "recurrent", "recurrent": ""}
        return [name for name in weights if group_of[name] in self.spec.trained]

    def _give_moments(self) -> None:
        """Let the optimiser keep its moments in `moments`, where the cohort and the checkpoints find them."""
        means, squares = (
            self.pack.of({name: self.moments[kind[name]] for name in self.pack.tensors})
            if kind["weights"] in self.moments
            else None
            for kind in (VELOCITY, SQUARE)
        )
        assert means is not None
        for part in self.parts:
            mean = means.view(part.networks).named
            square = None if squares is None else squares.view(part.networks).named
            for name in self._names(part.weights):
                state = self.optimizer.state[part.weights[name]]
                if square is None:
                    state["momentum_buffer"] = mean[name]
                    continue
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = mean[name], square[name]

    def _reflect(self) -> None:
        """Turn the weights that crossed zero, and their mean gradients, where Dale's law is kept."""
        for part in self.parts:
            if part.constraint is None:
                continue
            recurrent = part.weights["recurrent"].detach()
            mean = self.moments["velocity"][part.networks][..., : self.spec.N]
            crossed = (part.constraint.abs() == 1) & (recurrent * part.constraint < 0)
            turn = 1 - 2 * crossed.to(recurrent.dtype)
            recurrent.mul_(turn)
            mean.mul_(turn)
