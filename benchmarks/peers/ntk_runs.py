"""Runs one method of the exact NTK in a process of its own, or says why it does not run."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.ntk_methods import METHODS
from benchmarks.suites.calls import ntk_call
from benchmarks.suites.cases import RHO, NetworkShape, draw_network
from benchmarks.suites.measure import seconds
from hpr_kernels.testing import relative_error

# Packages of the environment in which jax and neural-tangents run.
NEEDS = ("neural-tangents==0.6.5", "jax==0.4.30", "jaxlib==0.4.30")
# Methods of that environment, by the names that its script knows.
IN_JAX = {
    "jax jacrev": "JACREV",
    "neural-tangents Jacobians": "JACOBIAN_CONTRACTION",
    "neural-tangents structured": "STRUCTURED_DERIVATIVES",
}
# Kernels of more rows are not compared with one in fp64.
MOST_ROWS = 4000
# A method that needs more bytes is left out.
MOST_BYTES = 12e9
# Multiply-adds per second that a method is assumed to reach, to leave out what would take too long: far fewer than a
# matrix product reaches.
SLOWEST = {
    "J Jᵀ alone": 5e10,
    "torch.func jacrev": 2e10,
    "torch.func NTK-vector": 1e10,
    "the authors' loop": 1.5e9,
    "jax jacrev": 2e10,
    "neural-tangents Jacobians": 3e10,
    "neural-tangents structured": 8e8,
}


class Measurement(NamedTuple):
    """Median seconds of a call, its peak of memory in bytes, and the kernel's relative error where it is known."""

    median: float
    peak: float
    error: float | None


def attempt(method: str, shape: NetworkShape, repeats: int, limit: float) -> Measurement | str:
    """What was measured, or why nothing was; `limit` is the seconds that a call may take."""
    expected, memory = forecast(method, shape)
    if expected > limit or memory > MOST_BYTES:
        return f"left out: about {expected:.0f} s, {memory / 1e9:.0f} GB"
    repeats = repeats if expected < 5 else 1
    if method in IN_JAX:
        try:
            return measure_in_jax(IN_JAX[method], shape, repeats)
        except RuntimeError as failed:
            return f"failed: {failed}"
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=measure_here, args=(method, shape, repeats, results))
    child.start()
    child.join()
    return f"failed: exit {child.exitcode}" if child.exitcode else results.get()


def forecast(method: str, shape: NetworkShape) -> tuple[float, float]:
    """Seconds and bytes that a method will need, roughly."""
    if method == "this engine":
        return 0.0, 0.0
    M, P, N, T, B = float(shape.rows), shape.weights, shape.N, shape.T, shape.B
    # Reverse sweeps of all rows, and the product of the Jacobian with its transpose.
    sweeps, product = M * T * P, M**2 * P
    memory = 2 * 4.0 * M * P
    if method == "torch.func NTK-vector":
        work, memory = M * B * T * N**2, 4.0 * M * B * N * T
    elif method == "J Jᵀ alone":
        work, memory = product, 4.0 * M * P
    elif method == "the authors' loop":
        # Each cat copies the rows before it.
        work = sweeps + product / 2
    else:
        work = sweeps + product
        if method == "torch.func jacrev":
            memory = 3 * 4.0 * M * P
    return work / SLOWEST[method], memory


def measure_here(
    method: str, shape: NetworkShape, repeats: int, results: multiprocessing.Queue
) -> None:
    """Runs in a child process: puts the method's measurement in `results`.

    The peak is that of resident memory over what it was before the first call, less the kernel.
    """
    call = METHODS[method](shape)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    K = call()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024 - K.nbytes
    median = statistics.median(seconds(call) for _ in range(repeats))
    error = None if method == "J Jᵀ alone" else error_of(K, shape)
    results.put(Measurement(median, peak, error))


def measure_in_jax(implementation: str, shape: NetworkShape, repeats: int) -> Measurement:
    """Measure jax or neural-tangents by `ntk_neural_tangents.py`, in their own environment.

    Raises:
        RuntimeError: it failed, or cannot be installed.
    """
    x, W, U, w = (value.numpy() for value in draw_network(shape))
    script = str(Path(__file__).with_name("ntk_neural_tangents.py"))
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/given.npz", f"{folder}/kernel.npy"]
        np.savez(
            paths[0], x=x, W=W, U=U, w=w, rho=RHO, last=shape.outputs == "last", readout=shape.readout
        )  # fmt: skip
        child = subprocess.run(
            [environment(), script, *paths, implementation, str(repeats)],
            capture_output=True, text=True,
        )  # fmt: skip
        if child.returncode:
            lines = child.stderr.strip().splitlines() or ["nothing on standard error"]
            raise RuntimeError(
                next((line for line in reversed(lines) if "Error" in line), lines[-1])
            )
        median, peak = (float(word) for word in child.stdout.split())
        error = error_of(torch.from_numpy(np.load(paths[1])), shape)
    return Measurement(median, peak, error)


def error_of(K: Tensor, shape: NetworkShape) -> float | None:
    """The relative error of a kernel against this engine's in fp64, which the tests compare with `torch.func`."""
    if shape.rows > MOST_ROWS:
        return None
    return relative_error(K, ntk_call(shape, dtype=torch.float64)())


def environment() -> str:
    """The Python that has jax and neural-tangents; its environment is made where it is missing.

    It lies beside `benchmarks/`, because a source distribution takes whatever lies in that folder.
    """
    folder = Path(__file__).parents[2] / ".venv-neural-tangents"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        if subprocess.run([str(python), "-m", "pip", "install", "--quiet", *NEEDS]).returncode:
            # Otherwise an unfinished environment would be taken for a finished one the next time.
            shutil.rmtree(folder)
            raise RuntimeError(f"expected to install {', '.join(NEEDS)}")
    return str(python)
