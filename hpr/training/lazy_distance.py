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

import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.cohort import Cohort, Learner, new_learner
from hpr.training.linearised_step import LinearisedStep, rate_changes
from hpr.training.pack import Pack, lanes, rates
from hpr.training.watch import Watch
from hpr_kernels.internal import layout, recurrence


def linearised_learner(spec: RunSpec, initial: Pack, iterations: int) -> Learner:
    """A linearised network before its first of so many iterations; `initial` holds this one network.

    What it learns, `pack`, is the change θ - θ_0.
    """
    nothing = Pack(
        torch.zeros_like(initial.weights),
        torch.zeros_like(initial.readout),
        initial.N_in,
        initial.signs,
    )
    return new_learner(spec, iterations, initial, nothing)


def linearised_cohort(learners: Sequence[Learner], task: Task, watch: Watch) -> Cohort:
    """The training of linearised networks, whose numbers of iterations may differ."""
    return Cohort(learners, lambda pack: LinearisedStep(pack, learners[0].spec, task), lanes, watch)


def lazy_distance(spec: RunSpec, task: Task, initial: Pack, trained: Pack, change: Pack) -> float:
    """‖f - f_lin‖ / ‖f - f_0‖ in fp64, because both may be small beside f. It is not finite where f = f_0.

    Args:
        spec: the run.
        task: its task.
        initial: its initial weights, a pack of one network.
        trained: its trained weights.
        change: θ - θ_0 of the linearised network.
    """
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
