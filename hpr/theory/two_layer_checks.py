"""Eq. 7, 8, 14, 18, 21 and Proposition 1 against torch.func and really trained two-layer networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpr.theory import equations
from hpr.theory.check import ROUNDOFF, Case, Check, average, extreme, standard_errors
from hpr.theory.networks import (
    TwoLayer,
    isotropic_spectrum,
    normal,
    orthonormal,
    train_two_layer,
    two_layer,
)
from hpr.theory.statements import STATEMENTS
from hpr_kernels import two_layer_ntk

# Dimension of the inputs, and how many equal singular values W_1 has.
SETTINGS = ((2, 1), (2, 2), (5, 1), (5, 2), (5, 5), (20, 1), (20, 5), (20, 20))
SMALL = 0.003
# Where the order in σ is looked at.
SWEPT = ((2, 1), (2, 2), (5, 1), (5, 5))
SIGMAS = (0.1, 0.03, 0.01, SMALL)

# N, d, m of the networks of Eq. 7.
SHAPES = (
    (1, 1, 1), (1, 4, 3), (5, 1, 2), (3, 2, 4), (2, 7, 9), (7, 5, 3), (16, 16, 16), (33, 10, 20), (64, 3, 50)
)  # fmt: skip

InitialKernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # X, W_1, W_2
FinalKernel = Callable[[Tensor, Tensor], Tensor]  # X, β
Alignment = Callable[[Tensor, Tensor], Tensor]  # M_0, β


@dataclass(frozen=True)
class Trained:
    """R networks before and after training, each on its own Gaussian task."""

    d: int
    rank: int
    sigma: float
    X: Tensor  # [d, m]
    beta: Tensor  # [R, d]
    start: TwoLayer
    end: TwoLayer

    @property
    def alignment(self) -> Tensor:
        """KA between the kernels before and after training, [R]."""
        return equations.alignment(self.end.kernel(self.X), self.start.kernel(self.X))

    @property
    def representation_alignment(self) -> Tensor:
        """RA, [R]."""
        before, after = (net.representation(self.X) for net in (self.start, self.end))
        return equations.alignment(after, before)

    @property
    def label(self) -> str:
        """The setting in words."""
        return f"d = {self.d}, rank {self.rank}"


def train_tasks(d: int, rank: int, sigma: float, R: int, seed: int = 0) -> Trained:
    """Train R networks of d + 2 hidden units, with `rank` equal singular values, on R tasks."""
    rng = torch.Generator().manual_seed(seed)
    X = orthonormal(d + 3, d, rng=rng).mT
    beta = normal(R, d, rng=rng) / d**0.5
    start = two_layer(R, d + 2, isotropic_spectrum(d, rank, sigma), sigma, rng)
    return Trained(d, rank, sigma, X, beta, start, train_two_layer(start, X, beta))


def kernel_by_autograd(kernel: InitialKernel = equations.tangent_kernel) -> Check:
    """Eq. 7 against jacrev and against this project's kernel engine, up to rounding."""
    cases = []
    for seed, (N, d, m) in enumerate(SHAPES):
        rng = torch.Generator().manual_seed(seed)
        W_1, W_2, X = normal(N, d, rng=rng), normal(N, rng=rng), normal(d, m, rng=rng)
        jacobians = torch.func.jacrev(lambda W, X=X: W[1] @ W[0] @ X)((W_1, W_2))
        J = torch.cat([part.flatten(1) for part in jacobians], dim=1)  # [m, N d + N]
        engine = two_layer_ntk(X.mT, hidden=W_1, readout=W_2[None], activation="linear")
        formula = kernel(X, W_1, W_2)
        # |sum of k rounded products| errs by at most k u times the sum of their sizes, for each way.
        sizes = equations.tangent_kernel(X.abs(), W_1.abs(), W_2)
        terms = (N + 2 * d + 3) + (N * (d + 1) + 2 * d + 3)
        error = max(float(((K - formula).abs() / sizes).max()) for K in (J @ J.mT, engine))
        label = f"N = {N}, d = {d}, m = {m}"
        cases.append(Case(label, error, 0.0, terms * ROUNDOFF, 1))
    return Check(
        STATEMENTS["kernel"],
        tuple(cases),
        note="against torch.func's jacrev and hpr_kernels.two_layer_ntk; the error is the rounding bound",
    )


def kernel_shares(run: Trained, kernel: FinalKernel = equations.final_kernel) -> Tensor:
    """‖K^(f) - Eq. 8‖ as a share of the bound of what Eq. 8 leaves out, [R]."""
    distance = (run.end.kernel(run.X) - kernel(run.X, run.beta)).norm(dim=(-2, -1))
    return distance / _distances(run)[0]


def final_kernel(trained: Sequence[Trained], kernel: FinalKernel = equations.final_kernel) -> Check:
    """Eq. 8: how far trained kernels are from it, as a share of the derived bound of its O(σ²)."""
    return Check(
        STATEMENTS["final kernel"],
        _largest(trained, [kernel_shares(run, kernel) for run in trained]),
        note=f"σ from {max(SIGMAS)} to {min(SIGMAS)}; the bound is derived from what gradient flow conserves",
    )


def task_alignment(
    trained: Sequence[Trained], predicted: Alignment = equations.task_alignment
) -> Check:
    """Eq. 14 task by task: |KA - Eq. 14| of trained networks, as a share of its derived bound."""

    def shares(run: Trained) -> Tensor:
        M_0 = equations.second_moment(run.start.W_1, run.start.W_2)
        return (run.alignment - predicted(M_0, run.beta)).abs() / _alignment_bound(run)

    return Check(
        STATEMENTS["task alignment"],
        _largest(trained, [shares(run) for run in trained]),
        note="bound: Eq. 8's, divided by ‖K^(f)‖",
    )


def _largest(trained: Sequence[Trained], shares: Sequence[Tensor]) -> tuple[Case, ...]:
    """One case a setting, of all σ together: that no share is above 1."""
    merged: dict[str, list[Tensor]] = {}
    for run, share in zip(trained, shares, strict=True):
        merged.setdefault(run.label, []).append(share)
    return tuple(
        extreme(label, torch.cat(parts), "at most", 1.0) for label, parts in merged.items()
    )


def trained_expectation(
    trained: Sequence[Trained], c: Callable[[int], float] = equations.mean_square_direction
) -> list[Check]:
    """Eq. 21 and its analogue for RA against the mean over trained tasks."""
    z = standard_errors(len(trained))
    kernel: list[Case] = []
    representation: list[Case] = []
    for run in trained:
        KA_bias = _alignment_bound(run)
        # A cosine moves by at most twice its argument's relative change.
        RA_bias = 2 * _distances(run)[1] / run.beta.norm(dim=-1)
        for cases, values, bias, formula in (
            (kernel, run.alignment, KA_bias, equations.expected_alignment_of_spectrum),
            (
                representation,
                run.representation_alignment,
                RA_bias,
                equations.expected_representation_alignment,
            ),
        ):
            # Fine enough is what tells this rank from full rank, or that from rank 1.
            other = 1 if run.rank == run.d else run.d
            expected, contrast = (
                float(formula(isotropic_spectrum(run.d, rank, run.sigma), c(run.d)))
                for rank in (run.rank, other)
            )
            error = z * float(values.std()) / len(values) ** 0.5 + float(bias.mean())
            resolution = abs(expected - contrast) / 2
            cases.append(average(run.label, values, expected, error, resolution))
    return [
        Check(
            STATEMENTS["trained expectation"], tuple(kernel),
            note=f"σ = {trained[0].sigma:g}; error: {z:.2f} standard errors + bound of O(σ²)",
        ),
        Check(
            STATEMENTS["representation"], tuple(representation),
            note=f"σ = {trained[0].sigma:g}; error: {z:.2f} standard errors + bound of O(σ²)",
        ),
    ]  # fmt: skip


def aligned_start(d: int, sigma: float, R: int, angle: Tensor | None = None) -> Trained:
    """Train from W_1 = σ [v, 0 … 0]ᵀ: v = β̂ (Proposition 1), or at `angle` [R] from it."""
    rng = torch.Generator().manual_seed(d)
    X = orthonormal(d + 3, d, rng=rng).mT
    beta = normal(R, d, rng=rng) / d**0.5
    start = two_layer(R, d + 2, isotropic_spectrum(d, 1, sigma), sigma, rng)
    direction = beta / beta.norm(dim=-1, keepdim=True)
    if angle is not None:
        other = normal(R, d, rng=rng)
        other -= (other * direction).sum(-1, keepdim=True) * direction
        other /= other.norm(dim=-1, keepdim=True)
        direction = angle.cos()[:, None] * direction + angle.sin()[:, None] * other
    W_1 = torch.zeros_like(start.W_1)
    W_1[:, 0] = sigma * direction
    start = TwoLayer(W_1, start.W_2)
    return Trained(d, 1, sigma, X, beta, start, train_two_layer(start, X, beta))


def proposition_1(R: int, angle: float = 0.0) -> Check:
    """KA = 1 from a rank-1 start along the task, at small σ and at others."""
    cases = []
    for d, sigma in ((2, SMALL), (5, SMALL), (20, SMALL), (5, 0.1), (5, 1.0)):
        run = aligned_start(d, sigma, R, torch.full((R,), angle, dtype=torch.float64))
        KA = run.alignment
        # A cosine of m² products, of kernels that are sums of d and d + 2 products.
        error = 2 * (run.X.shape[1] ** 2 + 4 * d) * ROUNDOFF
        cases.append(extreme(f"d = {d}, σ = {sigma:g}", KA, "at least", 1.0, error))
    return Check(
        STATEMENTS["aligned start"],
        tuple(cases),
        note="exactly 1 at any σ: W_1 stays along β̂ᵀ and ‖W_1‖ = ‖W_2‖ throughout, so K only grows",
    )


def _distances(run: Trained) -> tuple[Tensor, Tensor]:
    return equations.final_moment_distance(run.beta.norm(dim=-1), run.d, run.sigma)


def _alignment_bound(run: Trained) -> Tensor:
    """Largest |KA - Eq. 14|, [R]: the change of K over ‖K‖, as ‖K^(f)‖ is at least Eq. 8's."""
    return _distances(run)[0] / (run.beta.norm(dim=-1) * (run.d + 3) ** 0.5)
