"""The exact NTK of a leaky recurrent network by every method that torch and jax offer, in one table.

    python -m benchmarks peers ntk [--shapes 2AF sMNIST …] [--methods …] [--repeats 5] [--limit 120]

`ntk_methods.py` describes the methods of torch. jax (jacrev, then contraction) and neural-tangents (its contraction of
Jacobians, and its structured derivatives) run in an environment that is made on first use. Columns: median time, error
against this engine in fp64, and the peak of resident memory beside the result. Each method runs in a process of its
own. A method that would take longer than --limit seconds per call, or more than 12 GB, is left out; its row says so.
"""

from __future__ import annotations

import argparse

from benchmarks.arguments import duration
from benchmarks.markdown import heading, row
from benchmarks.peers.ntk_methods import METHODS
from benchmarks.peers.ntk_runs import IN_JAX, attempt
from benchmarks.suites.cases import SHAPES
from hpr.command_line import Parser, positive

ALL_METHODS = (*METHODS, *IN_JAX)
HEADING = heading(
    "shape", "rows", "method", "median ms", "times this engine", "relative error",
    "MiB beside the result",
)  # fmt: skip


def add_arguments(parser: Parser) -> None:
    """Which shapes and methods, and how long."""
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--methods", nargs="+", choices=ALL_METHODS, default=ALL_METHODS)
    parser.add_argument("--repeats", type=positive, default=5, help="timed calls (5)")
    parser.add_argument("--limit", type=duration, default=120.0, help="seconds per call (120)")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print a Markdown table."""
    print(HEADING)
    for name in arguments.shapes:
        shape = SHAPES[name]
        first = None
        for method in arguments.methods:
            found = attempt(method, shape, arguments.repeats, arguments.limit)
            if isinstance(found, str):
                print(row(name, shape.rows, method, found, "", "", ""), flush=True)
                continue
            first = found.median if first is None else first
            error = "" if found.error is None else f"{found.error:.1e}"
            times = f"{found.median / first:.1f}"
            cells = f"{found.median * 1e3:.1f}", times, error, f"{found.peak / 2**20:.0f}"
            print(row(name, shape.rows, method, *cells), flush=True)
