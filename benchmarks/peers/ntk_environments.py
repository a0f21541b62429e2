"""Folders with the packages of other methods, which are made on first use.

They lie beside `benchmarks/`, because a source distribution takes whatever lies in that folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The last versions with which all three implementations of neural-tangents run. Newer jax lacks what one of them calls.
JAX = (
    "neural-tangents==0.6.5", "jax==0.4.23", "jaxlib==0.4.23", "numpy==1.26.4", "scipy==1.12.0"
)  # fmt: skip
# With all that it needs beside the packages that are installed for this project.
CURVLINOPS = (
    "curvlinops-for-pytorch==3.0.1", "backpack-for-pytorch==1.7.1", "einops==0.8.2", "einconv==0.1.0",
    "linear_operator==0.6.1", "opt-einsum==3.4.0", "jaxtyping==0.3.11", "unfoldNd==0.2.3",
    "wadler-lindig==0.1.8", "tqdm==4.67.1",
)  # fmt: skip


def python_of_jax() -> str:
    """The Python that has jax and neural-tangents.

    Raises:
        RuntimeError: they cannot be installed.
    """
    folder = ROOT / ".venv-neural-tangents"
    python = folder / "bin" / "python"
    if not _complete(folder, JAX):
        _run([sys.executable, "-m", "venv", str(folder)], JAX)
        _run([str(python), "-m", "pip", "install", "--quiet", *JAX], JAX)
        _finish(folder, JAX)
    return str(python)


def folder_of_curvlinops() -> str:
    """A folder for `sys.path` that has curvlinops, so that it uses the torch that runs here.

    Raises:
        RuntimeError: it cannot be installed.
    """
    folder = ROOT / ".venv-curvlinops"
    if not _complete(folder, CURVLINOPS):
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        _run([*install, "--target", str(folder), *CURVLINOPS], CURVLINOPS)
        _finish(folder, CURVLINOPS)
    return str(folder)


def _complete(folder: Path, packages: tuple[str, ...]) -> bool:
    """Whether the folder has these versions; one that is unfinished or has others is removed."""
    stamp = folder / "packages.txt"
    if stamp.exists() and stamp.read_text().split() == [*packages]:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _run(command: list[str], packages: tuple[str, ...]) -> None:
    if subprocess.run(command).returncode:
        raise RuntimeError(f"expected to install {', '.join(packages)}")


def _finish(folder: Path, packages: tuple[str, ...]) -> None:
    (folder / "packages.txt").write_text("\n".join(packages))
