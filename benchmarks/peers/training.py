"""One SGD iteration of a pack of networks by every way that torch offers, in turns in one process.

    python -m benchmarks.peers.training [--networks 40] [--hidden 300] [--task 2AF] [--batch 32] [--device cpu]

Ways: this project; `torch.func` over stacked models (`stack_module_state`, and the gradient under `vmap`); one network
at a time by a loop over its steps and autograd, as the authors do; one `torch.nn.RNN` at a time, which is the same
network where rho = 0. Before anything is timed all train three iterations from the same weights on the same trials;
the last column is by how much, at most, a loss differs from this project's. The ways that take one network at a time
train a few of them, and their time is scaled to all. The first rows are the rate of one large fp32 product, the
machine's peak, and of the pack's batched product alone; FLOPs are those that an iteration needs (the first step has no
recurrent product, since h_0 = 0). Trials are drawn beforehand.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.markdown import heading, row
from benchmarks.suites.measure import Call, in_turns
from hpr.command_line import Parser, positive
from hpr.connectivity import Dense
from hpr.experiment.cost import cost
from hpr.experiment.specification import VARIANTS, RunSpec
from hpr.tasks import Task, make_task
from hpr.training.initial import initial_pack
from hpr.training.loop import new_trainer
from hpr.training.pack import Pack
from hpr.training.trials import trials

CHECKED = 3
ROUNDS = 15
# Networks that are trained one at a time.
FEW = 4
PEAK = 2048
PRODUCTS = 20


class Iterate(Protocol):
    """Trains on one batch; returns the losses before it, of the first networks of the pack or of all."""

    def __call__(self, x: Tensor, targets: Tensor) -> Tensor:
        """Inputs [R, T, B, N_in] and classes [R, T, B]."""
        ...


class Way(NamedTuple):
    """A way to train `networks` of the pack; `reference` is this project on the same weights."""

    name: str
    networks: int
    iterate: Iterate
    reference: Iterate


class LeakyRNN(nn.Module):
    """The network of Eq. 1 and 2, as one writes it in torch."""

    def __init__(self, recurrent: Tensor, input: Tensor, readout: Tensor, rho: float) -> None:
        super().__init__()
        self.recurrent, self.input, self.readout = map(nn.Parameter, (recurrent, input, readout))
        self.rho = rho

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [T, B, N_out] of inputs [T, B, N_in]."""
        h = x.new_zeros(x.shape[1], len(self.recurrent))
        outputs = []
        for x_t in x:
            drive = h.relu() @ self.recurrent.mT + x_t @ self.input.mT
            h = self.rho * h + (1 - self.rho) * drive
            outputs.append(h.relu() @ self.readout.mT)
        return torch.stack(outputs)


class Elman(nn.Module):
    """`torch.nn.RNN` and a readout: the same network at rho = 0, whose state is the rate."""

    def __init__(self, recurrent: Tensor, input: Tensor, readout: Tensor) -> None:
        super().__init__()
        N, N_in = input.shape
        self.rnn = nn.RNN(N_in, N, nonlinearity="relu", bias=False, device=input.device)
        self.readout = nn.Parameter(readout)
        self.rnn.load_state_dict({"weight_ih_l0": input, "weight_hh_l0": recurrent})

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [T, B, N_out] of inputs [T, B, N_in]."""
        return self.rnn(x)[0] @ self.readout.mT


def weights(pack: Pack, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Copies of one network's recurrent, input and readout weights."""
    return pack.recurrent[r].clone(), pack.input[r].clone(), pack.readout[r].clone()


def loss(y: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of outputs [T, B, N_out] for classes [T, B]."""
    return cross_entropy(y.flatten(0, 1), targets.flatten())


def this_project(pack: Pack, spec: RunSpec, task: Task) -> Iterate:
    """The step that `hpr.training.loop` takes, on a copy of the pack."""
    step = new_trainer(pack.select(range(len(pack.weights))), spec, task)

    @torch.no_grad()
    def iterate(x: Tensor, targets: Tensor) -> Tensor:
        return step(x, targets)[0]

    return iterate


def stacked(pack: Pack, spec: RunSpec) -> Iterate:
    """torch.func over stacked models, and SGD with momentum on the stacks."""
    networks = [LeakyRNN(*weights(pack, r), spec.rho) for r in range(len(pack.weights))]
    stacks, _ = torch.func.stack_module_state(networks)
    parameters = {name: value.detach() for name, value in stacks.items()}
    skeleton = copy.deepcopy(networks[0]).to("meta")

    def loss_of(parameters: dict[str, Tensor], x: Tensor, targets: Tensor) -> Tensor:
        return loss(torch.func.functional_call(skeleton, parameters, (x,)), targets)

    gradients = torch.func.vmap(torch.func.grad_and_value(loss_of))
    optimizer = torch.optim.SGD(parameters.values(), lr=spec.learning_rate, momentum=spec.momentum)

    def iterate(x: Tensor, targets: Tensor) -> Tensor:
        found, losses = gradients(parameters, x, targets)
        for name, parameter in parameters.items():
            parameter.grad = found[name]
        optimizer.step()
        return losses

    return iterate


def one_at_a_time(networks: Sequence[nn.Module], spec: RunSpec) -> Iterate:
    """Autograd and torch.optim.SGD, network by network."""
    optimizers = [
        torch.optim.SGD(network.parameters(), lr=spec.learning_rate, momentum=spec.momentum)
        for network in networks
    ]

    def iterate(x: Tensor, targets: Tensor) -> Tensor:
        losses = []
        for r, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            optimizer.zero_grad()
            value = loss(network(x[r]), targets[r])
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        return torch.stack(losses)

    return iterate


def ways(specs: list[RunSpec], task: Task, device: torch.device) -> list[Way]:
    """All of them, from the same weights; for torch.nn.RNN the specifications without a leak."""
    few = min(FEW, len(specs))
    leaky = specs[0]
    pack = initial_pack(specs, task, device)
    elman = replace(leaky, variant="released", **VARIANTS["released"])
    if elman.rho:
        raise ValueError(f"rho: expected 0 in {elman}, got {elman.rho}")
    loops = [LeakyRNN(*weights(pack, r), leaky.rho) for r in range(few)]
    rnns = [Elman(*weights(pack, r)) for r in range(few)]
    some = f"one at a time ({few} timed, scaled)"

    def ours(spec: RunSpec = leaky) -> Iterate:
        return this_project(pack, spec, task)

    return [
        Way("this project", len(specs), ours(), ours()),
        Way("`torch.func` over stacked models", len(specs), stacked(pack, leaky), ours()),
        Way(f"the authors' loop, {some}", few, one_at_a_time(loops, leaky), ours()),
        Way(f"`torch.nn.RNN`, rho = 0, {some}", few, one_at_a_time(rnns, elman), ours(elman)),
    ]


def difference(way: Way, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The largest relative difference between a way's losses and this project's, over networks and batches."""
    largest = 0.0
    for x, targets in batches:
        exact = way.reference(x, targets)[: way.networks]
        largest = max(largest, float((way.iterate(x, targets) / exact - 1).abs().max()))
    return largest


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print a Markdown table."""
    parser = Parser(prog="training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", type=positive, default=40)
    parser.add_argument("--hidden", type=positive, default=300)
    parser.add_argument("--task", default="2AF")
    parser.add_argument("--batch", type=positive, default=32)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args(argv)
    R, N, B = arguments.networks, arguments.hidden, arguments.batch
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected cpu, as there is no CUDA device, got cuda")
    try:
        task = make_task(arguments.task)
    except ValueError as error:
        parser.error(f"--task: {error}")
    if task.loss != "cross_entropy" or task.loss_steps != "all":
        parser.error(f"--task: expected one with a class at every step, got {arguments.task}")
    # cuDNN's RNN would round to TF32 otherwise.
    torch.backends.cudnn.allow_tf32 = False
    specs = [RunSpec(task.name, Dense(), seed=r, N=N, batch=B, iterations=1) for r in range(R)]
    every = ways(specs, task, device)
    batches = list(trials(specs, task, 0, CHECKED, device))
    differences = [difference(way, batches) for way in every]

    A, A2 = torch.randn(2, PEAK, PEAK, device=device)
    rates, W = torch.randn(R, B, N, device=device), torch.randn(R, N, N, device=device)
    product = torch.empty_like(rates)

    def batched() -> None:
        for _ in range(PRODUCTS):
            torch.bmm(rates, W, out=product)

    def call(way: Way) -> Call:
        return lambda: way.iterate(*batches[0])

    floors = {
        f"one product of {PEAK} x {PEAK}": 2.0 * PEAK**3,
        f"{R} products of {B} x {N} by {N} x {N}": 2.0 * PRODUCTS * R * B * N * N,
    }
    calls = [lambda: A @ A2, batched, *map(call, every)]
    times = [statistics.median(turns) for turns in in_turns(calls, ROUNDS, device)]
    peak = 2.0 * PEAK**3 / times[0]

    def rate(flops: float, seconds: float) -> tuple[str, str]:
        return f"{flops / seconds / 1e9:.0f}", f"{flops / seconds / peak:.0%}"

    title = f"{R} networks, N = {N}, {task.name}, batch {B}"
    columns = ("ms an iteration", "times this project", "GFLOP/s", "share of the first")
    print(heading(title, *columns, "losses differ by"))
    for (name, flops), seconds in zip(floors.items(), times, strict=False):
        print(row(name, "", "", *rate(flops, seconds), ""))
    scaled = [
        seconds * R / way.networks for way, seconds in zip(every, times[len(floors) :], strict=True)
    ]
    flops = cost(specs, task).training_flops
    for way, seconds, differs in zip(every, scaled, differences, strict=True):
        of = f"{seconds / scaled[0]:.1f}"
        print(row(way.name, f"{seconds * 1e3:.1f}", of, *rate(flops, seconds), f"{differs:.0e}"))


if __name__ == "__main__":
    main()
