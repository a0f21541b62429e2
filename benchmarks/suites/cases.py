"""The shapes, random networks and packs that suites, peers and the planner measure.

asv gives its processes this folder alone, so the table of cases lies in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from .measure import CPU

if TYPE_CHECKING:
    from hpr.experiment.specification import RunSpec
    from hpr.tasks import Task
    from hpr_kernels.testing import Network

RHO = 0.368  # exp(-dt / tau) at dt = tau


class NetworkShape(NamedTuple):
    """Sizes of one network and its examples; a kernel's rows are outputs of all steps or of the last.

    Without `readout` the rates are the outputs.
    """

    T: int
    B: int
    N_in: int
    N_out: int
    outputs: Literal["all", "last"]
    N: int = 300
    readout: bool = True

    @property
    def rows(self) -> int:
        """Rows of the kernel."""
        steps = self.T if self.outputs == "all" else 1
        return self.B * steps * (self.N_out if self.readout else self.N)

    @property
    def weights(self) -> int:
        """Entries per row of the Jacobian."""
        return self.N * (self.N + self.N_in + (self.N_out if self.readout else 0))


SHAPES = {
    "2AF": NetworkShape(8, 32, 3, 3, "all"),
    "sMNIST": NetworkShape(28, 200, 28, 10, "last"),
    # sMNIST with so few examples that every order of contraction is fast enough to be timed.
    "B = 50": NetworkShape(28, 50, 28, 10, "last"),
    "T = 40": NetworkShape(40, 32, 3, 3, "all"),
    "hidden": NetworkShape(8, 16, 3, 3, "last", readout=False),
    "large": NetworkShape(8, 2000, 3, 3, "last"),
}


def draw_network(
    shape: NetworkShape,
    device: torch.device = CPU,
    R: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Network:
    """Inputs and weights of a plain network, or of a pack of R: the same fp32 numbers at every call, in any dtype."""
    from hpr_kernels.testing import Network, random_network

    drawn = random_network(
        torch.Generator().manual_seed(0),
        N=shape.N, T=shape.T, B=shape.B, N_in=shape.N_in, N_out=shape.N_out, R=R,
        dtype=torch.float32,
    )  # fmt: skip
    return Network(*(value.to(device, dtype) for value in drawn))


def pack_of_runs(
    task: Task, R: int = 40, N: int = 300, B: int = 32, dt: float = 100.0
) -> list[RunSpec]:
    """R runs of one iteration on a task, with dense initial weights and a seed per run; dt in ms."""
    from hpr.connectivity import Dense
    from hpr.experiment.specification import RunSpec

    return [
        RunSpec(task.name, Dense(), seed=seed, N=N, batch=B, iterations=1, dt=dt)
        for seed in range(R)
    ]


def figure_1_pack(task: Task, R: int, N: int) -> list[RunSpec]:
    """R runs as those of Figure 1: ten seeds, and ranks from 1 upwards."""
    from hpr.connectivity import LowRank
    from hpr.experiment.specification import RunSpec

    return [
        RunSpec(
            task.name,
            LowRank(rank=1 + i % N),
            seed=i % 10,
            task_version=task.version,
            N=N,
            batch=task.batch_size,
        )
        for i in range(R)
    ]
