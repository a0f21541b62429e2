"""How well a dry run foresees the time and memory of a sweep: ten sweeps are forecast and then run.

    python -m benchmarks forecast [--sweeps NAME …] [--scale 1] [--workers N]

Each sweep is forecast by `python -m hpr.run … --dry-run` and then run by the same command in a new folder. The actual
time is that of the whole command, and the actual memory is the most that a worker has held by its records. Exits with
1 if a time is not within 30 %. It takes some minutes, during which nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.markdown import heading, row
from benchmarks.options import duration
from hpr.command_line import Parser, positive

# A forecast is good if the actual time is within this share of it.
WITHIN = 0.3
# By name, the options of a sweep but the iterations, and its iterations.
SWEEPS = {
    "2AF": ("--task 2AF --rank 1 30 --seeds 12", 500),
    "DMS, three gains": ("--task DMS --gain 0.8 1.2 1.5 --seeds 8", 400),
    "CXT, 100 units": ("--task CXT --rank 1 10 --N 100 --seeds 20", 2000),
    "sDigits, one process": (
        "--task sDigits --task_version 1 --trials 200 --seeds 12 --workers 1",
        500,
    ),
    "600 units": ("--task 2AF --N 600 --seeds 6", 200),
    "short steps": ("--task 2AF --dt 20 --N 100 --seeds 8", 600),
    "a trajectory": ("--task 2AF --checkpoints 12 --seeds 8", 300),
    "four tasks": ("--task 2AF DMS CXT --rank 1 300 --seeds 6", 300),
    "two layers": (
        "--task student-teacher(d=100,kappa=2) --task_version 1 --model two_layer --seeds 40",
        3000,
    ),
    "cell types and low rank": (
        "--task DMS --connectivity cell_types dale svd --N 200 --seeds 8",
        600,
    ),
}


class Foretold(NamedTuple):
    """Seconds and bytes of a sweep, forecast and actual."""

    forecast: float
    actual: float
    forecast_memory: float
    actual_memory: float
    timing: float


def add_arguments(parser: Parser) -> None:
    """Which sweeps, how long, and with how many workers."""
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument(
        "--scale", type=duration, default=1.0, help="factor on all iterations (default: 1)"
    )
    parser.add_argument("--workers", type=positive, help="default: one per core")


def run(arguments: argparse.Namespace) -> int:
    """Forecast, run, and print the table."""
    print(
        heading(
            "sweep",
            "forecast s",
            "actual s",
            "actual/forecast",
            "forecast MB",
            "actual MB",
            "timed in s",
        )
    )
    missed = 0
    for name in arguments.sweeps:
        options, iterations = SWEEPS[name]
        words = options.split()
        words += ["--iterations", str(max(1, round(arguments.scale * iterations)))]
        if arguments.workers and "--workers" not in words:
            words += ["--workers", str(arguments.workers)]
        found = measured(words)
        ratio = found.actual / found.forecast
        missed += not 1 - WITHIN <= ratio <= 1 + WITHIN
        print(
            row(
                name,
                f"{found.forecast:.1f}",
                f"{found.actual:.1f}",
                f"{ratio:.2f}",
                f"{found.forecast_memory / 1e6:.0f}",
                f"{found.actual_memory / 1e6:.0f}",
                f"{found.timing:.1f}",
            ),
            flush=True,
        )
    print(f"\n{missed} of {len(arguments.sweeps)} beyond {100 * WITHIN:.0f} %")
    return 1 if missed else 0


def measured(words: list[str]) -> Foretold:
    """Forecast a sweep and run it.

    Raises:
        RuntimeError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [*words, "--device", "cpu", "--json", "--out", folder]
        told = _json([*command, "--dry-run"])
        started = time.perf_counter()
        _json(command)
        actual = time.perf_counter() - started
        records = [
            json.loads(path.read_text("utf-8")) for path in Path(folder, "runs").glob("*.json")
        ]
    return Foretold(
        told["seconds"],
        actual,
        told["worker_memory_bytes"],
        max(record["timings"]["peak_memory"] for record in records),
        told["timing_s"],
    )


def _json(words: list[str]) -> Any:
    child = subprocess.run(
        [sys.executable, "-m", "hpr.run", *words], capture_output=True, text=True
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
        raise RuntimeError(f"hpr.run {shlex.join(words)}: exit {child.returncode}, {last}")
    return json.loads(child.stdout)
