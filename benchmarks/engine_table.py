"""The C kernels of the CPU beside torch and the peak of fused multiply-adds, in turns in one process.

    python -m benchmarks engine [--threads 2] [--rounds 9] [--only training ntk]

Each row is one piece of work by the C kernels and by torch (HPR_KERNELS_BACKEND=torch): median times, the median of
their ratios, and the rate of the C kernels as a share of the peak, which is measured in every round. FLOPs are those
that the work needs: with causality, and of a symmetric kernel only half.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.markdown import heading, row
from benchmarks.suites.backends import chosen_backend
from benchmarks.suites.calls import ntk_call, window_call
from benchmarks.suites.cases import SHAPES
from benchmarks.suites.measure import Call, in_turns
from benchmarks.suites.peak import ntk_flops, peak_call
from hpr.command_line import Parser, UsageError, positive
from hpr_kernels.native import library

COLUMNS = ("C kernels, ms", "torch, ms", "torch / C", "GFLOP/s", "share of the peak")
# Networks, units, task, batch: the pack of 40 at the sizes that the paper's figures have.
TRAINING: dict[str, dict[str, Any]] = {
    "training, 40 networks, N = 300, 2AF, batch 32": {},
    "training, N = 100": {"N": 100},
    "training, N = 297": {"N": 297},
    "training, 10 networks, N = 600": {"N": 600, "R": 10},
    "training, 4 networks, N = 1000": {"N": 1000, "R": 4},
    "training, 4 networks, sMNIST's sizes, batch 200": {"R": 4, "task": "pictures", "B": 200},
}
NTK = ("2AF", "B = 50", "T = 40", "hidden", "large", "sMNIST")


def add_arguments(parser: Parser) -> None:
    """How many threads and rounds, and which rows."""
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=9, help="rounds per row (9)")
    parser.add_argument(
        "--only", nargs="+", choices=("training", "ntk"), default=["training", "ntk"]
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print a Markdown table."""
    if library.obstacle():
        raise UsageError(f"expected C kernels to measure, got none: {library.obstacle()}")
    torch.set_num_threads(arguments.threads)
    peak, peak_flops = peak_call()
    print(heading(f"{library.isa()}, {arguments.threads} threads", *COLUMNS))
    for name, make in work_of(arguments.only):
        (ours_call, flops), (theirs_call, _) = by("native", make), by("torch", make)
        calls = [peak, ours_call, theirs_call]
        peaks, ours, theirs = in_turns(calls, arguments.rounds)
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        share = statistics.median(
            flops / a / (peak_flops / p) for a, p in zip(ours, peaks, strict=True)
        )
        times = (f"{statistics.median(turns) * 1e3:.2f}" for turns in (ours, theirs))
        rate = flops / statistics.median(ours) / 1e9
        print(row(name, *times, f"{ratio:.2f}", f"{rate:.0f}", f"{share:.0%}"), flush=True)
    print(f"\nThe peak: {peak_flops / statistics.median(peaks) / 1e9:.0f} GFLOP/s.")


def work_of(kinds: list[str]) -> Iterator[tuple[str, Callable[[], tuple[Call, float]]]]:
    """Name of each row, and what makes its call and counts its FLOPs."""
    if "training" in kinds:
        for name, options in TRAINING.items():
            yield name, partial(window_call, **options)
    if "ntk" in kinds:
        for name in NTK:
            yield f"NTK, {name}", partial(_ntk, name)


def _ntk(name: str) -> tuple[Call, float]:
    return ntk_call(SHAPES[name]), ntk_flops(SHAPES[name])


def by(backend: str, make: Callable[[], tuple[Call, float]]) -> tuple[Call, float]:
    """What `make` makes, made and called with HPR_KERNELS_BACKEND set."""
    with chosen_backend(backend):
        call, flops = make()

    def chosen() -> object:
        with chosen_backend(backend):
            return call()

    return chosen, flops
