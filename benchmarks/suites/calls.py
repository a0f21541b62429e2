"""What is timed: a function here makes everything that a call needs and returns the call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cases import RHO, NetworkShape, draw_network, pack_of_runs
from .kept import Kept, random_pictures
from .measure import CPU, Call

KernelCall = Callable[[], Tensor]
# Batches per call of `neurogym.Dataset`, and how many times as many the compiled task draws per call.
BATCHES, DRAWS = 300, 60


def ntk_call(
    shape: NetworkShape,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> KernelCall:
    """One exact NTK by this engine, of all parameters; `options` go to `leaky_rnn_ntk`."""
    from hpr_kernels import leaky_rnn_ntk

    network = draw_network(shape, device, dtype=dtype)
    readout = network.readout if shape.readout else None
    return lambda: leaky_rnn_ntk(
        network.x,
        recurrent=network.recurrent,
        input=network.input,
        readout=readout,
        rho=RHO,
        outputs=shape.outputs,
        **options,
    )


def outputs_of_example(
    shape: NetworkShape, recurrent: Tensor, input: Tensor, readout: Tensor, x: Tensor
) -> Tensor:
    """The network's outputs for one example x [T, N_in], flat, by plain torch operations."""
    h = recurrent.new_zeros(shape.N)
    rates, outputs = h, []
    for t, x_t in enumerate(x):
        h = RHO * h + (1 - RHO) * (recurrent @ rates + input @ x_t)
        rates = h.relu()
        if shape.outputs == "all" or t == shape.T - 1:
            outputs.append(readout @ rates if shape.readout else rates)
    return torch.cat(outputs)


def ntk_by_torch_func(shape: NetworkShape) -> KernelCall:
    """The same kernel by jacrev, one example at a time, and by contraction weight by weight.

    All examples at once take about twice as long, because their gradients exceed what malloc keeps between two steps.
    Many rows per example do so too, so that 24 are taken at once.
    """
    x, *weights = draw_network(shape)
    differentiated = (0, 1, 2) if shape.readout else (0, 1)
    rows = torch.func.jacrev(
        lambda *given: outputs_of_example(shape, *given), argnums=differentiated, chunk_size=24
    )
    every_example = torch.func.vmap(rows, in_dims=(None, None, None, 1), chunk_size=1)

    def call() -> Tensor:
        jacobians = [J.flatten(2).flatten(0, 1) for J in every_example(*weights, x)]
        return torch.stack([J @ J.mT for J in jacobians]).sum(0)

    return call


class LeakyNetwork(nn.Module):
    """The network of Eq. 1 and 2 as a loop over steps, by the weights of `draw_network`."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        _, recurrent, input, readout = draw_network(shape)
        self.recurrent, self.input = nn.Parameter(recurrent), nn.Parameter(input)
        self.readout = nn.Parameter(readout) if shape.readout else None
        self.last = shape.outputs == "last"

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of all steps or of the last, [B, T O] or [B, O], of inputs [B, T, N_in]."""
        rates = h = x.new_zeros(len(x), len(self.recurrent))
        found = []
        for drive in F.linear(x, self.input).unbind(1):
            h = RHO * h + (1 - RHO) * (F.linear(rates, self.recurrent) + drive)
            rates = h.relu()
            found.append(rates)
        read = torch.stack(found[-1:] if self.last else found, 1)
        return (read if self.readout is None else F.linear(read, self.readout)).flatten(1)


def module_ntk_call(shape: NetworkShape) -> KernelCall:
    """The kernel of the same network, which `ntk` knows as a loop of torch's operations."""
    from hpr_kernels import ntk

    module, x = LeakyNetwork(shape), draw_network(shape).x.movedim(1, 0)
    return lambda: ntk(module, x)


def training_call(
    R: int = 40,
    N: int = 300,
    task: str = "2AF",
    B: int = 32,
    dt: float = 100.0,
    device: torch.device = CPU,
) -> tuple[Call, float]:
    """One iteration of a pack on trials drawn beforehand, and the FLOPs that it needs; dt in ms sets T."""
    from hpr.experiment.cost import cost
    from hpr.tasks import make_task
    from hpr.training.initial import initial_pack
    from hpr.training.loop import new_trainer
    from hpr.training.trials import trials

    made = make_task(task, dt=dt)
    specs = pack_of_runs(made, R, N, B, dt)
    step = new_trainer(initial_pack(specs, made, device), specs[0], made)
    x, targets = next(trials(specs, made, 0, 1, device))

    def iterate() -> None:
        with torch.no_grad():
            step(x, targets)

    return iterate, cost(specs, made).training_flops


def window_call(
    R: int = 40, N: int = 300, task: str = "2AF", B: int = 32, count: int = 10
) -> tuple[Call, float]:
    """`count` iterations of a pack in one call, as a run trains, on trials drawn beforehand; and their FLOPs.

    The task "pictures" has the sizes of sMNIST and random numbers for pictures.
    """
    from hpr.experiment.cost import cost
    from hpr.tasks import make_task
    from hpr.training.initial import initial_pack
    from hpr.training.loop import new_trainer

    made: Any = Kept(random_pictures() if task == "pictures" else make_task(task))
    specs = pack_of_runs(made, R, N, B)
    trainer = new_trainer(initial_pack(specs, made, CPU), specs[0], made)

    def iterate() -> None:
        with torch.no_grad():
            trainer.window(specs, 0, count)

    return iterate, count * cost(specs, made).training_flops


def trial_calls(name: str) -> tuple[Call, Call]:
    """Draw batches of 32: DRAWS * BATCHES compiled, and BATCHES by `neurogym.Dataset` from the same environment.

    Both calls take a good part of a second. A shorter call would often run uninterrupted on a busy machine and
    seem too fast.
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

    # Dataset makes 50 to 100 batches at once and then hands them out; a call covers several such rounds.
    def stream() -> None:
        for _ in range(BATCHES):
            dataset()

    def draw() -> None:
        for first in range(0, DRAWS * BATCHES, BATCHES):
            task.draw(0, first, BATCHES, 32)

    return draw, stream
