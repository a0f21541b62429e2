"""Trials of the paper's tasks: compiled, against NeuroGym's `Dataset`, in turns in one process.

    python -m benchmarks.peers.trials_table

Prints a Markdown table; each number is a median of nine rounds.
"""

from __future__ import annotations

from statistics import median

from benchmarks.markdown import heading, row
from benchmarks.suites.cases import BATCHES, DRAWS, trials
from benchmarks.suites.measure import in_turns
from hpr.tasks.paper import PAPER_TASKS


def main() -> None:
    """Print a Markdown table."""
    print(heading("task", "compiled, µs a batch of 32", "`neurogym.Dataset`, µs", "times as fast"))
    for name in PAPER_TASKS:
        ours, theirs = in_turns(trials(name))
        ratio = DRAWS * median(slow / fast for fast, slow in zip(ours, theirs, strict=True))
        compiled, streamed = (median(times) / BATCHES * 1e6 for times in (ours, theirs))
        print(row(name, f"{compiled / DRAWS:.1f}", f"{streamed:.0f}", f"{ratio:.0f}"), flush=True)


if __name__ == "__main__":
    main()
