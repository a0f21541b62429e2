"""What a pack of runs costs: floating-point operations and memory, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hpr.experiment.specification import RunSpec


@dataclass(frozen=True)
class Cost:
    """The FLOPs of a pack (a multiply-add counts as two) and its bytes of resident memory."""

    training_flops: float
    kernel_flops: float
    memory: float

    @property
    def flops(self) -> float:
        """The FLOPs of training and kernels together."""
        return self.training_flops + self.kernel_flops


class TaskShape(Protocol):
    """What a cost needs to know of a task; `hpr.tasks.Task` is one."""

    N_in: int
    N_out: int
    T: int
    loss_steps: Literal["all", "last"]


def cost(pack: Sequence[RunSpec], task: TaskShape) -> Cost:
    """Estimate a pack's cost in closed form. It is an upper bound, since runs may stop early.

    An iteration takes three products of [B, N] by [N, N] per step (forward, backward, weight gradient), except for the
    first step, whose rates are zero, and three products of [T B, N] by the input and readout weights.
    """
    spec = pack[0]
    R, N, B = len(pack), spec.N, spec.batch
    T, edges = task.T, task.N_in + task.N_out
    iteration = 6.0 * B * N * ((T - 1) * N + T * edges)
    outputs = task.N_out * (1 if task.loss_steps == "last" else T)
    rows = spec.kernel_trials * outputs
    sweep = 2.0 * rows * (T - 1) * N * N
    # The order `propagate` computes half of the pairs of trials, by symmetry.
    contraction = rows * spec.kernel_trials * T * N * (T + outputs)
    forward = 4.0 * spec.trials * N * ((T - 1) * N + T * task.N_in)
    weights = N * (edges if spec.model == "two_layer" else N + edges)
    buffers = 2 * T * B * (N + task.N_in) + 5 * weights + spec.trials * T * N
    # A trajectory needs each network's first kernel throughout.
    kernels = (4 + (R if spec.checkpoints else 0)) * rows * rows + 4 * T * rows * N
    return Cost(
        training_flops=R * spec.iterations * iteration,
        kernel_flops=R * ((2 + spec.checkpoints) * (sweep + contraction) + forward),
        memory=4.0 * (R * buffers + kernels),
    )
