"""The lazy distance: how far training takes a network from its linearisation, trained alike (Chizat et al. 2019).

Chizat et al. call training lazy if the network behaves like its linearisation at the initial weights (their Section 1);
their Theorem 2.2 bounds the distance of the two outputs. With the outputs f_0, f and f_lin of the initial, the trained
and the linearised network, both trained by the same SGD iterations on the same trials, the lazy distance is

    ‖f - f_lin‖ / ‖f - f_0‖

over the evaluation trials, at the steps that the loss counts. The division by the change of the outputs is this
project's choice: zero means that training is exactly linear, and one that f_lin is no nearer to f than f_0 is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.linearised_step import LinearisedStep, rate_changes
from hpr.training.pack import Pack, lanes, rates
from hpr_kernels.internal import layout, recurrence


def lazy_distances(
    specs: Sequence[RunSpec],
    task: Task,
    initial: Pack,
    trained: Sequence[Pack],
    iterations: Sequence[int],
) -> list[float]:
    """The lazy distance of each of R trained networks; not finite where training changed no output.

    Args:
        specs: the runs, of one shape.
        task: their task.
        initial: their initial weights, a pack of R networks.
        trained: their trained weights, packs of one network.
        iterations: after how many iterations.
    """
    changes = linearised_changes(specs, task, initial, iterations)
    return [
        _distance(spec, task, initial.select([r]), trained[r], changes[r])
        for r, spec in enumerate(specs)
    ]


def linearised_changes(
    specs: Sequence[RunSpec], task: Task, initial: Pack, iterations: Sequence[int]
) -> list[Pack]:
    """θ - θ_0 of the linearised networks after their numbers of iterations, packs of one network."""
    changes: dict[int, Pack] = {}
    active = list(range(len(specs)))
    trainer = LinearisedStep(initial.select(lanes(active)), specs[0], task)
    for start, stop in pairwise([0, *sorted(set(iterations))]):
        trainer.window([specs[r] for r in lanes(active)], start, stop - start)
        going = []
        for position, r in enumerate(active):
            if iterations[r] == stop:
                changes[r] = trainer.pack.select([position])
            else:
                going.append(position)
        if going:
            active = [active[position] for position in going]
            trainer = trainer.select(lanes(going))
    return [changes[r] for r in range(len(specs))]


def _distance(spec: RunSpec, task: Task, initial: Pack, trained: Pack, change: Pack) -> float:
    """‖f - f_lin‖ / ‖f - f_0‖ in fp64, because both may be small beside f."""
    drawn = task.draw(spec.seed, 0, 1, spec.trials, split="evaluation")
    x = torch.from_numpy(drawn.inputs).to(initial.weights.device).double()
    before, after, moved = (_double(pack) for pack in (initial, trained, change))
    a = rates(before, x, spec)
    a_change = rate_changes(before, moved, x, a, _trace(before, x, spec), spec)
    linear = a_change @ before.readout.mT[:, None] + a @ moved.readout.mT[:, None]
    learnt = _outputs(after, x, spec) - _outputs(before, x, spec)
    first = task.T - 1 if task.loss_steps == "last" else 0
    return float((learnt - linear)[:, first:].norm() / learnt[:, first:].norm())


def _outputs(pack: Pack, x: Tensor, spec: RunSpec) -> Tensor:
    return rates(pack, x, spec) @ pack.readout.mT[:, None]


def _trace(pack: Pack, x: Tensor, spec: RunSpec) -> Tensor | None:
    """Inputs x [1, T, m, N_in] and rates side by side; None for two layers."""
    if spec.model == "two_layer":
        return None
    N = pack.weights.shape[1]
    trace = layout.empty_trace(1, x.shape[1], x.shape[2], N, pack.N_in, like=pack.weights)
    trace[:, :-1, :, N : N + pack.N_in] = x
    recurrence.forward(trace, pack.weights, spec.rho, spec.activation)
    return trace


def _double(pack: Pack) -> Pack:
    return Pack(pack.weights.double(), pack.readout.double(), pack.N_in, pack.signs.double())
