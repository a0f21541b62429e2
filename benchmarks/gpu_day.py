"""All that is worth doing with a card in ten minutes, in the order of its worth, on a machine without a network.

    python -m benchmarks gpu-day [--out DIR] [--seconds 570]

Each stage is a process with a limit of its own: the GPU tests, the probes (`gpu-probes`), each launch beside its floor
and beside torch and cuDNN (`gpu`), and Figure 1 from start to end. After each stage the folder has its output, and
`day.json` and `day.md` hold all stages so far, so that a machine which is taken away leaves what was finished. A stage
that is stopped by its limit keeps what it had printed. Exits with 1 if a stage failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.markdown import heading, row
from benchmarks.options import duration
from hpr.command_line import Parser, path
from hpr.experiment.provenance import version_lines
from hpr.system.files import write_atomically


@dataclass(frozen=True)
class DayStage:
    """A command, the arguments of this Python, and the most seconds that it may take."""

    name: str
    arguments: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Ended:
    """How a stage ended: "done", "failed" or "out of time"; its seconds, its command, and its last line."""

    name: str
    status: str
    seconds: float
    command: str
    last_line: str


def _gpu_tests(*chosen: str) -> tuple[str, ...]:
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *chosen)


KERNELS = "tests/kernels/"
STAGES = (
    DayStage("what is here", ("-m", "torch.utils.collect_env"), 60),
    DayStage("recurrence against fp64", _gpu_tests(f"{KERNELS}test_recurrence_triton.py"), 120),
    DayStage("rounding", ("-m", "benchmarks", "gpu-probes", "--only", "rounding"), 60),
    DayStage("a fused iteration", _gpu_tests("tests/hpr/training/test_fused_step.py"), 120),
    DayStage(
        "training at the paper's sizes",
        _gpu_tests("tests/hpr/training/test_paper_sizes_on_a_card.py"),
        120,
    ),
    DayStage("launches of 2AF", ("-m", "benchmarks", "gpu", "--networks", "132"), 90),
    DayStage("programs", ("-m", "benchmarks", "gpu-probes", "--only", "programs"), 60),
    DayStage("precisions", ("-m", "benchmarks", "gpu-probes", "--only", "precisions"), 60),
    DayStage("contractions against fp64", _gpu_tests(f"{KERNELS}test_gram_triton.py"), 120),
    DayStage(
        "launches of sMNIST's sizes",
        ("-m", "benchmarks", "gpu", "--networks", "40", "--task", "sDigits", "--no-floors"),
        60,
    ),
    DayStage(
        "Figure 1",
        ("-m", "hpr.reproduce", "--figure", "1", "--device", "cuda", "--profile", "paper", "--out", "{out}/figure"),
        300,
    ),
    DayStage("all other GPU tests", _gpu_tests("tests"), 300),
)  # fmt: skip


def add_arguments(parser: Parser) -> None:
    """Where the results go, and for how long."""
    parser.add_argument("--out", type=path, default=Path("gpu_day"), help="folder (gpu_day)")
    parser.add_argument(
        "--seconds", type=duration, default=570.0, help="for all stages together (570)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run every stage, or say that there is no card."""
    import torch

    if not torch.cuda.is_available():
        print("benchmarks gpu-day: no CUDA device here, so nothing is measured")
        return 0
    return run_stages(STAGES, arguments.out, arguments.seconds, torch.cuda.get_device_name())


def run_stages(stages: Sequence[DayStage], out: Path, seconds: float, card: str) -> int:
    """Run stages one after the other until `seconds` are over; 1 if one failed."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    ended: list[Ended] = []
    for number, stage in enumerate(stages):
        left = end - time.monotonic()
        if left <= 0:
            break
        found = _run(stage, out / f"{number:02d}.txt", min(stage.limit, left), out)
        ended.append(found)
        print(f"{found.name}: {found.status} after {found.seconds:.0f} s", flush=True)
        _write(ended, [stage.name for stage in stages[number + 1 :]], out, card)
    return int(any(one.status == "failed" for one in ended))


def _run(stage: DayStage, log: Path, limit: float, out: Path) -> Ended:
    """Run one stage with its output in `log`, which is there also if the stage is stopped."""
    command = [sys.executable, *(word.replace("{out}", str(out)) for word in stage.arguments)]
    started = time.monotonic()
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=limit,
            )
            status = "done" if done.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "out of time"
    lines = log.read_text("utf-8", "replace").splitlines()
    shown = " ".join(["python", *stage.arguments])
    took = round(time.monotonic() - started, 1)
    return Ended(stage.name, status, took, shown, lines[-1] if lines else "")


def _write(ended: Sequence[Ended], left: Sequence[str], out: Path, card: str) -> None:
    """Write both summaries of what has ended and what is left."""
    summary = {
        "card": card,
        "versions": version_lines(),
        "stages": [asdict(one) for one in ended],
        "left": list(left),
    }
    write_atomically(out / "day.json", json.dumps(summary, indent=1).encode() + b"\n")
    lines = [f"# {card}", "", *(f"- {line}" for line in version_lines()), ""]
    lines.append(heading("stage", "ended", "seconds", "command", "last line"))
    for one in ended:
        last = one.last_line.replace("|", "/")
        lines.append(row(one.name, one.status, f"{one.seconds:.0f}", f"`{one.command}`", last))
    if left:
        lines += ["", f"Not begun: {', '.join(left)}."]
    for number, one in enumerate(ended):
        text = (out / f"{number:02d}.txt").read_text("utf-8", "replace").strip()
        lines += ["", f"## {one.name}", "", *(f"    {line}" for line in text.splitlines())]
    write_atomically(out / "day.md", "\n".join(lines).encode() + b"\n")
