"""One SGD iteration of a pack of networks by the methods that torch and jax offer.

- this project;
- `torch.func` over stacked models: `stack_module_state`, and the gradient under `vmap`;
- a loop over steps with `torch.bmm` for all networks at once and autograd, as it is and by `torch.compile`;
- one network at a time by a loop over its steps and autograd, as the authors do;
- one `torch.nn.RNN` at a time, which is the same network where rho = 0;
- jax: `vmap` of the gradient, and the whole step compiled (`training_jax.py`).
"""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.peers.ntk_environments import ROOT, python_of_jax
from hpr.experiment.specification import VARIANTS, RunSpec
from hpr.tasks import Task
from hpr.training.initial import initial_pack
from hpr.training.loop import new_trainer
from hpr.training.pack import Pack

# Networks that are trained one at a time.
FEW = 4


class Iterate(Protocol):
    """Trains on one batch; returns the losses before the step, of all networks of the pack or of the first few."""

    def __call__(self, x: Tensor, targets: Tensor) -> Tensor:
        """Inputs [R, T, B, N_in] and classes [R, T, B]."""
        ...


class TrainingMethod(NamedTuple):
    """A method that trains `networks` of the pack; `reference` is this project on the same weights."""

    name: str
    networks: int
    iterate: Iterate
    reference: Iterate


class LoopedNetwork(nn.Module):
    """The network of Eq. 1 and 2 as a loop over steps in torch."""

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


class ElmanNetwork(nn.Module):
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


def copied_weights(pack: Pack, r: int) -> tuple[Tensor, Tensor, Tensor]:
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
    networks = [LoopedNetwork(*copied_weights(pack, r), spec.rho) for r in range(len(pack.weights))]
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


def batched(pack: Pack, spec: RunSpec, *, compiled: bool) -> Iterate:
    """`torch.bmm` over all networks, autograd, and SGD with momentum; by `torch.compile` where asked."""
    weights = [nn.Parameter(value.clone()) for value in (pack.recurrent, pack.input, pack.readout)]
    optimizer = torch.optim.SGD(weights, lr=spec.learning_rate, momentum=spec.momentum)

    def losses_of(
        recurrent: Tensor, input: Tensor, readout: Tensor, x: Tensor, targets: Tensor
    ) -> Tensor:
        R, T, B, _ = x.shape
        h = x.new_zeros(R, B, recurrent.shape[1])
        outputs = []
        for t in range(T):
            drive = torch.bmm(h.relu(), recurrent.mT) + torch.bmm(x[:, t], input.mT)
            h = spec.rho * h + (1 - spec.rho) * drive
            outputs.append(torch.bmm(h.relu(), readout.mT))
        y = torch.stack(outputs, 1)
        each = cross_entropy(y.flatten(0, 2), targets.flatten(), reduction="none")
        return each.view(R, -1).mean(1)

    function: Callable[..., Tensor] = torch.compile(losses_of) if compiled else losses_of

    def iterate(x: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        losses = function(*weights, x, targets)
        losses.sum().backward()
        optimizer.step()
        return losses.detach()

    return iterate


def one_at_a_time(networks: Sequence[nn.Module], spec: RunSpec) -> Iterate:
    """Autograd and `torch.optim.SGD`, network by network."""
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


def training_methods(
    specs: list[RunSpec], task: Task, device: torch.device, *, compiled: bool = True
) -> list[TrainingMethod]:
    """All methods of torch from the same weights.

    `torch.nn.RNN` trains by the specification of the released script, rho = 0.
    """
    few = min(FEW, len(specs))
    leaky = specs[0]
    pack = initial_pack(specs, task, device)
    elman = replace(leaky, variant="released", **VARIANTS["released"])
    if elman.rho:
        raise ValueError(f"rho: expected 0 in {elman}, got {elman.rho}")
    loops = [LoopedNetwork(*copied_weights(pack, r), leaky.rho) for r in range(few)]
    rnns = [ElmanNetwork(*copied_weights(pack, r)) for r in range(few)]
    some = f"one at a time ({few} timed, scaled)"

    def ours(spec: RunSpec = leaky) -> Iterate:
        return this_project(pack, spec, task)

    return [
        TrainingMethod("this project", len(specs), ours(), ours()),
        TrainingMethod(
            "`torch.func` over stacked models", len(specs), stacked(pack, leaky), ours()
        ),
        TrainingMethod(
            "`torch.bmm` and autograd", len(specs), batched(pack, leaky, compiled=False), ours()
        ),
        *(
            TrainingMethod(
                "the same by `torch.compile`",
                len(specs),
                batched(pack, leaky, compiled=True),
                ours(),
            )
            for _ in range(compiled)
        ),
        TrainingMethod(f"the authors' loop, {some}", few, one_at_a_time(loops, leaky), ours()),
        TrainingMethod(
            f"`torch.nn.RNN`, rho = 0, {some}", few, one_at_a_time(rnns, elman), ours(elman)
        ),
    ]


class ByJax(NamedTuple):
    """What `training_jax.py` found: the seconds of a step, and its losses as `difference` compares them."""

    seconds: float
    differs: float


def by_jax(
    specs: list[RunSpec], task: Task, batches: Sequence[tuple[Tensor, Tensor]], rounds: int
) -> ByJax:
    """The step of jax, timed alone in a process with as many threads as torch has here.

    Raises:
        RuntimeError: the process failed, with its last line.
    """
    pack = initial_pack(specs, task, torch.device("cpu"))
    spec = specs[0]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "given.npz")
        np.savez(
            path,
            recurrent=pack.recurrent.numpy(),
            input=pack.input.numpy(),
            readout=pack.readout.numpy(),
            x=torch.stack([x for x, _ in batches]).numpy(),
            targets=torch.stack([targets for _, targets in batches]).numpy(),
            settings=np.array([spec.rho, spec.learning_rate, spec.momentum]),
        )
        numbers = map(str, (rounds, torch.get_num_threads()))
        child = subprocess.run(
            [python_of_jax(), "-m", "benchmarks.peers.training_jax", path, *numbers],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
    if child.returncode:
        raise RuntimeError((child.stderr.strip().splitlines() or ["no output"])[-1])
    found = json.loads(child.stdout.splitlines()[-1])
    ours = this_project(pack, spec, task)
    largest = 0.0
    for (x, targets), losses in zip(batches, found["losses"], strict=True):
        exact = ours(x, targets)
        largest = max(largest, float((torch.tensor(losses) / exact - 1).abs().max()))
    return ByJax(found["seconds"], largest)


def difference(method: TrainingMethod, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The largest relative difference of a method's losses from this project's, over networks and batches."""
    largest = 0.0
    for x, targets in batches:
        exact = method.reference(x, targets)[: method.networks]
        largest = max(largest, float((method.iterate(x, targets) / exact - 1).abs().max()))
    return largest
