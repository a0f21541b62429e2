"""Training iterations of a pack by the C kernels, whole windows at a time on one thread per network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.pack import Pack
from hpr.training.step import constraint
from hpr.training.trials import chunks
from hpr_kernels.internal import iterations


class NativeStep:
    """This trains a pack by SGD with the iteration of `Step`, and with the same numbers on any CPU and in any pack."""

    def __init__(self, pack: Pack, spec: RunSpec, task: Task) -> None:
        self.spec, self.task = spec, task
        weights, readout = pack.weights.contiguous(), pack.readout.contiguous()
        self.pack = Pack(weights, readout, pack.N_in, pack.signs)
        self.velocity = torch.zeros_like(weights)
        self.readout_velocity = torch.zeros_like(readout)
        self.constraint = constraint(pack)

    def select(self, networks: list[int]) -> NativeStep:
        """Return the step of the networks that go on."""
        step = NativeStep(self.pack.select(networks), self.spec, self.task)
        step.velocity.copy_(self.velocity[networks])
        step.readout_velocity.copy_(self.readout_velocity[networks])
        return step

    def unit(self, specs: Sequence[RunSpec]) -> int:
        """One: any number of iterations at once costs the same per iteration; see `hpr.training.trainer.Trainer`."""
        return 1

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Advance by a batch; see `Step`."""
        index = torch.arange(len(x), device=x.device)
        losses, accuracies = self._train(x[:, None], targets[:, None], index)
        return losses[:, 0], None if accuracies is None else accuracies[:, 0]

    def window(
        self, specs: Sequence[RunSpec], start: int, count: int
    ) -> tuple[Tensor, Tensor | None]:
        """Train iterations start … start + count - 1 of the runs `specs`; see `hpr.training.trainer.Trainer`."""
        parts = [
            self._train(x, targets, index)
            for index, x, targets in chunks(specs, self.task, start, count)
        ]
        accuracies = [part[1] for part in parts if part[1] is not None]
        return torch.cat([part[0] for part in parts], 1), (
            torch.cat(accuracies, 1) if accuracies else None
        )

    def _train(self, x: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        spec = self.spec
        return iterations.train_networks(
            x,
            targets,
            weights=self.pack.weights,
            velocity=self.velocity,
            readout=self.pack.readout,
            readout_velocity=self.readout_velocity,
            trials=index,
            constraint=self.constraint,
            rho=None if spec.model == "two_layer" else spec.rho,
            activation=spec.activation,
            first=self.task.T - 1 if self.task.loss_steps == "last" else 0,
            learning_rate=spec.learning_rate,
            momentum=spec.momentum,
        )
