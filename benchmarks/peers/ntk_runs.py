"""Measures one method of the exact NTK in a process of its own."""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.ntk_environments import ROOT, folder_of_curvlinops, python_of_jax
from benchmarks.peers.ntk_methods import METHODS
from benchmarks.peers.ntk_models import Model
from benchmarks.peers.ntk_stages import repeats_within, staged, timed
from hpr_kernels.testing import relative_error

# Methods of jax, by the ways that `ntk_jax.py` knows; the fastest is what the table has.
IN_JAX = {
    "jax jacrev": {"1 at a time": "jacrev", "all at once": "jacrev of all"},
    "neural-tangents Jacobians": {"": "JACOBIAN_CONTRACTION"},
    "neural-tangents NTK-vector": {"": "NTK_VECTOR_PRODUCTS"},
    "neural-tangents structured": {"": "STRUCTURED_DERIVATIVES"},
}
ALL_METHODS = (*METHODS, *IN_JAX)
OURS = "this engine"
# Kernels of more rows are not compared with one in fp64.
MOST_ROWS = 4000


class Measurement(NamedTuple):
    """A method at its fastest setting."""

    # Seconds of a call: a median, or a forecast from `forecast_from` examples.
    seconds: float
    # Bytes of the peak of memory beside the kernel.
    peak: float
    # Times as long as this engine, in turns in one process; None where the two did not share one.
    ratio: float | None
    # The kernel that was computed, of all examples or of the first few.
    kernel: Tensor
    # The number of examples measured where that is not all of them.
    forecast_from: int | None = None
    setting: str = ""


def applies(method: str, model: Model) -> bool:
    """Whether a method is for networks of this kind."""
    return method in IN_JAX or model.shape is not None or not METHODS[method].leaky


def attempt(method: str, model: Model, repeats: int, limit: float) -> Measurement | str:
    """What was measured by the fastest setting, or why nothing was; `limit` is the seconds that a call may take."""
    found = []
    # Without its times in full there would be nothing to compare with. Its memory has a budget.
    limit = math.inf if method == OURS else limit
    try:
        if method in IN_JAX:
            for setting, way in IN_JAX[method].items():
                one = measure_in_jax(way, model, repeats, limit)
                found.append(one._replace(setting=setting))
        else:
            for number in METHODS[method].settings:
                one = measure_in_torch(method, number, model, repeats, limit)
                found.append(one._replace(setting=setting_of(method, number)))
    except RuntimeError as failed:
        return f"failed: {failed}"
    return min(found, key=lambda one: one.seconds)


def setting_of(method: str, number: int | None) -> str:
    """A setting in words; the only one of a method needs none."""
    if len(METHODS[method].settings) == 1:
        return ""
    return "all at once" if number is None else f"{number} at a time"


def measure_in_torch(
    method: str, setting: int | None, model: Model, repeats: int, limit: float
) -> Measurement:
    """Measure a method of torch in a child process.

    Raises:
        RuntimeError: it failed, or cannot be installed.
    """
    if method == "curvlinops":
        folder_of_curvlinops()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/kernel.npy"
        child = context.Process(
            target=measure_here, args=(method, setting, model, repeats, limit, path, results)
        )
        child.start()
        child.join()
        if child.exitcode:
            raise RuntimeError(f"exit {child.exitcode}")
        examples, seconds, peak, ratio = results.get()
        return measurement(model, examples, seconds, peak, ratio, path)


def measure_here(
    method: str,
    setting: int | None,
    model: Model,
    repeats: int,
    limit: float,
    path: str,
    results: multiprocessing.Queue,
) -> None:
    """Runs in a child process: writes the kernel, and puts the other numbers in `results`.

    Memory is measured first. Then the method and this engine are timed in turns.
    """
    if method == "curvlinops":
        # At the end, so that nothing that is installed here is replaced.
        sys.path.append(folder_of_curvlinops())
    module, x = model.drawn()
    prepare = METHODS[method].prepare

    def call_of(b: int) -> Callable[[], Tensor]:
        return prepare(module, x[:b], setting)

    found = staged(call_of, len(x), limit)
    np.save(path, found.kernel.numpy())
    seconds, ratio = found.seconds, None
    if found.examples == len(x):
        rounds = repeats_within(repeats, found.seconds)
        call = call_of(len(x))
        ours = METHODS[OURS].prepare(*model.drawn(), None)
        if method == OURS:
            times = [(timed(call),) * 2 for _ in range(rounds)]
        else:
            ours()
            times = [(timed(call), timed(ours)) for _ in range(rounds)]
        seconds = statistics.median(theirs for theirs, _ in times)
        ratio = statistics.median(theirs / mine for theirs, mine in times)
    results.put((found.examples, seconds, found.peak, ratio))


def measure_in_jax(way: str, model: Model, repeats: int, limit: float) -> Measurement:
    """Measure jax or neural-tangents by `ntk_jax.py`, in their own environment.

    Raises:
        RuntimeError: it failed, or cannot be installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, path = f"{folder}/given.npz", f"{folder}/kernel.npy"
        export(model, given)
        numbers = map(str, (repeats, limit, torch.get_num_threads()))
        child = subprocess.run(
            [python_of_jax(), "-m", "benchmarks.peers.ntk_jax", given, path, way, *numbers],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        if child.returncode:
            lines = child.stderr.strip().splitlines() or [f"exit {child.returncode}"]
            raise RuntimeError(
                next((line for line in reversed(lines) if "Error" in line), lines[-1])
            )
        examples, seconds, peak = child.stdout.splitlines()[-1].split()
        return measurement(model, int(examples), float(seconds), float(peak), None, path)


def export(model: Model, path: str, dtype: torch.dtype = torch.float32) -> None:
    """Write the inputs, the weights by name, and which function takes them, for `ntk_jax.py`."""
    module, x = model.drawn(dtype)
    about = json.dumps({"function": model.function, "settings": model.settings})
    given: dict[str, Any] = {"x": x.numpy(), "about": about}
    given |= {name: value.detach().numpy() for name, value in module.named_parameters()}
    np.savez(path, **given)


def measurement(
    model: Model, examples: int, seconds: float, peak: float, ratio: float | None, path: str
) -> Measurement:
    """From what a child process found, and the kernel that it wrote."""
    K = torch.from_numpy(np.load(Path(path)))
    whole = examples == len(model.inputs())
    return Measurement(seconds, peak, ratio, K, None if whole else examples)


def exact_kernel(model: Model) -> Tensor | None:
    """K in fp64 by this engine, which the tests compare with `torch.func`; None where it has too many rows."""
    module, x = model.drawn(torch.float64)
    if len(x) * module(x[:1]).numel() > MOST_ROWS:
        return None
    return METHODS[OURS].prepare(module, x, None)()


def error_of(K: Tensor, exact: Tensor) -> float:
    """The relative error of a kernel, of all examples or of the first ones."""
    return relative_error(K, exact[: len(K), : len(K)])
