"""One SGD iteration of a pack of networks by every way that torch offers, in turns in one process.

    python -m benchmarks.peers.training [--networks 40] [--hidden 300] [--task 2AF] [--batch 32] [--device cpu]

Ways: this project; `torch.func` over stacked models (`stack_module_state`, and the gradient under `vmap`); one network
at a time by a loop over its steps and autograd, as the authors do; one `torch.nn.RNN` at a time, which is the same
network where rho = 0. The last two train a few of the networks, and their time is scaled to all. Before anything is
timed all train three iterations from the same weights on the same trials, and the table says by how much the losses
differ. The first rows are the rate of one large fp32 product, the machine's peak, and of the pack's batched product
alone; FLOPs are those that an iteration needs (the first step has no recurrent product, since h_0 = 0).
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.suites.measure import in_turns
from hpr.connectivity import Dense
from hpr.model import Pack, initial_pack
from hpr.runs import VARIANTS, RunSpec, cost
from hpr.step import trials
from hpr.tasks import Task, make_task
from hpr.training import new_step

CHECKED = 3
ROUNDS = 9
# Networks that are trained one at a time.
FEW = 4
PEAK = 2048

# Trains on one batch, x [R, T, B, N_in] and targets [R, T, B], and returns the losses before it, [R] or of a few.
Iterate = Callable[[Tensor, Tensor], Tensor]


class Network(nn.Module):
    """The leaky network of Eq. 1 and 2, as torch's users write it."""

    def __init__(self, rho: float, recurrent: Tensor, input: Tensor, readout: Tensor) -> None:
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
    """`torch.nn.RNN` and a readout: the same network at rho = 0."""

    def __init__(self, recurrent: Tensor, input: Tensor, readout: Tensor) -> None:
        super().__init__()
        self.rnn = nn.RNN(input.shape[1], len(input), nonlinearity="relu", bias=False)
        self.readout = nn.Parameter(readout)
        self.rnn.load_state_dict({"weight_ih_l0": input, "weight_hh_l0": recurrent})

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [T, B, N_out] of inputs [T, B, N_in]."""
        return self.rnn(x)[0] @ self.readout.mT


def weights(pack: Pack, r: int) -> list[Tensor]:
    """Copies of one network's recurrent, input and readout weights."""
    return [value[r].clone() for value in (pack.recurrent, pack.input, pack.readout)]


def ours(pack: Pack, spec: RunSpec, task: Task) -> Iterate:
    """This project."""
    step = new_step(pack, spec, task)

    def iterate(x: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            return step(x, targets)[0]

    return iterate


def stacked(pack: Pack, spec: RunSpec, task: Task) -> Iterate:
    """torch.func over stacked models, and SGD with momentum on the stacks."""
    networks = [Network(spec.rho, *weights(pack, r)) for r in range(len(pack.weights))]
    stacks, _ = torch.func.stack_module_state(networks)
    parameters = {name: value.detach() for name, value in stacks.items()}
    velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
    skeleton = copy.deepcopy(networks[0]).to("meta")

    def loss(of: dict[str, Tensor], x: Tensor, targets: Tensor) -> Tensor:
        y = torch.func.functional_call(skeleton, of, (x,))
        return cross_entropy(y.flatten(0, 1), targets.flatten())

    gradient = torch.func.vmap(torch.func.grad_and_value(loss))

    def iterate(x: Tensor, targets: Tensor) -> Tensor:
        gradients, losses = gradient(parameters, x, targets)
        with torch.no_grad():
            for name, value in parameters.items():
                velocity[name].mul_(spec.momentum).add_(gradients[name])
                value.sub_(velocity[name], alpha=spec.learning_rate)
        return losses

    return iterate


def one_at_a_time(networks: Sequence[nn.Module], spec: RunSpec) -> Iterate:
    """Autograd and torch.optim.SGD, network by network."""
    optimisers = [
        torch.optim.SGD(network.parameters(), lr=spec.learning_rate, momentum=spec.momentum)
        for network in networks
    ]

    def iterate(x: Tensor, targets: Tensor) -> Tensor:
        losses = []
        for r, (network, optimiser) in enumerate(zip(networks, optimisers, strict=True)):
            optimiser.zero_grad()
            loss = cross_entropy(network(x[r]).flatten(0, 1), targets[r].flatten())
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return iterate


def main() -> None:
    """Parse, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=300)
    parser.add_argument("--task", default="2AF")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    R, N, B = arguments.networks, arguments.hidden, arguments.batch
    task = make_task(arguments.task)
    if task.loss != "cross_entropy" or task.loss_steps != "all":
        parser.error(f"--task: expected one whose loss counts every step, got {arguments.task}")
    of: dict[str, Any] = {"N": N, "batch": B, "iterations": CHECKED}
    # The paper's leak, and the variant without one, in which the network is torch.nn.RNN's.
    leaky, elman = (
        [
            RunSpec(task.name, Dense(), seed=r, variant=name, **of, **VARIANTS[name])
            for r in range(R)
        ]
        for name in ("paper", "released")
    )
    few = min(FEW, R)
    start = initial_pack(leaky, task, device)
    start_elman = initial_pack(elman, task, device)
    networks = [Network(leaky[0].rho, *weights(start, r)) for r in range(few)]
    elmans = [Elman(*weights(start_elman, r)) for r in range(few)]
    copied = start.select(range(R))
    ways: dict[str, tuple[Iterate, int]] = {
        "this project": (ours(copied, leaky[0], task), R),
        "torch.func, stacked models": (stacked(start, leaky[0], task), R),
        "one network at a time, a loop over steps": (one_at_a_time(networks, leaky[0]), few),
        "one torch.nn.RNN at a time, rho = 0": (one_at_a_time(elmans, elman[0]), few),
    }
    batches = list(trials(leaky, task, 0, CHECKED, device))
    exact = {way: ours(start.select(range(R)), leaky[0], task) for way in ways}
    exact["one torch.nn.RNN at a time, rho = 0"] = ours(start_elman, elman[0], task)
    differences = {}
    for way, (iterate, trained) in ways.items():
        pairs = [(exact[way](*batch)[:trained], iterate(*batch)) for batch in batches]
        differences[way] = max(float(((a - b) / a).abs().max()) for a, b in pairs)

    x, targets = batches[0]
    A, A2 = (torch.randn(PEAK, PEAK, device=device) for _ in range(2))
    rates, W = torch.randn(R, B, N, device=device), torch.randn(R, N, N, device=device)
    product = torch.empty_like(rates)
    floors = {
        f"one product of {PEAK} x {PEAK}": (lambda: A @ A2, 2.0 * PEAK**3),
        f"{R} products of {B} x {N} by {N} x {N}": (
            lambda: [torch.bmm(rates, W, out=product) for _ in range(20)],
            40.0 * R * B * N * N,
        ),
    }
    calls = [call for call, _ in floors.values()]
    calls += [lambda iterate=iterate: iterate(x, targets) for iterate, _ in ways.values()]  # type: ignore[misc]
    medians = [statistics.median(times) for times in in_turns(calls, ROUNDS, device)]
    peak = 2.0 * PEAK**3 / medians[0]
    print(f"| {R} networks, N = {N}, {task.name}, batch {B} | ms an iteration | times this project | GFLOP/s "
          "| share of the first | losses differ by |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for (name, (_, flops)), time in zip(floors.items(), medians, strict=False):
        print(f"| {name} | | | {flops / time / 1e9:.0f} | {flops / time / peak:.0%} | |")
    flops = cost(leaky, task).training_flops / CHECKED
    mine = medians[len(floors)]
    for (name, (_, trained)), time in zip(ways.items(), medians[len(floors) :], strict=True):
        whole = time * R / trained
        print(
            f"| {name} | {whole * 1e3:.1f} | {whole / mine:.1f} | {flops / whole / 1e9:.0f} "
            f"| {flops / whole / peak:.0%} | {differences[name]:.0e} |"
        )


if __name__ == "__main__":
    main()
