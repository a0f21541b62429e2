"""What produced a record: versions, device, engine, and the commit of the source tree."""

from __future__ import annotations

import os
import platform
import subprocess
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


def provenance(device: torch.device, engine: str) -> dict[str, Any]:
    """What produced a record: versions, device, engine, git commit of this source tree (None outside a checkout).

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
        "git": git_commit(),
    }


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
