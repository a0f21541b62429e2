"""Checks of Eq. 7, 8, 14, 21 and Proposition 1 against torch.func and trained two-layer linear networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpr.theory import equations
from hpr.theory.check import ROUNDOFF, Check, CheckCase, average, extreme, standard_errors
from hpr.theory.networks import (
    LinearNetworks,
    draw_linear_networks,
    isotropic_spectrum,
    normal,
    orthonormal,
    train_linear_networks,
)
from hpr.theory.statements import STATEMENTS
from hpr_kernels import two_layer_ntk

# Pairs of the input dimension d and the rank of W_1, whose non-zero singular values are equal.
SETTINGS = ((2, 1), (2, 2), (5, 1), (5, 2), (5, 5), (20, 1), (20, 5), (20, 20))
SMALL_SIGMA = 0.003
# Pairs of d and rank, and values of σ, at which trained kernels are compared with Eq. 8 and 14.
SWEPT = ((2, 1), (2, 2), (5, 1), (5, 5))
SIGMAS = (0.1, 0.03, 0.01, SMALL_SIGMA)

# Sizes N, d, m of the networks and inputs that check Eq. 7.
KERNEL_SIZES = (
    (1, 1, 1), (1, 4, 3), (5, 1, 2), (3, 2, 4), (2, 7, 9), (7, 5, 3), (16, 16, 16), (33, 10, 20), (64, 3, 50)
)  # fmt: skip

InitialKernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # X, W_1, W_2
FinalKernel = Callable[[Tensor, Tensor], Tensor]  # X, β
AlignmentFormula = Callable[[Tensor, Tensor], Tensor]  # M_0, β


@dataclass(frozen=True)
class Trained:
    """R networks before and after training, each on its own Gaussian task."""

    d: int
    rank: int
    sigma: float
    X: Tensor  # [d, m]
    beta: Tensor  # [R, d]
    start: LinearNetworks
    end: LinearNetworks

    @property
    def alignment(self) -> Tensor:
        """KA, the alignment of the kernels before and after training, [R]."""
        return equations.batched_alignment(self.end.kernel(self.X), self.start.kernel(self.X))

    @property
    def representation_alignment(self) -> Tensor:
        """RA, the alignment of the representations before and after training, [R]."""
        before, after = (net.representation(self.X) for net in (self.start, self.end))
        return equations.batched_alignment(after, before)

    @property
    def label(self) -> str:
        """The setting in words, for tables."""
        return f"d = {self.d}, rank {self.rank}"


def train_tasks(d: int, rank: int, sigma: float, R: int, seed: int = 0) -> Trained:
    """Train R networks with d + 2 hidden units, whose W_1 has `rank` equal singular values, on R tasks."""
    rng = torch.Generator().manual_seed(seed)
    X = orthonormal(d + 3, d, rng=rng).mT
    beta = normal(R, d, rng=rng) / d**0.5
    start = draw_linear_networks(R, d + 2, isotropic_spectrum(d, rank, sigma), sigma, rng)
    return Trained(d, rank, sigma, X, beta, start, train_linear_networks(start, X, beta))


def check_kernel(kernel: InitialKernel = equations.linear_network_kernel) -> Check:
    """Compare Eq. 7 with the kernels from torch's `jacrev` and from `hpr_kernels`, up to rounding."""
    cases = []
    for seed, (N, d, m) in enumerate(KERNEL_SIZES):
        rng = torch.Generator().manual_seed(seed)
        W_1, W_2, X = normal(N, d, rng=rng), normal(N, rng=rng), normal(d, m, rng=rng)
        jacobians = torch.func.jacrev(lambda W, X=X: W[1] @ W[0] @ X)((W_1, W_2))
        J = torch.cat([part.flatten(1) for part in jacobians], dim=1)  # [m, N d + N]
        engine = two_layer_ntk(X.mT, hidden=W_1, readout=W_2[None], activation="linear")
        formula = kernel(X, W_1, W_2)
        # A sum of k rounded products has an error of at most k u times the sum of their magnitudes (u: unit roundoff).
        # `terms` is k of the formula plus k of the Jacobian product.
        sizes = equations.linear_network_kernel(X.abs(), W_1.abs(), W_2)
        terms = (N + 2 * d + 3) + (N * (d + 1) + 2 * d + 3)
        error = max(float(((K - formula).abs() / sizes).max()) for K in (J @ J.mT, engine))
        label = f"N = {N}, d = {d}, m = {m}"
        cases.append(CheckCase(label, error, 0.0, terms * ROUNDOFF, 1))
    return Check(
        STATEMENTS["kernel"],
        tuple(cases),
        note="against torch.func's jacrev and hpr_kernels.two_layer_ntk; the error is the rounding bound",
    )


def kernel_shares(run: Trained, kernel: FinalKernel = equations.final_kernel) -> Tensor:
    """‖K^(f) - Eq. 8‖ divided by the upper bound of the O(σ²) that Eq. 8 drops, [R]."""
    distance = (run.end.kernel(run.X) - kernel(run.X, run.beta)).norm(dim=(-2, -1))
    return distance / _distances(run)[0]


def check_final_kernel(
    trained: Sequence[Trained], kernel: FinalKernel = equations.final_kernel
) -> Check:
    """Compare trained kernels with Eq. 8; the difference must not exceed the bound of its O(σ²)."""
    return Check(
        STATEMENTS["final kernel"],
        _largest(trained, [kernel_shares(run, kernel) for run in trained]),
        note=f"σ from {max(SIGMAS)} to {min(SIGMAS)}; the bound is derived from what gradient flow conserves",
    )


def check_task_alignment(
    trained: Sequence[Trained], predicted: AlignmentFormula = equations.task_alignment
) -> Check:
    """Compare KA of trained networks with Eq. 14, task by task; the difference must not exceed its bound."""

    def shares(run: Trained) -> Tensor:
        M_0 = equations.second_moment(run.start.W_1, run.start.W_2)
        return (run.alignment - predicted(M_0, run.beta)).abs() / _alignment_bound(run)

    return Check(
        STATEMENTS["task alignment"],
        _largest(trained, [shares(run) for run in trained]),
        note="bound: Eq. 8's, divided by ‖K^(f)‖",
    )


def _largest(trained: Sequence[Trained], shares: Sequence[Tensor]) -> tuple[CheckCase, ...]:
    """One case per setting, with the shares of all σ: no share is above 1."""
    merged: dict[str, list[Tensor]] = {}
    for run, share in zip(trained, shares, strict=True):
        merged.setdefault(run.label, []).append(share)
    return tuple(
        extreme(label, torch.cat(parts), "at most", 1.0) for label, parts in merged.items()
    )


def check_trained_expectation(
    trained: Sequence[Trained], c: Callable[[int], float] = equations.mean_square_direction
) -> list[Check]:
    """Compare mean KA and RA of trained networks with Eq. 21 and its analogue for RA."""
    z = standard_errors(len(trained))
    kernel: list[CheckCase] = []
    representation: list[CheckCase] = []
    for run in trained:
        KA_bias = _alignment_bound(run)
        # A cosine changes by at most twice the relative change of its argument.
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
            # The error is fine enough if it separates this rank from full rank, or full rank from rank 1.
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
    """Train R networks from W_1 = σ [v, 0 … 0]ᵀ, where v is β̂ (Proposition 1) or has the angles [R] to it."""
    rng = torch.Generator().manual_seed(d)
    X = orthonormal(d + 3, d, rng=rng).mT
    beta = normal(R, d, rng=rng) / d**0.5
    start = draw_linear_networks(R, d + 2, isotropic_spectrum(d, 1, sigma), sigma, rng)
    direction = beta / beta.norm(dim=-1, keepdim=True)
    if angle is not None:
        other = normal(R, d, rng=rng)
        other -= (other * direction).sum(-1, keepdim=True) * direction
        other /= other.norm(dim=-1, keepdim=True)
        direction = angle.cos()[:, None] * direction + angle.sin()[:, None] * other
    W_1 = torch.zeros_like(start.W_1)
    W_1[:, 0] = sigma * direction
    start = LinearNetworks(W_1, start.W_2)
    return Trained(d, 1, sigma, X, beta, start, train_linear_networks(start, X, beta))


def check_proposition_1(R: int, angle: float = 0.0) -> Check:
    """Check that KA = 1 from a rank-1 start along the task, at small and larger σ; `angle` rotates the start away."""
    cases = []
    for d, sigma in ((2, SMALL_SIGMA), (5, SMALL_SIGMA), (20, SMALL_SIGMA), (5, 0.1), (5, 1.0)):
        run = aligned_start(d, sigma, R, torch.full((R,), angle, dtype=torch.float64))
        KA = run.alignment
        # Rounding bound of a cosine over m² products of kernel entries, which are sums of d and d + 2 products.
        error = 2 * (run.X.shape[1] ** 2 + 4 * d) * ROUNDOFF
        cases.append(extreme(f"d = {d}, σ = {sigma:g}", KA, "at least", 1.0, error))
    return Check(
        STATEMENTS["aligned start"],
        tuple(cases),
        note="exactly 1 at any σ: W_1 stays along β̂ᵀ and ‖W_1‖ = ‖W_2‖ throughout, so K only grows",
    )


def _distances(run: Trained) -> tuple[Tensor, Tensor]:
    """The two bounds of `final_moment_distance` for each task, [R]."""
    return equations.final_moment_distance(run.beta.norm(dim=-1), run.d, run.sigma)


def _alignment_bound(run: Trained) -> Tensor:
    """The bound of |KA - Eq. 14|, [R]: that of K^(f) divided by Eq. 8's norm, which ‖K^(f)‖ is not below."""
    return _distances(run)[0] / (run.beta.norm(dim=-1) * (run.d + 3) ** 0.5)
