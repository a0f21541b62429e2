"""How good the choice of `order="auto"` is: every order's time at random shapes, beside the order that the plan chose.

    python -m benchmarks planner [--shapes 20] [--seed S] [--seconds 5] [--json FILE]

Shapes are drawn anew each time, or from --seed: T from 1 to 60, B from 1 to 200, N from 10 to 1,000, N_out from 1 to
20, all steps or the last as outputs. A shape is drawn again if its result would exceed a gigabyte, or if its planned
order would take longer than --seconds by its count of multiply-adds. Orders are timed in turns, so that other load
slows them alike; the smallest of several times counts. An order with four times the fewest multiply-adds is not timed.
Exits with 1 if a choice is more than 15 % slower than the best order.
"""

from __future__ import annotations

import argparse
import json
import random
from functools import partial
from pathlib import Path

import torch

from benchmarks.arguments import duration
from benchmarks.markdown import heading, row
from benchmarks.suites.cases import RHO, NetworkShape, draw_network
from benchmarks.suites.measure import seconds
from hpr.command_line import Parser, integer_between, path, positive
from hpr_kernels import FactoredJacobian, leaky_rnn, leaky_rnn_adjoints

# A choice that takes more times as long as the best order is a miss.
MISS = 1.15
# Bytes of the largest kernel or adjoints, and the budget that a contraction is given.
BUDGET = 1 << 30
# Multiply-adds per second that are assumed when a shape is drawn.
RATE = 5e10
ORDERS = ("hadamard", "propagate", "dense")
HEADING = heading(
    "T", "B", "N", "N_out", "outputs", *(f"{order} ms" for order in ORDERS), "chosen/best"
)


def add_arguments(parser: Parser) -> None:
    """How many shapes, of what size, from which seed."""
    parser.add_argument("--shapes", type=positive, default=20, help="number of shapes (20)")
    parser.add_argument(
        "--seed", type=integer_between(0, 2**32 - 1), help="default: a new one each time"
    )
    parser.add_argument(
        "--seconds", type=duration, default=5.0, help="longest order worth a shape (5)"
    )
    parser.add_argument("--json", type=path, help="append each shape's times to this file")


def run(arguments: argparse.Namespace) -> int:
    """Draw and measure, print a row per shape and the number of misses; 1 if there was a miss."""
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    rng = random.Random(seed)
    print(f"seed {seed}, {torch.get_num_threads()} threads")
    print(HEADING)
    misses = 0
    count = 0
    while count < arguments.shapes:
        shape = random_shape(rng)
        times = times_of_orders(shape, arguments.seconds)
        if times is None:
            continue
        count += 1
        ratio = times.pop("auto") / min(times.values())
        misses += ratio > MISS
        shown = [f"{times[order] * 1e3:.2f}" if order in times else "" for order in ORDERS]
        cells = shape.T, shape.B, shape.N, shape.N_out, shape.outputs
        print(row(*cells, *shown, f"{ratio:.2f}"), flush=True)
        if arguments.json:
            append(arguments.json, {**shape._asdict(), "times": times})
    print(f"{misses} of {count} choices more than {MISS - 1:.0%} slower than the best")
    return int(misses > 0)


def random_shape(rng: random.Random) -> NetworkShape:
    """Uniform over each range, N over that of its logarithm."""
    N = round(10 ** rng.uniform(1, 3))
    T, B, N_out = rng.randint(1, 60), rng.randint(1, 200), rng.randint(1, 20)
    return NetworkShape(T, B, 3, N_out, rng.choice(("all", "last")), N)


def times_of_orders(shape: NetworkShape, longest: float) -> dict[str, float] | None:
    """Seconds of each order worth timing, and of the plan's choice under "auto"; None for a shape that is too large."""
    if max(shape.rows**2 * 4, shape.rows * shape.T * shape.N * 4) > BUDGET:
        return None
    J = factored_jacobian(shape)
    plan = J.plan(memory_budget=BUDGET)
    if plan.costs[plan.order].multiply_adds > longest * RATE:
        return None
    least = min(cost.multiply_adds for cost in plan.costs.values())
    timed = [
        order
        for order, cost in plan.costs.items()
        if cost.multiply_adds <= 4 * least or order == plan.order
    ]
    times: dict[str, float] = {}
    spent = 0.0
    repeats = 0
    while repeats < 2 or (spent < 0.5 and repeats < 50):
        for order in timed:
            took = seconds(partial(J.gram, order=order, memory_budget=BUDGET))
            spent += took
            times[order] = min(took, times.get(order, took))
        repeats += 1
    return {**times, "auto": times[plan.order]}


def factored_jacobian(shape: NetworkShape) -> FactoredJacobian:
    """The Jacobian of a random network by its recurrent and input weights."""
    network = draw_network(shape)
    recurrent, readout = network.recurrent, network.readout
    rates = leaky_rnn(network.x, recurrent=recurrent, input=network.input, rho=RHO)
    adjoints = leaky_rnn_adjoints(
        rates, recurrent=recurrent, readout=readout, rho=RHO, outputs=shape.outputs
    )
    # z_s = [a_s, x_s] with a_0 = 0.
    before = torch.cat([torch.zeros_like(rates[:1]), rates[:-1]])
    inputs = torch.cat([before, network.x], -1).transpose(0, 1)  # [B, T, N + N_in]
    steps = range(shape.T) if shape.outputs == "all" else (shape.T - 1,)
    reach = tuple(t for t in steps for _ in range(shape.N_out))
    return FactoredJacobian(adjoints.mul_(1 - RHO), inputs, reach)


def append(file: Path, record: dict[str, object]) -> None:
    """Add a line of JSON to a file."""
    with file.open("a", encoding="utf-8") as lines:
        print(json.dumps(record), file=lines)
