"""Measures of effective laziness: what changed between before and after training (Section 2.2, Appendix D).

Sums accumulate in fp64. A 0/0, as where all units are dead, is NaN: callers flag it, it is never a silent number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hpr.connectivity import effective_rank
from hpr.model import Pack, rates, tangent_kernel
from hpr.runs import RunSpec
from hpr.tasks import Task
from hpr_kernels.internal import NonFinite


class Diverged(ArithmeticError):
    """A network's weights, rates or kernel hold a NaN or an infinity: it diverged."""


def weight_change_norm(before: Tensor, after: Tensor) -> float:
    """‖W^(f) - W^(0)‖_F (Eq. 4)."""
    return float((after.double() - before.double()).norm())


def alignment(A: Tensor, B: Tensor) -> float:
    """Tr(A B) / (‖A‖ ‖B‖) of two symmetric matrices [M, M] (Eq. 5, 6)."""
    product = norm_A = norm_B = torch.zeros((), dtype=torch.float64, device=A.device)
    # A block of rows at a time: the fp64 copies stay small beside the kernels.
    for a, b in zip(A.split(256), B.split(256), strict=True):
        a, b = a.double(), b.double()
        product = product + (a * b).sum()
        norm_A = norm_A + a.square().sum()
        norm_B = norm_B + b.square().sum()
    return float(product / (norm_A.sqrt() * norm_B.sqrt()))


def representation_alignment(before: Tensor, after: Tensor) -> float:
    """Alignment of R = HᵀH, the Gram matrices of last-step rates [m, N] of m trials (Eq. 5)."""
    before, after = before.double(), after.double()
    return alignment(before @ before.mT, after @ after.mT)


def sign_similarity(before: Tensor, after: Tensor) -> float:
    """Share of last-step rates [m, N] whose sign did not change; for ReLU, active or silent."""
    return float((before.sign() == after.sign()).double().mean())


def leading_eigenvalue(K: Tensor) -> float:
    """λ_1 of a symmetric matrix [M, M], by Lanczos (SciPy's `eigsh`); NaN where K is zero."""
    from scipy.sparse.linalg import eigsh

    matrix = K.double().cpu().numpy()
    if not matrix.any():
        return float("nan")
    if len(matrix) < 3:
        return float(torch.linalg.eigvalsh(K.double())[-1])
    # A fixed start makes the result a function of K alone.
    start = matrix.diagonal() + matrix.diagonal().mean()
    return float(eigsh(matrix, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


def kernel_effective_rank(K: Tensor) -> float:
    """Σ λ_i / λ_1 = Tr K / λ_1 (Figure 15)."""
    return float(K.diagonal().double().sum()) / leading_eigenvalue(K)


def task_kernel_alignment(K: Tensor, y: Tensor) -> float:
    """yᵀ K y / (|y|² Tr K) with the targets y [M] of K's rows (Figure 14 B)."""
    K, y = K.double(), y.double()
    return float((y @ (K @ y)) / (y.square().sum() * K.diagonal().sum()))


def centred_kernel_alignment(K: Tensor, y: Tensor) -> float:
    """CKA of K [M, M] with the target kernel y yᵀ, both centred (Baratin et al. 2021, Eq. 7; Figure 14 D)."""
    K = K.double()
    centred = K - K.mean(0) - K.mean(1, keepdim=True) + K.mean()
    y = y.double() - y.double().mean()
    return float((y @ (centred @ y)) / (centred.norm() * y.square().sum()))


class Evaluation:
    """The measures of one network against itself before training, on fixed evaluation trials.

    Args:
        spec: the run.
        task: its task.
        before: its initial weights, a pack of one network.
        x: inputs of the evaluation trials [T, m, N_in], of which the kernel takes the first `spec.kernel_trials`; its
            rows are the outputs that the loss counts.
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
        # The measures of the kernel before training, as of `trajectory_point`.
        self.initial = self._of_kernel(self.K_0)

    def trajectory_point(self, after: Pack) -> dict[str, float]:
        """The measures of the kernel in the course of training (Figures 14 and 15); may raise `Diverged`."""
        return self._of_kernel(self._kernel(after))

    def measures(self, after: Pack) -> tuple[dict[str, float], list[str]]:
        """All measures between before and after training, and a flag for each that is not a finite number.

        Raises:
            Diverged: the network diverged.
        """
        before = self.before
        H_0, H_f = (self._representation(pack) for pack in (before, after))
        start = before.hidden[0].double().cpu().numpy()
        change = [
            weight_change_norm(a, b)
            for a, b in ((before.weights, after.weights), (before.readout, after.readout))
        ]
        measures = {
            "weight_change_norm": weight_change_norm(before.hidden, after.hidden),
            "weight_change_norm_all": (change[0] ** 2 + change[1] ** 2) ** 0.5,
            "representation_alignment": representation_alignment(H_0, H_f),
            "sign_similarity": sign_similarity(H_0, H_f),
            "connectivity_effective_rank_singular": effective_rank(
                # Counted by the smaller of two dimensions.
                start if start.shape[0] <= start.shape[1] else start.T,
                singular=True,
            ),
        }
        if start.shape[0] == start.shape[1]:
            measures["connectivity_effective_rank"] = effective_rank(start)
        final = self.trajectory_point(after)
        measures["kernel_alignment"] = final.pop("kernel_alignment")
        for name, value in final.items():
            measures[f"{name}_initial"], measures[f"{name}_final"] = self.initial[name], value
        flags = [
            f"{name} is {'infinite' if math.isinf(value) else 'not a number'}"
            for name, value in measures.items()
            if not math.isfinite(value)
        ]
        return measures, flags

    def _of_kernel(self, K: Tensor) -> dict[str, float]:
        return {
            "kernel_alignment": alignment(self.K_0, K),
            "kernel_effective_rank": kernel_effective_rank(K),
            "task_kernel_alignment": task_kernel_alignment(K, self.y),
            "centred_kernel_alignment": centred_kernel_alignment(K, self.y),
        }

    def _kernel(self, pack: Pack) -> Tensor:
        few = self.x[:, : self.spec.kernel_trials]
        _finite("weights", pack.weights, pack.readout)
        _finite("rates", rates(pack, few[None], self.spec))
        try:
            K = tangent_kernel(pack, few, self.spec, self.task.loss_steps)
        except NonFinite as error:
            # All that goes in is finite: what isn't are the adjoints.
            raise Diverged("adjoints not finite") from error
        _finite("kernel", K)
        return K

    def _representation(self, pack: Pack) -> Tensor:
        """Rates [m, N] of the last step in m trials; of frozen trials, in the T steps of one."""
        H = rates(pack, self.x[None], self.spec)[0]
        _finite("rates", H)
        return H[:, 0] if self.task.frozen else H[-1]


def _finite(name: str, *tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise Diverged(f"{name} not finite")
