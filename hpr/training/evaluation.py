"""Evaluate one network: all measures of laziness between its state before and after training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hpr.connectivity import effective_rank
from hpr.experiment.specification import RunSpec
from hpr.laziness import (
    alignment,
    centred_kernel_alignment,
    kernel_effective_rank,
    representation_alignment,
    sign_similarity,
    task_kernel_alignment,
    weight_change_norm,
)
from hpr.system.devices import one_thread
from hpr.tasks import Task
from hpr.training.own_measures import OWN_MEASURES, State
from hpr.training.pack import Pack, rates, tangent_kernel
from hpr_kernels.internal import NonFinite

# The measures of one kernel, whose course a trajectory holds.
OF_KERNEL = (
    "kernel_alignment",
    "kernel_effective_rank",
    "task_kernel_alignment",
    "centred_kernel_alignment",
)


class Diverged(ArithmeticError):
    """A network diverged.

    Its weights, rates or kernel hold a NaN or an infinity, or nothing of its initial weights is left: all weights
    together changed by over 1/eps times their initial norm, in fp32 8 million times.
    """


class Evaluation:
    """Compare one network with itself before training, on fixed evaluation trials.

    Args:
        spec: the run.
        task: its task.
        before: its initial weights, a pack of one network.
        x: inputs of the evaluation trials [T, m, N_in]. The kernel takes the first `spec.kernel_trials` of them, and
            its rows are the outputs that the loss counts.
        targets: classes [T, m], or outputs [T, m, N_out].
    """

    def __init__(self, spec: RunSpec, task: Task, before: Pack, x: Tensor, targets: Tensor) -> None:
        self.spec, self.task, self.before, self.x = spec, task, before, x
        labels = targets[-1:] if task.loss_steps == "last" else targets
        labels = labels[:, : spec.kernel_trials]
        if task.loss == "cross_entropy":
            labels = torch.nn.functional.one_hot(labels, before.readout.shape[1])
        self.y = labels.transpose(0, 1).flatten()  # rows (b, t, k)
        self.K_0 = self._kernel(before)
        # The values of `trajectory_point` before training.
        self.initial = self._of_kernel(self.K_0)

    def trajectory_point(self, after: Pack) -> dict[str, float]:
        """The measures of the kernel in the course of training (Figures 14 and 15). It may raise `Diverged`."""
        return self._of_kernel(self._kernel(after))

    def measures(self, after: Pack) -> tuple[dict[str, float], list[str]]:
        """All measures between before and after training, and a flag for each that is not a finite number.

        Raises:
            Diverged: the network diverged.
        """
        before = self.before
        H_0, H_f = (self._representation(pack) for pack in (before, after))
        with one_thread():
            measures = self._of_weights_and_rates(after, H_0, H_f)
        change = measures["weight_change_norm_all"]
        K_f = self._kernel(after)
        _comparable(before, change)
        final = self._of_kernel(K_f)
        measures["kernel_alignment"] = final.pop("kernel_alignment")
        for name, value in final.items():
            measures[f"{name}_initial"], measures[f"{name}_final"] = self.initial[name], value
        states = [
            State(pack.hidden[0], pack.readout[0], H, K)
            for pack, H, K in ((before, H_0, self.K_0), (after, H_f, K_f))
        ]
        for name, own in OWN_MEASURES.items():
            measures[name] = float(own(*states))
        return measures, not_finite(measures)

    def _of_weights_and_rates(self, after: Pack, H_0: Tensor, H_f: Tensor) -> dict[str, float]:
        before = self.before
        start = before.drawn[0].double().cpu().numpy()
        squares = 0.0
        for name, old in before.tensors.items():
            squares += weight_change_norm(old, after.tensors[name]) ** 2
        measures = {
            "weight_change_norm": weight_change_norm(before.hidden, after.hidden),
            "weight_change_norm_all": squares**0.5,
            "representation_alignment": representation_alignment(H_0, H_f),
            "sign_similarity": sign_similarity(H_0, H_f),
            "connectivity_effective_rank_singular": effective_rank(
                # The effective rank is relative to the smaller dimension.
                start if start.shape[0] <= start.shape[1] else start.T,
                singular=True,
            ),
        }
        if start.shape[0] == start.shape[1]:
            measures["connectivity_effective_rank"] = effective_rank(start)
        return measures

    @one_thread()
    def _of_kernel(self, K: Tensor) -> dict[str, float]:
        values = (
            alignment(self.K_0, K),
            kernel_effective_rank(K),
            task_kernel_alignment(K, self.y),
            centred_kernel_alignment(K, self.y),
        )
        return dict(zip(OF_KERNEL, values, strict=True))

    def _kernel(self, pack: Pack) -> Tensor:
        few = self.x[:, : self.spec.kernel_trials]
        _finite("weights", *pack.tensors.values())
        _finite("rates", rates(pack, few[None], self.spec))
        try:
            K = tangent_kernel(pack, few, self.spec, self.task.loss_steps)
        except NonFinite as error:
            # Weights and rates were checked above, so the adjoints overflowed.
            raise Diverged("adjoints not finite") from error
        _finite("kernel", K)
        return K

    def _representation(self, pack: Pack) -> Tensor:
        """Rates [m, N] of the last step in m trials; of frozen trials, in the T steps of one."""
        H = rates(pack, self.x[None], self.spec)[0]
        _finite("rates", H)
        return H[:, 0] if self.task.frozen else H[-1]


def not_finite(measures: Mapping[str, float]) -> list[str]:
    """A flag for each measure that is not a finite number."""
    return [
        f"{name} is {'infinite' if math.isinf(value) else 'not a number'}"
        for name, value in measures.items()
        if not math.isfinite(value)
    ]


def _finite(name: str, *tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise Diverged(f"{name} not finite")


def _comparable(before: Pack, change: float) -> None:
    """Raise Diverged if nothing of the initial weights is left beside a change of this norm."""
    initial = math.hypot(*(float(tensor.double().norm()) for tensor in before.tensors.values()))
    if change * torch.finfo(before.weights.dtype).eps > initial > 0:
        raise Diverged(f"weights changed by {change / initial:.2g} times their initial norm")


def evaluation(spec: RunSpec, task: Task, before: Pack) -> Evaluation:
    """The measures of a run that starts as `before`, on its evaluation trials."""
    drawn = task.draw(spec.seed, 0, 1, spec.trials, split="evaluation")
    device = before.weights.device
    x, targets = (torch.from_numpy(a[0]).to(device) for a in (drawn.inputs, drawn.targets))
    return Evaluation(spec, task, before, x, targets)
