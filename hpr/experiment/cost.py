"""What a pack of runs costs: floating-point operations and memory, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hpr.experiment.specification import RunSpec


@dataclass(frozen=True)
class Cost:
    """FLOPs (a multiply-add is two) and bytes of resident memory of a pack."""

    training_flops: float
    kernel_flops: float
    memory: float

    @property
    def flops(self) -> float:
        """All of it."""
        return self.training_flops + self.kernel_flops


class TaskShape(Protocol):
    """What a cost needs to know of a task; `hpr.tasks.Task` is one."""

    N_in: int
    N_out: int
    T: int
    loss_steps: Literal["all", "last"]


def cost(pack: Sequence[RunSpec], task: TaskShape) -> Cost:
    """Estimate a pack's cost in closed form; early stops are not foreseen, so this is an upper bound.

    An iteration is three products of [B, N] by [N, N] at each step but the first, whose rates are zero (forward,
    backward, weight gradient), and three of [T B, N] by the input and the readout.
    """
    spec = pack[0]
    R, N, B = len(pack), spec.N, spec.batch
    T, edges = task.T, task.N_in + task.N_out
    iteration = 6.0 * B * N * ((T - 1) * N + T * edges)
    outputs = task.N_out * (1 if task.loss_steps == "last" else T)
    rows = spec.kernel_trials * outputs
    sweep = 2.0 * rows * (T - 1) * N * N
    # Half of the pairs of trials, by symmetry, in the order `propagate`.
    contraction = rows * spec.kernel_trials * T * N * (T + outputs)
    forward = 4.0 * spec.trials * N * ((T - 1) * N + T * task.N_in)
    weights = N * (edges if spec.model == "two_layer" else N + edges)
    buffers = 2 * T * B * (N + task.N_in) + 5 * weights + spec.trials * T * N
    # Where there is a trajectory each network's first kernel is kept.
    kernels = (4 + (R if spec.checkpoints else 0)) * rows * rows + 4 * T * rows * N
    return Cost(
        training_flops=R * spec.iterations * iteration,
        kernel_flops=R * ((2 + spec.checkpoints) * (sweep + contraction) + forward),
        memory=4.0 * (R * buffers + kernels),
    )
