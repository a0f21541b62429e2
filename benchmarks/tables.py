"""Measure every comparison now and write docs/benchmarks.md, with the machine, the versions and the date.

    python -m benchmarks tables [--models perceptron GRU …] [--seconds 1] [--out docs/benchmarks.md]

It runs the commands of `benchmarks/peers/` and the planner, one after another, and keeps what they print. The guards
come from what `asv run --bench track_` has stored for this machine. A section that fails says so, the others are
written, and the exit status is 1. It takes some minutes, during which nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch
from asv.machine import Machine

from benchmarks.gate import RESULTS, ROOT
from benchmarks.guards_table import guards_section
from benchmarks.markdown import heading, row
from benchmarks.options import duration
from benchmarks.peers.ntk_environments import CURVLINOPS, JAX
from benchmarks.peers.ntk_models import MODELS
from benchmarks.peers.ntk_table import USUAL
from hpr.command_line import Parser, UsageError, path

PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("torch", "triton", "numpy", "neurogym")


class Section(NamedTuple):
    """A command: its arguments after `python`, and what is kept of its output."""

    title: str
    text: str
    arguments: Sequence[str]
    # Whether the command's table is kept, or else the lines around it.
    table: bool = True
    # Exit statuses that are no failure.
    statuses: tuple[int, ...] = (0,)

    @property
    def preface(self) -> str:
        """The title, the text and the command as the page has them."""
        return f"## {self.title}\n\n{self.text} `python {shlex.join(self.arguments)}`\n"


def sections(models: Sequence[str], longest: float) -> list[Section]:
    """Everything that is measured now; `longest` is the seconds of the planner's longest order."""
    return [
        Section(
            "The exact NTK",
            "Several networks by every method that torch and jax offer. 2AF and sMNIST are the paper's recurrent "
            "network. Each method runs in a process of its own and is timed there in turns with this engine; jax is "
            "timed alone. A time after ≈ is a forecast from the first examples. Errors are against fp64.",
            ["-m", "benchmarks", "peers", "ntk", "--models", *models],
        ),
        Section(
            "Training",
            "One iteration of SGD with momentum for a whole pack, on trials drawn beforehand. Methods that train one "
            "network at a time are timed on a few networks, and their time is scaled.",
            ["-m", "benchmarks", "peers", "training"],
        ),
        Section(
            "The C kernels",
            "The C kernels of the CPU beside torch, and their share of the peak of fused multiply-adds, which is "
            "measured in every round.",
            ["-m", "benchmarks", "engine"],
        ),
        Section(
            "Trials",
            "Drawing a batch of 32 trials of the paper's NeuroGym tasks.",
            ["-m", "benchmarks", "peers", "tasks"],
        ),
        Section(
            "The planner",
            'Every order of contraction at random shapes, compared with the one that `order="auto"` takes.',
            ["-m", "benchmarks", "planner", "--seconds", f"{longest:g}"],
            table=False,
            # The planner exits with 1 where it has found a bad choice.
            statuses=(0, 1),
        ),
    ]


def add_arguments(parser: Parser) -> None:
    """What is measured, and where it is written."""
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(USUAL))
    parser.add_argument(
        "--seconds", type=duration, default=1.0, help="longest order of the planner's shapes (1)"
    )
    parser.add_argument("--out", type=path, default=PAGE)
    parser.add_argument("--results", type=path, default=RESULTS, help="asv's results_dir")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and write the page."""
    if not arguments.out.parent.is_dir():
        raise UsageError(f"--out: expected a file in a folder that exists, got {arguments.out}")
    chosen = sections(arguments.models, arguments.seconds)
    return write(arguments.out, chosen, arguments.results)


def write(out: Path, chosen: Sequence[Section], results: Path) -> int:
    """Write the whole file; 1 if a section failed, else 0."""
    parts = [header()]
    failed = 0
    for section in chosen:
        print(f"tables: {section.title}", flush=True)
        try:
            found = output_of(section)
        except RuntimeError as error:
            failed = 1
            found = f"**Failed**: {error}"
            print(f"tables: {section.title} failed: {error}", file=sys.stderr)
        parts.append(f"{section.preface}\n{found}\n")
    parts.append(guards_section(results))
    out.write_text("\n".join(parts), encoding="utf-8")
    return failed


def header() -> str:
    """The title, and a table of when, at which commit and on what the page was measured."""
    now = datetime.now(timezone.utc)
    here = Machine.get_defaults()
    memory = f"{int(here['ram']) / 2**30:.0f} GiB" if here["ram"] else "memory unknown"
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    table = [
        heading("", ""),
        row("date", f"{now:%Y-%m-%d %H:%M} UTC"),
        row("commit", _commit()),
        row("processor", f"{here['cpu'] or 'unknown'} ({here['arch']}), {os.cpu_count()} cores"),
        row("memory", memory),
        row("GPU", card),
        row("threads of torch", torch.get_num_threads()),
        row("Python", platform.python_version()),
        *(row(name, _version(name)) for name in PACKAGES),
        row("the peers' packages, in environments of their own", ", ".join((*JAX, CURVLINOPS[0]))),
    ]
    return (
        "# Benchmarks\n\nThis file is generated: `python -m benchmarks tables` writes all of it.\n\n"
        + "\n".join(table)
        + "\n"
    )


def output_of(section: Section) -> str:
    """The lines that a section keeps of what its command prints.

    Raises:
        RuntimeError: the command failed, or printed no such line.
    """
    child = subprocess.run(
        [sys.executable, *section.arguments], cwd=ROOT, capture_output=True, text=True
    )
    lines = child.stdout.splitlines()
    kept = [line for line in lines if line.startswith("|") == section.table and line]
    if child.returncode not in section.statuses or not kept or "Traceback" in child.stderr:
        words = child.stderr.strip().splitlines()
        raise RuntimeError(
            f"exit {child.returncode}, {words[-1] if words else 'nothing on standard error'}"
        )
    return "\n".join(kept if section.table else [f"- {line}" for line in kept])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not here"


def _commit() -> str:
    def git(*arguments: str) -> str:
        child = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        if child.returncode:
            raise OSError
        return child.stdout.strip()

    try:
        commit = git("rev-parse", "--short=8", "HEAD")
        # The page, which this command writes, is no part of what it measures.
        changed = git("status", "--porcelain", "--", "hpr", "kernels", "benchmarks")
    except OSError:
        return "unknown"
    return f"{commit}, with changes" if changed else commit
