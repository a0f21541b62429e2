"""Write docs/benchmarks.md: every comparison as it is measured now, with the machine, the versions and the date.

    python -m benchmarks.tables [--shapes 2AF sMNIST] [--seconds 1] [--out docs/benchmarks.md]

Runs the scripts of `benchmarks/peers/` and the planner's, one after another, and keeps what they print; takes the
guards from what `asv run --bench track_` has stored for this machine. A section that fails says so, the others are
written, and the exit status is 1. Some minutes; nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch
from asv.machine import Machine
from asv.results import Results, iter_results

from benchmarks.gate import FLOORS, RESULTS, ROOT, values
from benchmarks.markdown import heading, row
from benchmarks.peers.ntk_methods import CASES, NEEDS
from hpr.command_line import Parser, path

PACKAGES = ("torch", "triton", "numpy", "neurogym")
# What asv files of a machine; its name may be chosen, and its kernel is updated.
MACHINE = ("cpu", "arch", "num_cpu", "ram")


class Section(NamedTuple):
    """A script: its arguments after `python`, and what is kept of its output."""

    title: str
    text: str
    arguments: Sequence[str]
    # The script's table, or else what it says around it.
    table: bool = True
    # A script may say by its status that it has found something.
    statuses: tuple[int, ...] = (0,)


def sections(shapes: Sequence[str], seconds: float) -> list[Section]:
    """Everything that is measured now."""
    return [
        Section(
            "The exact NTK",
            "One network of 300 units by every way that torch and jax offer; the error is against fp64.",
            ["-m", "benchmarks.peers.ntk_methods", "--shapes", *shapes],
        ),
        Section(
            "Training",
            "One iteration of SGD with momentum of a whole pack, on trials that are there. The ways that train one "
            "network at a time are timed on a few, and their time is scaled.",
            ["-m", "benchmarks.peers.training_methods"],
        ),
        Section(
            "Trials",
            "A batch of 32 trials of the paper's NeuroGym tasks.",
            ["-m", "benchmarks.peers.trials_table"],
        ),
        Section(
            "The planner",
            'Every order of contraction at random shapes, against the one that `order="auto"` takes.',
            ["-m", "benchmarks.planner", "--seconds", f"{seconds:g}"],
            table=False,
            statuses=(0, 1),
        ),
    ]


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, write."""
    parser = Parser(prog="tables", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=list(CASES), default=["2AF", "sMNIST"])
    parser.add_argument(
        "--seconds", type=_positive, default=1.0, help="longest order of the planner's shapes"
    )
    parser.add_argument("--out", type=path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--results", type=path, default=RESULTS, help="asv's results_dir")
    arguments = parser.parse_args(argv)
    if not arguments.out.parent.is_dir():
        parser.error(f"--out: expected a file in a folder that exists, got {arguments.out}")
    chosen = sections(arguments.shapes, arguments.seconds)
    return write(arguments.out, chosen, arguments.results)


def write(out: Path, chosen: Sequence[Section], results: Path) -> int:
    """Write the whole file; 1 if a section failed, else 0."""
    parts = [header()]
    failed = 0
    for section in chosen:
        print(f"tables: {section.title}", flush=True)
        command = f"`python {shlex.join(section.arguments)}`"
        try:
            found = run(section)
        except RuntimeError as error:
            failed = 1
            found = f"**Failed**: {error}"
            print(f"tables: {section.title} failed: {error}", file=sys.stderr)
        parts.append(f"## {section.title}\n\n{section.text} {command}\n\n{found}\n")
    parts.append(guards(results))
    out.write_text("\n".join(parts), encoding="utf-8")
    return failed


def header() -> str:
    """What made the file, when, of which commit, and on what."""
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
        row("beside them, in an environment of their own", ", ".join(NEEDS)),
    ]
    return (
        "# Benchmarks\n\nThis file is generated: `python -m benchmarks.tables` writes all of it.\n\n"
        + "\n".join(table)
        + "\n"
    )


def run(section: Section) -> str:
    """What a section's script printed, of it what the section keeps.

    Raises:
        RuntimeError: it failed, or printed nothing of the kind.
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


def guards(folder: Path) -> str:
    """Every `track_` result of the newest commit that asv has measured on this machine, beside its floor."""
    title = "## The guards\n\nWhat `asv run --bench track_` measured"
    found = newest(folder)
    if found is None:
        return f"{title}: nothing on this machine yet.\n"
    floors = json.loads(FLOORS.read_text(encoding="utf-8"))
    rows = [
        row(
            f"`{label}`",
            _number(value),
            _number(floors[label]["at_most"]) if label in floors else "",
        )
        for label, value, _ in values(found)
        if ".track_" in label
    ]
    day = datetime.fromtimestamp(max(found.started_at.values()) / 1e3, timezone.utc)
    return (
        f"{title} on {day:%Y-%m-%d} at commit {found.commit_hash[:8]}; lower is better, and "
        "`python -m benchmarks.gate` fails above the last column.\n\n"
        + "\n".join([heading("guard", "value", "at most"), *rows])
        + "\n"
    )


def newest(folder: Path) -> Results | None:
    """The last result with guards of the newest commit on this machine."""
    here = Machine.get_defaults()

    def measured() -> Iterator[Results]:
        for result in iter_results(str(folder)):
            guarded = any(".track_" in name for name in result.get_all_result_keys())
            if guarded and all(result.params.get(key) == here[key] for key in MACHINE):
                yield result

    return max(
        measured(),
        key=lambda result: (result.date, max(result.started_at.values())),
        default=None,
    )


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "failed" if value is None else "skipped"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


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
        # What this command writes is not what it measures.
        changed = git("status", "--porcelain", "--", "hpr", "kernels", "benchmarks")
    except OSError:
        return "unknown"
    return f"{commit}, with changes" if changed else commit


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
