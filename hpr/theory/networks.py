"""The theory's small networks, trained by gradient descent in fp64, many networks at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpr.theory.equations import linear_network_kernel
from hpr_kernels import leaky_rnn

# Time steps of the recurrent networks; the last one has no input.
TIME_STEPS = 4
# Training stops at this sum of squared errors over all networks; each target has norm 1.
VANISHED_LOSS = 1e-26


def normal(*shape: int, rng: torch.Generator) -> Tensor:
    """Standard normal numbers, fp64."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def orthonormal(*shape: int, rng: torch.Generator) -> Tensor:
    """Random matrices [..., n, k] with k ≤ n orthonormal columns."""
    return torch.linalg.qr(normal(*shape, rng=rng))[0]


def isotropic_spectrum(d: int, rank: int, sigma: float) -> Tensor:
    """Singular values [d]: `rank` equal ones and d - rank zeros, with Frobenius norm σ."""
    s = torch.zeros(d, dtype=torch.float64)
    s[:rank] = sigma / math.sqrt(rank)
    return s


@dataclass(frozen=True)
class LinearNetworks:
    """R networks y = W_2 W_1 x."""

    W_1: Tensor  # [R, N, d]
    W_2: Tensor  # [R, N]

    def kernel(self, X: Tensor) -> Tensor:
        """Eq. 7, [R, m, m]."""
        return linear_network_kernel(X, self.W_1, self.W_2)

    def representation(self, X: Tensor) -> Tensor:
        """R = Hᵀ H with H = W_1 X, [R, m, m]."""
        H = self.W_1 @ X
        return H.mT @ H


def draw_linear_networks(
    R: int, N: int, s: Tensor, sigma: float, rng: torch.Generator
) -> LinearNetworks:
    """Draw R networks: W_1 has singular values s [d] and random singular vectors, ‖W_2‖ = σ; N ≥ d."""
    (d,) = s.shape
    W_1 = orthonormal(R, N, d, rng=rng) * s @ orthonormal(R, d, d, rng=rng).mT
    W_2 = normal(R, N, rng=rng)
    return LinearNetworks(W_1, sigma * W_2 / W_2.norm(dim=-1, keepdim=True))


def train_linear_networks(
    start: LinearNetworks,
    X: Tensor,
    beta: Tensor,
    *,
    step: float = 0.05,
    tolerance: float = 1e-10,
    iterations: int = 20_000,
) -> LinearNetworks:
    """Gradient descent on ‖Y - W_2 W_1 X‖² / 2, Y = βᵀ X, until all errors are below `tolerance` · ‖Y‖.

    Args:
        start: R networks.
        X: inputs [d, m].
        beta: their tasks [R, d].
        step: learning rate times ‖β‖; with this scaling all tasks need about as many iterations.
        tolerance: the relative error at which training stops.
        iterations: the largest number of iterations.

    Raises:
        RuntimeError: a network did not reach the tolerance.
    """
    weights = [start.W_1.clone().requires_grad_(), start.W_2.clone().requires_grad_()]
    rates = step / beta.norm(dim=-1)
    Y = beta @ X
    for iteration in range(iterations):
        error = Y - ((weights[1][:, None] @ weights[0]) @ X).squeeze(1)  # [R, m]
        if iteration % 50 == 0:
            worst = float((error.detach().norm(dim=-1) / Y.norm(dim=-1)).max())
            if worst < tolerance:
                return LinearNetworks(*(W.detach() for W in weights))
        gradients = torch.autograd.grad(error.square().sum() / 2, weights)
        with torch.no_grad():
            weights[0] -= rates[:, None, None] * gradients[0]
            weights[1] -= rates[:, None] * gradients[1]
    raise RuntimeError(f"training: expected errors below {tolerance}, got {worst}")


@dataclass(frozen=True)
class RecurrentTask:
    """R linear recurrent networks and their inputs; the output is that of the last step (Eq. 25).

    h_{t+1} = ρ h_t + (1 - ρ)(W_h h_t + X_t), h_0 = 0, y = w h_T. The last step has no input, so that at ρ = 0
    y = w W_h Σ_t W_h^{T-t-1} X_t.
    """

    x: Tensor  # [R, TIME_STEPS, B, N]; B is the paper's number of data points d
    recurrent: Tensor  # W_h [R, N, N]
    readout: Tensor  # w [R, N_out, N]
    rho: float

    def states(self, recurrent: Tensor | None = None) -> Tensor:
        """h_T of every data point, as columns, [R, N, B]; with other recurrent weights if they are given."""
        W_h = self.recurrent if recurrent is None else recurrent
        eye = torch.eye(W_h.shape[-1], dtype=W_h.dtype).expand_as(W_h)
        h = leaky_rnn(self.x, recurrent=W_h, input=eye, rho=self.rho, activation="linear")
        return h[:, -1].mT


def recurrent_task(
    R: int, ranks: Sequence[int], N: int, N_out: int, B: int, rho: float, rng: torch.Generator
) -> RecurrentTask:
    """Draw R Gaussian networks, truncate each W_h to each of `ranks`, and restore its Frobenius norm.

    Network i R + r has the rank ranks[i] and the Gaussian weights and inputs of replicate r, which all ranks share.
    """
    U, s, Vh = torch.linalg.svd(normal(R, N, N, rng=rng) / math.sqrt(N))
    kept = s * (torch.arange(N) < torch.tensor(ranks)[:, None, None])  # [ranks, R, N]
    kept = kept * (s.norm(dim=-1) / kept.norm(dim=-1))[..., None]
    x = normal(R, TIME_STEPS, B, N, rng=rng) / math.sqrt(N)
    x[:, -1] = 0
    readout = normal(R, N_out, N, rng=rng) / math.sqrt(N)
    copies = len(ranks)
    return RecurrentTask(
        x.repeat(copies, 1, 1, 1),
        ((U * kept[:, :, None]) @ Vh).flatten(0, 1),
        readout.repeat(copies, 1, 1),
        rho,
    )


def train_recurrent(
    task: RecurrentTask, target: Tensor, *, freeze: bool, iterations: int, momentum: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Gradient descent with momentum on ‖Y - w h_T‖² / 2, of w only (`freeze`) or of w and W_h.

    Args:
        task: R networks.
        target: Y [R, N_out, B], of norm about 1.
        freeze: whether W_h is kept fixed.
        iterations: the largest number; training stops earlier at a loss below `VANISHED_LOSS`.
        momentum: the coefficient of heavy-ball momentum.

    Returns:
        ‖Y - w h_T‖² / ‖Y‖² [R] and W_h [R, N, N] at the end.
    """
    readout = task.readout.clone().requires_grad_()
    recurrent = task.recurrent.clone().requires_grad_(not freeze)
    weights = [readout] if freeze else [readout, recurrent]
    velocity = [torch.zeros_like(W) for W in weights]
    states = task.states()
    # 1 / ‖h_T‖² is a stable rate for w; training W_h as well needs a smaller one.
    rate = (1.0 if freeze else 0.1) / torch.linalg.matrix_norm(states, 2) ** 2
    for _ in range(iterations):
        if not freeze:
            states = task.states(recurrent)
        error = target - readout @ states
        loss = error.square().sum()
        if float(loss.detach()) < VANISHED_LOSS:
            break
        gradients = torch.autograd.grad(loss / 2, weights)
        with torch.no_grad():
            for W, v, gradient in zip(weights, velocity, gradients, strict=True):
                v.mul_(momentum).add_(gradient)
                W -= rate[:, None, None] * v
    with torch.no_grad():
        error = target - readout @ task.states(recurrent)
    return error.square().sum((1, 2)) / target.square().sum((1, 2)), recurrent.detach()
