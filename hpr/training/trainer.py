"""What trains a pack, and which of the trainers serves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.autograd_step import AutogradStep, by_autograd
from hpr.training.native_step import NativeStep
from hpr.training.pack import Pack
from hpr.training.step import Step
from hpr_kernels.internal import iterations, uses_native, uses_triton


class Trainer(Protocol):
    """What trains a pack: `NativeStep` by C kernels, `FusedStep` by Triton's, `Step` by torch's operations.

    `AutogradStep` has what these lack: GRUs, biases, noise, Adam, weight decay and weights that are not trained.
    """

    pack: Pack
    # The momentum's velocities, of the shapes of the pack's weights and readout.
    velocity: Tensor
    readout_velocity: Tensor

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Advance by one batch, x [R, T, B, N_in]; returns the loss and, for classes, the accuracy before it, [R]."""

    def window(
        self, specs: Sequence[RunSpec], start: int, count: int
    ) -> tuple[Tensor, Tensor | None]:
        """Train iterations start … start + count - 1 of the runs `specs`.

        Returns:
            losses and, for classes, accuracies, [R, count] each.
        """

    def unit(self, specs: Sequence[RunSpec]) -> int:
        """Windows of a multiple of this many iterations cost least per iteration."""

    def select(self, networks: list[int]) -> Trainer:
        """A trainer of some of the networks, which go on from where they are."""


def held(trainer: Trainer) -> dict[str, Tensor]:
    """What training changes of all networks, [R, …] each: `Pack.tensors`, and the optimiser's moments of each."""
    if isinstance(trainer, AutogradStep):
        return {**trainer.pack.tensors, **trainer.moments}
    velocities = {"velocity": trainer.velocity, "readout_velocity": trainer.readout_velocity}
    return {**trainer.pack.tensors, **velocities}


def engine(pack: Pack, spec: RunSpec) -> Literal["native", "triton", "torch"]:
    """What sums the products of training: C kernels, Triton's, or torch. Each rounds in its own way."""
    if by_autograd(spec):
        return "torch"
    if uses_native(pack.weights) and spec.activation in iterations.ACTIVATIONS:
        return "native"
    return "triton" if uses_triton(pack.weights) else "torch"


def new_trainer(pack: Pack, spec: RunSpec, task: Task) -> Trainer:
    """The trainer of a pack by its `engine`; `AutogradStep` where the specification needs it."""
    if by_autograd(spec):
        return AutogradStep(pack, spec, task)
    kind = engine(pack, spec)
    if kind == "native":
        return NativeStep(pack, spec, task)
    if kind == "triton":
        from hpr.training.fused_step import FusedStep

        return FusedStep(pack, spec, task)
    return Step(pack, spec, task)
