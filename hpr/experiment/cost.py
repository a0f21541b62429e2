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
    first step, whose rates are zero, and three products of [T B, N] by the input and readout weights. A GRU has three
    matrices [N, N] and [N, N_in] each, and the noise of leaky units comes through N more inputs. Weights that are not
    trained have no weight gradient, and a reservoir no backward pass, but this counts them as trained.
    """
    spec = pack[0]
    R, N, B = len(pack), spec.N, spec.batch
    matrices = 3 if spec.cell == "gru" else 1
    noises = N if spec.noise and spec.cell == "leaky" else 0
    T, edges = task.T, matrices * task.N_in + task.N_out
    iteration = 6.0 * B * N * ((T - 1) * matrices * N + T * (edges + noises))
    outputs = task.N_out * (1 if task.loss_steps == "last" else T)
    rows = spec.kernel_trials * outputs
    sweep = 2.0 * rows * (T - 1) * matrices * N * N
    # The order `propagate` computes half of the pairs of trials, by symmetry.
    contraction = rows * spec.kernel_trials * T * matrices * N * (T + outputs)
    forward = 4.0 * spec.trials * matrices * N * ((T - 1) * N + T * task.N_in)
    weights = N * (edges if spec.model == "two_layer" else matrices * N + edges)
    # A step of a GRU keeps about eight arrays [B, 3N] for its backward pass, and is measured with four [B, N].
    kept, measured = (8 * matrices, 4) if spec.cell == "gru" else (1, 1)
    buffers = 2 * T * B * (kept * N + task.N_in + noises) + 5 * weights
    buffers += spec.trials * T * measured * N
    # A trajectory needs each network's first kernel throughout.
    kernels = (4 + (R if spec.checkpoints else 0)) * rows * rows + 4 * T * rows * matrices * N
    return Cost(
        training_flops=R * spec.iterations * iteration,
        kernel_flops=R * ((2 + spec.checkpoints) * (sweep + contraction) + forward),
        memory=4.0 * (R * buffers + kernels),
    )
