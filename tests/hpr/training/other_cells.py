"""A small run of another cell in fp64, and what a plain PyTorch loop of it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hpr.connectivity import LowRank
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.pack import Pack

CPU = torch.device("cpu")
SMALL = RunSpec(
    "2AF", LowRank(rank=3), seed=0, N=13, batch=3, iterations=6, trials=8, kernel_trials=4
)
GRU = replace(SMALL, cell="gru", bias=True)


def double(pack: Pack) -> Pack:
    found = pack.of({name: value.double() for name, value in pack.tensors.items()})
    return replace(found, signs=pack.signs.double())


def batch(spec: RunSpec, task: Task, step: int) -> tuple[Tensor, Tensor]:
    drawn = task.draw(spec.seed, step, 1, spec.batch)
    return torch.from_numpy(drawn.inputs).double(), torch.from_numpy(drawn.targets)


def biased(pack: Pack) -> Pack:
    """Biases that are not zero, so that each counts."""
    assert pack.bias is not None
    values = torch.linspace(-0.3, 0.2, pack.bias.numel()).view_as(pack.bias)
    return pack.of({**pack.tensors, "bias": values.to(pack.bias.dtype)})


def loss_of(y: Tensor, targets: Tensor, task: Task) -> Tensor:
    """The mean over the counted steps, of outputs [T, B, K]."""
    if task.loss_steps == "last":
        y, targets = y[-1:], targets[-1:]
    if task.loss == "mse":
        return (y - targets).square().mean()
    return cross_entropy(y.flatten(0, 1), targets.flatten())


def optimiser(spec: RunSpec, leaves: list[Any]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay}
    if spec.optimizer == "adam":
        return torch.optim.Adam(leaves, betas=(spec.momentum, 0.999), **options)
    return torch.optim.SGD(leaves, momentum=spec.momentum, **options)
