"""How good the choice of `order="auto"` is: every order's time on random shapes, and what the plan took.

    python -m benchmarks.planner [--shapes 20] [--seed S] [--seconds 5] [--json FILE]

Shapes are drawn afresh each time (or from --seed): T from 1 to 60, B from 1 to 200, N from 10 to 1,000, N_out from 1 to
20, all steps or the last as outputs; those whose result would not fit a gigabyte, or whose planned order would take
longer than --seconds by its count of multiply-adds, are drawn again. Orders are timed in turn, so that a slow moment of
the machine meets all of them; the smallest of several times counts. An order that the count puts four times behind
the best is not run. Exits with 1 if a choice is more than 15 % slower than the best order.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict, dataclass

import torch

from hpr.command_line import Parser, path
from hpr_kernels import FactoredJacobian
from hpr_kernels.checks import GROUPS
from hpr_kernels.tangent.network import NetworkPack

TOLERANCE = 1.15
# Multiply-adds a second that are taken for granted when a shape is drawn.
RATE = 5e10


@dataclass(frozen=True)
class Case:
    """One shape."""

    T: int
    B: int
    N: int
    N_out: int
    outputs: str

    @property
    def rows(self) -> int:
        """Rows of the kernel."""
        return self.B * self.N_out * (self.T if self.outputs == "all" else 1)


def draw(rng: random.Random) -> Case:
    """Uniform over each range, N over its logarithm."""
    N = round(10 ** rng.uniform(1, 3))
    return Case(
        rng.randint(1, 60), rng.randint(1, 200), N, rng.randint(1, 20), rng.choice(("all", "last"))
    )


def measure(case: Case, seconds: float) -> dict[str, float] | None:
    """Seconds of each order worth timing, and the plan's choice under "auto"; None: too large."""
    if case.rows**2 * 4 > 1 << 30 or case.rows * case.T * case.N * 4 > 1 << 30:
        return None
    torch.manual_seed(0)
    W, U, w = (
        torch.randn(1, case.N, columns) / columns**0.5 for columns in (case.N, 3, case.N_out)
    )
    outputs = case.outputs
    network = NetworkPack(W, U, w.mT, 0.368, "relu", outputs, GROUPS, True)  # type: ignore[arg-type]
    x = torch.randn(1, case.T, case.B, 3)
    with torch.no_grad():
        factors = network.block(x).factors
    assert factors is not None
    J = FactoredJacobian(factors.g, factors.z, factors.reach[0])
    budget = 1 << 30
    plan = J.plan(memory_budget=budget)
    least = min(cost.multiply_adds for cost in plan.costs.values())
    if plan.costs[plan.order].multiply_adds > seconds * RATE:
        return None
    times: dict[str, float] = {}
    spent = 0.0
    repeats = 0
    while repeats < 2 or (spent < 0.5 and repeats < 50):
        for order, cost in plan.costs.items():
            if cost.multiply_adds > 4 * least and order != plan.order:
                continue
            started = time.perf_counter()
            J.gram(order=order, memory_budget=budget)
            took = time.perf_counter() - started
            spent += took
            times[order] = min(took, times.get(order, took))
        repeats += 1
    return {**times, "auto": times[plan.order]}


def main() -> int:
    """Draw, measure, print a row a shape and the misses."""
    parser = Parser(prog="planner", description="The planner's choice against the best order.")
    parser.add_argument("--shapes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=5.0, help="longest order worth a shape")
    parser.add_argument("--json", type=path, help="append each shape's times here")
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    rng = random.Random(seed)
    print(f"seed {seed}, {torch.get_num_threads()} threads")
    print("| T | B | N | N_out | outputs | hadamard ms | propagate ms | dense ms | chosen/best |")
    print("|---|---|---|---|---|---|---|---|---|")
    misses = 0
    count = 0
    while count < arguments.shapes:
        case = draw(rng)
        times = measure(case, arguments.seconds)
        if times is None:
            continue
        count += 1
        ratio = times.pop("auto") / min(times.values())
        misses += ratio > TOLERANCE
        shown = " | ".join(
            f"{times[order] * 1e3:.2f}" if order in times else ""
            for order in ("hadamard", "propagate", "dense")
        )
        print(
            f"| {case.T} | {case.B} | {case.N} | {case.N_out} | {case.outputs} | {shown} | {ratio:.2f} |",
            flush=True,
        )
        if arguments.json:
            with open(arguments.json, "a", encoding="utf-8") as file:
                print(json.dumps({**asdict(case), "times": times}), file=file)
    print(f"{misses} of {count} choices more than {TOLERANCE - 1:.0%} slower than the best")
    return int(misses > 0)


if __name__ == "__main__":
    sys.exit(main())
