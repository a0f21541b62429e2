"""Checks of Proposition 2: linear RNNs with frozen recurrent weights of low rank can't learn every target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hpr.theory.check import ROUNDOFF, ZERO_ERROR, Check, extreme
from hpr.theory.networks import RecurrentTask, normal, recurrent_task, train_recurrent
from hpr.theory.statements import STATEMENTS

N, N_OUT, POINTS = 24, 3, 8  # hidden units, outputs, data points (the paper's d)
# Ranks of W_h^(0).
INITIAL_RANKS = (1, 2, 3, 5, 12, 24)
# ρ = exp(-dt/tau) at dt = tau, the leak of the paper's networks.
LEAK = math.exp(-1)


@dataclass(frozen=True)
class Losses:
    """Relative squared errors ‖Y - ŷ‖² / ‖Y‖² after training: for each rank of W_h^(0), those of R networks [R].

    Unless the comment says otherwise, the targets are Gaussian, of rank N_out.
    """

    frozen: dict[int, Tensor]  # W_h frozen
    least: dict[int, Tensor]  # the least possible for frozen W_h and these inputs, by least squares
    floor: dict[int, Tensor]  # the least possible for any ŷ of this rank (Eckart and Young)
    reachable: dict[int, Tensor]  # W_h frozen, targets that some readout of this network produces
    leaky: dict[int, Tensor]  # W_h frozen, with the leak of Eq. 1
    trained: dict[int, Tensor]  # W_h trained
    movement: dict[int, Tensor]  # W_h trained: the relative change ‖W_h^(f) - W_h^(0)‖ / ‖W_h^(0)‖


@cache
def train(R: int) -> Losses:
    """Train R networks per rank in each of four ways; all ranks have the same inputs and targets."""

    def by_rank(values: Tensor) -> dict[int, Tensor]:
        return dict(zip(INITIAL_RANKS, values.unflatten(0, (len(INITIAL_RANKS), R)), strict=True))

    def descend(task: RecurrentTask, target: Tensor, freeze: bool) -> tuple[Tensor, Tensor]:
        iterations = 3000 if freeze else 20_000
        return train_recurrent(task, target, freeze=freeze, iterations=iterations)

    plain, leaky = (
        recurrent_task(R, INITIAL_RANKS, N, N_OUT, POINTS, rho, torch.Generator().manual_seed(0))
        for rho in (0.0, LEAK)
    )
    rng = torch.Generator().manual_seed(1)
    target = _unit_norm(normal(R, N_OUT, POINTS, rng=rng).repeat(len(INITIAL_RANKS), 1, 1))
    within = _unit_norm(
        normal(R, N_OUT, N, rng=rng).repeat(len(INITIAL_RANKS), 1, 1) @ plain.states()
    )
    # h_T has the rank of W_h, so its first `rank` right singular vectors span its row space.
    ranks = torch.tensor(INITIAL_RANKS).repeat_interleave(R)
    _, _, Vh = torch.linalg.svd(plain.states(), full_matrices=False)
    seen = Vh * (torch.arange(POINTS) < ranks[:, None])[:, :, None]
    unseen = target - target @ seen.mT @ seen
    tail = torch.linalg.svdvals(target) * (torch.arange(N_OUT) >= ranks[:, None])
    trained, W_h = descend(plain, target, False)
    before = plain.recurrent
    return Losses(
        frozen=by_rank(descend(plain, target, True)[0]),
        least=by_rank(unseen.square().sum((1, 2))),
        floor=by_rank(tail.square().sum(1)),
        reachable=by_rank(descend(plain, within, True)[0]),
        leaky=by_rank(descend(leaky, target, True)[0]),
        trained=by_rank(trained),
        movement=by_rank((W_h - before).norm(dim=(1, 2)) / before.norm(dim=(1, 2))),
    )


def _unit_norm(target: Tensor) -> Tensor:
    """Scale targets [R, N_out, B] to norm 1."""
    return target / target.norm(dim=(1, 2), keepdim=True)


def check_proposition_2(losses: Losses) -> list[Check]:
    """Check the proposition, its converse, whether its bound is attained, and networks with the leak of Eq. 1."""
    below = [rank for rank in INITIAL_RANKS if rank < N_OUT]
    sizes = f"N = {N}, N_out = {N_OUT}, {POINTS} data points"
    return [
        Check(
            STATEMENTS["frozen"],
            tuple(
                extreme(f"rank {r}", losses.frozen[r] / losses.floor[r], "at least", 1.0)
                for r in below
            ),
            note=f"{sizes}; {_mean_losses(losses.frozen, below)}",
        ),
        Check(
            STATEMENTS["trained recurrent"],
            tuple(extreme(f"rank {r}", losses.trained[r], "at most", ZERO_ERROR) for r in below),
            note="W_h moves by at least "
            + ", ".join(
                f"{float(losses.movement[r].min()):.0%} of its norm at rank {r}" for r in below
            ),
        ),
        Check(
            STATEMENTS["attained"],
            (extreme(f"rank {N_OUT}", losses.reachable[N_OUT], "at most", ZERO_ERROR),),
            note=sizes,
        ),
        Check(
            STATEMENTS["arbitrary target"],
            tuple(
                extreme(
                    f"rank {r}", losses.frozen[r] / losses.least[r], "at least", 1 - 1000 * ROUNDOFF
                )
                for r in INITIAL_RANKS
                if N_OUT <= r < POINTS
            )
            + tuple(
                extreme(f"rank {r}", losses.frozen[r], "at most", ZERO_ERROR)
                for r in INITIAL_RANKS
                if r > POINTS
            ),
            note="below: share of the least-squares minimum; "
            + _mean_losses(losses.frozen, [r for r in INITIAL_RANKS if N_OUT <= r < POINTS]),
        ),
        Check(
            STATEMENTS["leaky"],
            tuple(
                extreme(f"rank {r}", losses.leaky[r] / losses.floor[r], "at least", 1.0)
                for r in below
            ),
            note="the leak makes ρ I + (1-ρ) W_h of full rank: frozen networks reach "
            + _mean_losses(losses.leaky, below),
        ),
    ]


def _mean_losses(losses: dict[int, Tensor], ranks: list[int]) -> str:
    return ", ".join(f"mean error {float(losses[r].mean()):.2g} at rank {r}" for r in ranks)
