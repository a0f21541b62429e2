"""Adjoints and rates that overflow are named, and finite arguments cost no second check."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from hpr_kernels import checks, leaky_rnn_kernel_alignment, leaky_rnn_ntk
from hpr_kernels.checks import REDUCTIONS, NonFinite
from hpr_kernels.testing import random_network

RHO = 0.3
ORDERS = ("auto", "hadamard", "propagate", "dense")
# All at once; a few examples at a time; a few outputs of one example at a time.
BUDGETS = (1 << 28, 80_000, 20_000)


def drawn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    net = random_network(rng, N=9, T=6, B=5, N_out=2, dtype=torch.float32)
    return net.x, {"recurrent": net.recurrent, "input": net.input, "readout": net.readout}


def overflowing(weights: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Finite weights whose adjoints alone overflow, or whose rates do before the last step."""
    readout, recurrent = weights["readout"], weights["recurrent"]
    if what == "inputs":
        return {**weights, "recurrent": recurrent * 1e12, "readout": readout * 1e-38}
    return {
        "recurrent": recurrent * 1e7,
        "input": weights["input"] * 1e-36,
        "readout": readout * 1e10,
    }


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("second", [False, True], ids=["itself", "another"])
def test_overflowing_adjoints_are_named(
    rng: torch.Generator, order: Any, reduce: Any, budget: int, second: bool
) -> None:
    x, weights = drawn(rng)
    for what in ("adjoints", "inputs"):
        given = overflowing(weights, what)
        with pytest.raises(NonFinite, match=r"^(adjoints|inputs): expected finite numbers, got \d"):
            leaky_rnn_ntk(
                x, x[:, 1:] if second else None, **given, rho=RHO, activation="linear",
                reduce=reduce, order=order, memory_budget=budget,
            )  # fmt: skip


@pytest.mark.parametrize("what", ["adjoints", "inputs"])
def test_what_overflows_is_named(rng: torch.Generator, what: str) -> None:
    x, weights = drawn(rng)
    given = overflowing(weights, what)
    with pytest.raises(NonFinite, match=rf"^{what}: expected finite numbers, got \d"):
        leaky_rnn_ntk(x, **given, rho=RHO, activation="linear", parameters=("input", "recurrent"))


@pytest.mark.parametrize("budget", [1 << 28, 120_000, 40_000])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_overflowing_adjoints_of_an_alignment_are_named(
    rng: torch.Generator, when: str, order: Any, budget: int
) -> None:
    x, weights = drawn(rng)
    pair = {"before": weights, "after": weights, when: overflowing(weights, "adjoints")}
    with pytest.raises(NonFinite, match=r"^adjoints: expected finite numbers, got \d"):
        leaky_rnn_kernel_alignment(
            x, **pair, rho=RHO, activation="linear", order=order, memory_budget=budget
        )


def test_finite_adjoints_whose_kernel_overflows_are_no_error(rng: torch.Generator) -> None:
    x, weights = drawn(rng)
    K = leaky_rnn_ntk(x, **{**weights, "readout": weights["readout"] * 1e25}, rho=RHO)
    assert K.isinf().any()


@pytest.mark.parametrize("budget", BUDGETS)
def test_finiteness_is_checked_once_per_call(
    rng: torch.Generator, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weights = drawn(rng)
    seen: Counter[str] = Counter()
    finite = checks.finite

    def count(name: str, value: Tensor) -> None:
        seen[name] += 1
        finite(name, value)

    monkeypatch.setattr(checks, "finite", count)
    leaky_rnn_ntk(x, x[:, 1:], **weights, rho=RHO, memory_budget=budget)
    assert seen == Counter([*weights, "x1", "x2"])
    seen.clear()
    leaky_rnn_kernel_alignment(x, before=weights, after=weights, rho=RHO, memory_budget=2 * budget)
    assert seen == Counter([*weights, *weights, "x"])
