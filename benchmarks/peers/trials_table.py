"""Trials of the paper's tasks, compiled and by NeuroGym's `Dataset`, in turns in one process.

    python -m benchmarks peers tasks

Prints a Markdown table; each number is a median of nine rounds.
"""

from __future__ import annotations

import argparse
from statistics import median

from benchmarks.markdown import heading, row
from benchmarks.suites.calls import BATCHES, DRAWS, trial_calls
from benchmarks.suites.measure import in_turns
from hpr.command_line import Parser
from hpr.tasks.paper import PAPER_TASKS

HEADING = heading("task", "compiled, µs per batch of 32", "`neurogym.Dataset`, µs", "ratio")


def add_arguments(parser: Parser) -> None:
    """There are none."""


def run(_: argparse.Namespace) -> None:
    """Measure, and print a Markdown table."""
    print(HEADING)
    for name in PAPER_TASKS:
        ours, theirs = in_turns(trial_calls(name))
        ratio = DRAWS * median(slow / fast for fast, slow in zip(ours, theirs, strict=True))
        compiled, streamed = (median(times) / BATCHES * 1e6 for times in (ours, theirs))
        print(row(name, f"{compiled / DRAWS:.1f}", f"{streamed:.0f}", f"{ratio:.0f}"), flush=True)
