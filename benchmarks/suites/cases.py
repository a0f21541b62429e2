"""The paper's shapes, as the suites measure them."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .measure import CPU, Call

RHO = 0.368  # exp(-dt / tau) at dt = tau
BATCHES, DRAWS = 300, 60


class Shape(NamedTuple):
    """Of one network and its examples; `outputs` are the steps that the kernel's rows read."""

    T: int
    B: int
    N_in: int
    N_out: int
    outputs: Literal["all", "last"]
    N: int = 300


SHAPES = {
    "2AF": Shape(8, 32, 3, 3, "all"),
    "sMNIST": Shape(28, 200, 28, 10, "last"),
}


def draw(shape: Shape, device: torch.device = CPU, R: int | None = None) -> dict[str, Any]:
    """Arguments x1, recurrent, input, readout, rho of `leaky_rnn_ntk`, of a plain network or a pack of R."""
    rng = torch.Generator().manual_seed(0)
    pack = () if R is None else (R,)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*pack, *sizes, generator=rng).to(device)

    T, B, N_in, N_out, _, N = shape
    return {
        "x1": normal(T, B, N_in),
        "recurrent": normal(N, N) * 1.5 / N**0.5,
        "input": normal(N, N_in) / N_in**0.5,
        "readout": normal(N_out, N) / N**0.5,
        "rho": RHO,
    }


def kernel(shape: Shape, device: torch.device = CPU, **options: Any) -> Call:
    """One exact NTK, all parameters."""
    from hpr_kernels import leaky_rnn_ntk

    arguments = draw(shape, device)
    return lambda: leaky_rnn_ntk(**arguments, outputs=shape.outputs, **options)


def kernel_by_torch_func(shape: Shape) -> Call:
    """The same by jacrev, example by example, whose outputs are those of every step, and contraction.

    All examples at once take twice as long: their gradients are more than malloc keeps between two steps.
    """
    given = draw(shape)
    weights = [given[name] for name in ("recurrent", "input", "readout")]

    def outputs(W: Tensor, U: Tensor, w: Tensor, x: Tensor) -> Tensor:
        h, found = W.new_zeros(shape.N), []
        for x_t in x:
            h = RHO * h + (1 - RHO) * (W @ h.relu() + U @ x_t)
            found.append(w @ h.relu())
        return torch.cat(found)

    rows = torch.func.vmap(
        torch.func.jacrev(outputs, argnums=(0, 1, 2)), in_dims=(None, None, None, 1), chunk_size=1
    )

    def call() -> Tensor:
        flat = [J.flatten(2).flatten(0, 1) for J in rows(*weights, given["x1"])]
        return torch.stack([J @ J.mT for J in flat]).sum(0)

    return call


def training(
    R: int = 40,
    N: int = 300,
    task: str = "2AF",
    B: int = 32,
    dt: float = 100.0,
    device: torch.device = CPU,
) -> tuple[Call, float]:
    """One iteration of a pack on trials that are there, and the FLOPs that it needs; T goes by dt (in ms)."""
    from hpr.connectivity import Dense
    from hpr.experiment.cost import cost
    from hpr.experiment.specification import RunSpec
    from hpr.tasks import make_task
    from hpr.training.initial import initial_pack
    from hpr.training.loop import new_trainer
    from hpr.training.trials import trials as batches

    specs = [RunSpec(task, Dense(), seed=i, N=N, batch=B, iterations=1, dt=dt) for i in range(R)]
    made = make_task(task, dt=dt)
    step = new_trainer(initial_pack(specs, made, device), specs[0], made)
    x, targets = next(batches(specs, made, 0, 1, device))

    def iterate() -> None:
        with torch.no_grad():
            step(x, targets)

    return iterate, cost(specs, made).training_flops


def trials(name: str) -> tuple[Call, Call]:
    """Draw batches of 32: DRAWS times BATCHES compiled, and BATCHES by `neurogym.Dataset` from the same environment.

    Both take a good part of a second: a busy machine would not interrupt a shorter call, and flatter it.
    """
    import neurogym

    from hpr.tasks import make_task
    from hpr.tasks.paper import PAPER_TASKS

    warnings.filterwarnings("ignore", message=".*WARN: ")
    paper, task = PAPER_TASKS[name], make_task(name)
    dataset = neurogym.Dataset(
        paper.environment,
        env_kwargs={"dt": 100, "timing": paper.timing, **paper.old_arguments},
        batch_size=32,
        seq_len=task.T,
    )

    # Dataset makes some 50 to 100 batches at once and then hands them out: several such rounds a call.
    def stream() -> None:
        for _ in range(BATCHES):
            dataset()

    def draw() -> None:
        for first in range(0, DRAWS * BATCHES, BATCHES):
            task.draw(0, first, BATCHES, 32)

    return draw, stream
