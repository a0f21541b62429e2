"""The exact NTK of several networks by every method that torch and jax offer, in one table.

    python -m benchmarks peers ntk [--models perceptron GRU …] [--methods …] [--repeats 5] [--limit 120]

`ntk_models.py` has the networks, and `ntk_methods.py` describes the methods of torch. jax (jacrev, then contraction)
and neural-tangents (its three implementations) run in an environment that is made on first use, and so does curvlinops.
Every method runs in a process of its own with as many threads as torch takes by default. The methods beside this engine
are called with one, two and four examples first. Where these say that a call with all examples would take longer than
--limit seconds or 12 GB, the row has the forecast after "≈". A method with settings is measured by each, and its row
names the fastest.

Columns: the median time of a call; the median of its ratios to this engine, the two called in turns in one process (a
process of jax has no torch, so there the medians are divided); the error against this engine in fp64; the peak of
resident memory beside the result, over what it was after a call with one example. Timed calls stop after 30 seconds.
"""

from __future__ import annotations

import argparse

from torch import Tensor

from benchmarks.markdown import heading, row
from benchmarks.options import duration
from benchmarks.peers.ntk_models import MODELS
from benchmarks.peers.ntk_runs import (
    ALL_METHODS,
    OURS,
    Measurement,
    applies,
    attempt,
    error_of,
    exact_kernel,
)
from hpr.command_line import Parser, positive

# Further leaky networks are measured when they are named.
USUAL = ("perceptron", "CNN", "transformer", "GRU", "embedding", "2AF", "sMNIST")
HEADING = heading(
    "model", "rows", "method", "median ms", "times this engine", "relative error",
    "MiB beside the result",
)  # fmt: skip


def add_arguments(parser: Parser) -> None:
    """Which networks and methods, and how long."""
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(USUAL))
    parser.add_argument("--methods", nargs="+", choices=ALL_METHODS, default=list(ALL_METHODS))
    parser.add_argument("--repeats", type=positive, default=5, help="timed calls (5)")
    parser.add_argument("--limit", type=duration, default=120.0, help="seconds per call (120)")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print a Markdown table."""
    print(HEADING)
    for name in arguments.models:
        model = MODELS[name]
        exact = exact_kernel(model)
        ours = attempt(OURS, model, arguments.repeats, arguments.limit)
        for method in arguments.methods:
            if not applies(method, model):
                continue
            found = ours if method == OURS else attempt(
                method, model, arguments.repeats, arguments.limit
            )  # fmt: skip
            module, x = model.drawn()
            rows = module(x).numel()
            print(row(name, rows, *measured_cells(method, found, ours, exact)), flush=True)


def measured_cells(
    method: str, found: Measurement | str, ours: Measurement | str, exact: Tensor | None
) -> tuple[str, ...]:
    """The cells of a row after the model and its rows."""
    if isinstance(found, str):
        return method, found, "", "", ""
    named = f"{method}, {found.setting}" if found.setting else method
    about = "" if found.forecast_from is None else "≈ "
    ratio = found.ratio
    if ratio is None and isinstance(ours, Measurement):
        ratio = found.seconds / ours.seconds
    error = ""
    if exact is not None and method != "J Jᵀ alone":
        error = f"{error_of(found.kernel, exact):.1e}"
    return (
        named,
        f"{about}{found.seconds * 1e3:.1f}",
        "" if ratio is None else f"{about}{ratio:.1f}",
        error,
        f"{about}{found.peak / 2**20:.0f}",
    )
