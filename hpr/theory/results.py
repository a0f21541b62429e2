"""Run all checks of the theory and keep the numbers that its figure draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from hpr.system.devices import one_thread
from hpr.theory import expectation_checks, printed_checks, recurrent_checks, two_layer_checks
from hpr.theory.check import Check
from hpr.theory.size import Size


@dataclass(frozen=True)
class Results:
    """The checks in the paper's order, and the data behind those that the figure draws."""

    checks: tuple[Check, ...]
    expected: Check  # Eq. 21 by Monte Carlo
    trained: Check  # Eq. 21 by training
    constant: Check  # Lemma 2
    swept: tuple[two_layer_checks.Trained, ...]
    optimum: expectation_checks.Optimum  # of d = 5
    rotated: two_layer_checks.Trained  # rank-1 starts at all angles from the task
    losses: recurrent_checks.Losses


@cache
@one_thread()
def run_checks(size: Size) -> Results:
    """Run all checks. One size always gives the same numbers, and each process computes them once."""
    R = size.trained
    swept = tuple(
        two_layer_checks.train_tasks(d, rank, sigma, R)
        for d, rank in two_layer_checks.SWEPT
        for sigma in two_layer_checks.SIGMAS
    )
    small = [
        two_layer_checks.train_tasks(d, rank, two_layer_checks.SMALL_SIGMA, R)
        for d, rank in two_layer_checks.SETTINGS
    ]
    angle = torch.linspace(0, torch.pi / 2, 40, dtype=torch.float64)
    constant = expectation_checks.check_constant(size.tasks)
    expected = expectation_checks.check_expectation(size.tasks)
    trained, representation = two_layer_checks.check_trained_expectation(small)
    theorem, optima = expectation_checks.check_maximiser(size.starts)
    losses = recurrent_checks.train(size.networks)
    checks = (
        two_layer_checks.check_kernel(),
        two_layer_checks.check_final_kernel(swept),
        two_layer_checks.check_task_alignment(swept),
        constant,
        expectation_checks.check_general_moment(size.tasks),
        expected,
        trained,
        representation,
        theorem,
        two_layer_checks.check_proposition_1(R),
        *recurrent_checks.check_proposition_2(losses),
        *printed_checks.check_printed_steps(),
    )
    rotated = two_layer_checks.aligned_start(5, two_layer_checks.SMALL_SIGMA, len(angle), angle)
    return Results(checks, expected, trained, constant, swept, optima, rotated, losses)
