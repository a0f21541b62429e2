"""What produced a record: versions, device, engine, and the commit of the source tree."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpr import __version__
from hpr.system.devices import may_have_card

if TYPE_CHECKING:
    import torch

# The distributions whose versions a record holds.
DISTRIBUTIONS = ("hpr-richlazy", "torch", "triton", "numpy", "scipy", "neurogym")
# The environment variables whose values a record holds: they choose kernels, threads and how sums round.
VARIABLES = (
    "HPR_KERNELS_BACKEND", "HPR_KERNELS_ISA", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "MKL_CBWR", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # fmt: skip


def provenance(device: torch.device, engine: str) -> dict[str, Any]:
    """What produced a record: versions, device, engine, machine, environment, git commit of this source tree.

    The commit is None outside a checkout.

    The engine is what trained: "native" (C kernels, which give the same weights on every CPU and any number of
    threads), "triton" or "torch".
    """
    # `version_lines` does without torch, whose import takes seconds.
    import torch

    from hpr_kernels.internal import available_cores

    cuda = device.type == "cuda"
    return {
        "versions": versions(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({platform.machine()})",
        "engine": engine,
        # Sums over kernels may round otherwise with another number of threads.
        "threads": torch.get_num_threads(),
        "cores": available_cores(),
        "machine": machine(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "git": git_commit(),
    }


@cache
def machine() -> dict[str, Any]:
    """The system, the processor's name and the bytes of memory of this machine; None where they are unknown."""
    processor = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = None
    return {
        "system": platform.platform(),
        "processor": (names or [processor])[0] or None,
        "memory": memory,
    }


class Meter:
    """Wall and CPU seconds since it was made, for the timings of a record."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def spent(self) -> tuple[float, float]:
        """Wall and CPU seconds until now. CPU seconds are those of all threads of this process, whatever they did."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def as_timings(name: str, wall: float, cpu: float) -> dict[str, float]:
    """Seconds as a record's timings have them: `<name>_s` and `<name>_cpu_s`."""
    return {f"{name}_s": round(wall, 3), f"{name}_cpu_s": round(cpu, 3)}


def whereabouts(device: torch.device) -> dict[str, Any]:
    """For the timings of a record, the host and the most memory that this process has held since its start.

    `peak_memory` is in bytes of the machine's memory. On a card, `peak_card_memory` is in bytes that torch allocated.
    """
    found: dict[str, Any] = {"host": platform.node()}
    try:
        import resource
    except ImportError:
        # This system is no Unix.
        pass
    else:
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        found["peak_memory"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if device.type == "cuda":
        import torch

        found["peak_card_memory"] = torch.cuda.max_memory_allocated(device)
    return found


def versions() -> dict[str, str]:
    """The versions of Python and of those `DISTRIBUTIONS` that are installed, by their metadata."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def version_lines() -> list[str]:
    """What a report of a bug needs, a line each; versions and commit are those of a record made here and now."""
    found = versions()
    cuda = (
        "driver, and a build of torch for it"
        if may_have_card()
        else "no driver, or no build of torch for it"
    )
    return [
        f"hpr {__version__}",
        *(f"{name} {found.get(name, 'not installed')}" for name in ("python", *DISTRIBUTIONS)),
        f"platform {platform.platform()}",
        f"CUDA {cuda}",
        f"commit {git_commit() or 'unknown: not a git checkout'}",
    ]


@cache
def git_commit() -> str | None:
    """The commit of this source tree, `-dirty` where tracked files differ; None where it isn't tracked by git."""
    here = Path(__file__)
    # Another repository may be named in the environment. `git describe --dirty` would rewrite the index, whatever
    # the locks; `git status` asks a monitor of the repository's own, which is a program to be run.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    git = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false"]
    found = []
    for command in (
        ["ls-files", "--error-unmatch", here.name],
        ["rev-parse", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no"],
    ):
        try:
            done = subprocess.run(
                [*git, *command],
                cwd=here.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        found.append(done.stdout.decode("utf-8", "replace").strip())
    return f"{found[1]}-dirty" if found[2] else found[1]
