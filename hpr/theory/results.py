"""All checks of the theory, and the numbers that its figure draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from hpr.theory import expectation, printed, recurrent, two_layer
from hpr.theory.check import Check
from hpr.theory.size import Size


@dataclass(frozen=True)
class Results:
    """Checks in the paper's order, and what they rest on."""

    checks: tuple[Check, ...]
    expected: Check  # Eq. 21 by Monte Carlo
    trained: Check  # Eq. 21 by training
    constant: Check  # Lemma 2
    swept: tuple[two_layer.Trained, ...]
    optimum: expectation.Optimum  # of d = 5
    rotated: two_layer.Trained  # rank-1 starts at all angles from the task
    losses: recurrent.Losses


@cache
def run(size: Size) -> Results:
    """Compute everything; the same size gives the same numbers, and is computed once a process."""
    R = size.trained
    swept = tuple(
        two_layer.train_tasks(d, rank, sigma, R)
        for d, rank in two_layer.SWEPT
        for sigma in two_layer.SIGMAS
    )
    small = [two_layer.train_tasks(d, rank, two_layer.SMALL, R) for d, rank in two_layer.SETTINGS]
    angle = torch.linspace(0, torch.pi / 2, 40, dtype=torch.float64)
    constant = expectation.constant(size.tasks)
    expected = expectation.spectra(size.tasks)
    trained, representation = two_layer.trained_expectation(small)
    theorem, optima = expectation.maximiser(size.starts)
    losses = recurrent.train(size.networks)
    checks = (
        two_layer.kernel_by_autograd(),
        two_layer.final_kernel(swept),
        two_layer.task_alignment(swept),
        constant,
        expectation.general_moment(size.tasks),
        expected,
        trained,
        representation,
        theorem,
        two_layer.proposition_1(R),
        *recurrent.proposition_2(losses),
        *printed.printed(),
    )
    rotated = two_layer.aligned_start(5, two_layer.SMALL, len(angle), angle)
    return Results(checks, expected, trained, constant, swept, optima, rotated, losses)
