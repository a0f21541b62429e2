"""The exact NTK of a leaky recurrent network by every way that torch and jax offer, in one table.

    python -m benchmarks.peers.ntk_methods [--shapes 2AF sMNIST …] [--repeats 5]

Ways: this engine; `torch.func` (per-example jacrev, then contraction; and products of the NTK with unit vectors,
which need no Jacobian); one product of a Jacobian that is already there with its transpose, the floor of every dense
way; the authors' way, a loop of autograd.grad with a growing cat; jax (jacrev, then contraction) and neural-tangents
(its contraction of Jacobians, and its structured derivatives), in an environment that is made on first use in
`.venv-neural-tangents`. Columns: median time, error against this engine in fp64 (which the tests hold against
`torch.func`), and the peak of resident memory over what it was before, less the result. Each way runs in a process of
its own, so that its peak is its own. A way that would take longer than --limit seconds, or more than 12 GB, is left out
and says so.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.markdown import heading, row
from hpr.command_line import Parser, positive
from hpr_kernels import leaky_rnn_ntk

RHO = 0.368
# Of the environment in which neural-tangents runs.
NEEDS = ("neural-tangents==0.6.5", "jax==0.4.30", "jaxlib==0.4.30")


class Case(NamedTuple):
    """Shape of a kernel; `readout` False: the rates are the outputs."""

    B: int
    T: int
    N_in: int
    N_out: int
    outputs: str
    N: int = 300
    readout: bool = True

    @property
    def rows(self) -> int:
        """Rows of the kernel."""
        return (
            self.B
            * (self.N_out if self.readout else self.N)
            * (self.T if self.outputs == "all" else 1)
        )

    @property
    def weights(self) -> int:
        """Entries of a row of the Jacobian."""
        return self.N * (self.N + self.N_in + (self.N_out if self.readout else 0))


CASES = {
    "2AF": Case(32, 8, 3, 3, "all"),
    "sMNIST": Case(200, 28, 28, 10, "last"),
    "T = 40": Case(32, 40, 3, 3, "all"),
    "hidden": Case(16, 8, 3, 3, "last", readout=False),
    "large": Case(2000, 8, 3, 3, "last"),
}


class Measured(NamedTuple):
    """Median seconds of a call, its peak of memory in bytes, and the kernel's error where one is known."""

    median: float
    peak: float
    error: float | None


class Given(NamedTuple):
    """Inputs and weights."""

    x: Tensor
    W: Tensor
    U: Tensor
    w: Tensor


def draw(case: Case, dtype: torch.dtype = torch.float32) -> Given:
    """The same network at every call."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    x, W = normal(case.T, case.B, case.N_in), normal(case.N, case.N) * 1.5 / case.N**0.5
    U, w = normal(case.N, case.N_in) / case.N_in**0.5, normal(case.N_out, case.N) / case.N**0.5
    return Given(*(value.to(dtype) for value in (x, W, U, w)))


def outputs(case: Case, W: Tensor, U: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """The network's outputs for one example x [T, N_in], flat."""
    h = W.new_zeros(case.N)
    a = h
    found = []
    for t in range(case.T):
        h = RHO * h + (1 - RHO) * (W @ a + U @ x[t])
        a = torch.relu(h)
        if case.outputs == "all" or t == case.T - 1:
            found.append(w @ a if case.readout else a)
    return torch.cat(found)


def engine(case: Case, given: Given) -> Tensor:
    """This engine, one call."""
    readout = given.w if case.readout else None
    return leaky_rnn_ntk(
        given.x,
        recurrent=given.W,
        input=given.U,
        readout=readout,
        rho=RHO,
        outputs=case.outputs,  # type: ignore[arg-type]
    )


def jacrev(case: Case, given: Given) -> Tensor:
    """torch.func: Jacobians, contracted weight by weight.

    Few rows at a time: all at once take longer, because the system gives and takes back their pages.
    """
    by = (0, 1, 2) if case.readout else (0, 1)
    each = torch.func.jacrev(lambda *a: outputs(case, *a), argnums=by, chunk_size=24)
    rows = torch.func.vmap(each, in_dims=(None, None, None, 1), chunk_size=1)
    jacobians = rows(given.W, given.U, given.w, given.x)
    flat = (J.flatten(2).flatten(0, 1) for J in jacobians)
    return torch.stack([J @ J.mT for J in flat]).sum(0)


def vector_products(case: Case, given: Given) -> Tensor:
    """torch.func: K e_j by a vjp and a jvp for each unit vector of the outputs, all at once; no Jacobian."""
    x1 = given.x.movedim(1, 0)
    weights = tuple(given[1:] if case.readout else given[1:3])

    def of(x: Tensor) -> Callable[..., Tensor]:
        # Without a readout of its own the third weight is not used, and not differentiated by.
        return lambda W, U, w=given.w: outputs(case, W, U, w, x)

    def block(left: Tensor, right: Tensor) -> Tensor:
        y, pull, *_ = torch.func.vjp(of(right), *weights)
        identity = torch.eye(len(y))

        def column(unit: Tensor) -> Tensor:
            return torch.func.jvp(of(left), weights, pull(unit))[1]

        return torch.func.vmap(column)(identity).mT

    rows = torch.func.vmap(torch.func.vmap(block, in_dims=(None, 0)), in_dims=(0, None))(x1, x1)
    return rows.permute(0, 2, 1, 3).reshape(case.rows, case.rows)


def floor(case: Case, given: Given) -> Tensor:
    """One product of a Jacobian that is already there (here: noise of its size) with its transpose."""
    return FLOOR[0] @ FLOOR[0].mT


FLOOR: list[Tensor] = []


def authors(case: Case, given: Given) -> Tensor:
    """A loop of autograd.grad over outputs, a Jacobian that grows by cat, and its product."""
    leaves = [value.clone().requires_grad_() for value in given[1 : 4 if case.readout else 3]]
    J = torch.empty(0)
    W, U, w = (*leaves, given.w)[:3]
    for b in range(case.B):
        for y in outputs(case, W, U, w, given.x[:, b]):
            gradients = torch.autograd.grad(y, leaves, retain_graph=True, materialize_grads=True)
            row = torch.cat([g.flatten() for g in gradients])[None]
            J = torch.cat([J, row])
    return J @ J.mT


def environment() -> str:
    """The Python that has jax and neural-tangents; made where it is missing."""
    folder = Path(__file__).with_name(".venv-neural-tangents")
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        if subprocess.run([str(python), "-m", "pip", "install", "--quiet", *NEEDS]).returncode:
            # Half of an environment would pass for one the next time.
            shutil.rmtree(folder)
            raise RuntimeError(f"expected to install {', '.join(NEEDS)}")
    return str(python)


def elsewhere(implementation: str, case: Case, repeats: int) -> Measured:
    """jax or neural-tangents, in their own environment.

    Raises:
        RuntimeError: it failed, or cannot be installed.
    """
    given = draw(case)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/given.npz", f"{folder}/kernel.npy"]
        np.savez(
            paths[0], **{name: value.numpy() for name, value in given._asdict().items()}, rho=RHO,
            last=case.outputs == "last", readout=case.readout,
        )  # fmt: skip
        script = str(Path(__file__).with_name("ntk_neural_tangents.py"))
        child = subprocess.run(
            [environment(), script, *paths, implementation, str(repeats)],
            capture_output=True, text=True,
        )  # fmt: skip
        if child.returncode:
            lines = child.stderr.strip().splitlines()
            raise RuntimeError(
                next((line for line in reversed(lines) if "Error" in line), lines[-1])
            )
        median, peak = (float(word) for word in child.stdout.split())
        error = None
        if case.rows <= MOST_ROWS:
            exact = engine(case, draw(case, torch.float64)).numpy()
            error = float(np.linalg.norm(np.load(paths[1]) - exact) / np.linalg.norm(exact))
    return Measured(median, peak, error)


WAYS: dict[str, Callable[[Case, Given], Tensor]] = {
    "this engine": engine,
    "J Jᵀ alone": floor,
    "torch.func jacrev": jacrev,
    "torch.func NTK-vector": vector_products,
    "the authors' loop": authors,
}
ELSEWHERE = {
    "jax jacrev": "JACREV",
    "neural-tangents Jacobians": "JACOBIAN_CONTRACTION",
    "neural-tangents structured": "STRUCTURED_DERIVATIVES",
}
# Rows up to which a kernel is held against one in fp64.
MOST_ROWS = 4000
# Multiply-adds a second that a way is assumed to reach, to leave out what would take too long: far below a product's.
SLOWEST = {
    "J Jᵀ alone": 5e10,
    "torch.func jacrev": 2e10,
    "torch.func NTK-vector": 1e10,
    "the authors' loop": 1.5e9,
    "jax jacrev": 2e10,
    "neural-tangents Jacobians": 3e10,
    "neural-tangents structured": 8e8,
}


def foreseen(way: str, case: Case) -> tuple[float, float]:
    """Seconds and bytes that a way will need, roughly."""
    M, P = case.rows, case.weights
    sweeps = float(M) * case.T * P
    if way == "this engine":
        return 0.0, 0.0
    if way == "torch.func NTK-vector":
        return float(M) * case.B * case.T * case.N**2 / SLOWEST[
            way
        ], 4.0 * M * case.B * case.N * case.T
    work = float(M) ** 2 * P + (0 if way == "J Jᵀ alone" else sweeps)
    if way == "the authors' loop":
        # Each cat copies what there is.
        work = sweeps + float(M) ** 2 * P / 2
    copies = {"J Jᵀ alone": 1, "torch.func jacrev": 3, "the authors' loop": 2}.get(way, 2)
    return work / SLOWEST[way], copies * 4.0 * M * P


def measure(way: str, case: Case, repeats: int, results: multiprocessing.Queue) -> None:
    """In a child of its own: median time, peak memory over the start's, and the kernel's error."""
    given = draw(case)
    if way == "J Jᵀ alone":
        FLOOR.append(torch.randn(case.rows, case.weights))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    K = WAYS[way](case, given)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024 - K.nbytes
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        WAYS[way](case, given)
        seconds.append(time.perf_counter() - started)
    error = None
    if way != "J Jᵀ alone" and case.rows <= MOST_ROWS:
        exact = engine(case, draw(case, torch.float64))
        error = float((K.double() - exact).norm() / exact.norm())
    results.put(Measured(statistics.median(seconds), peak, error))


def attempt(way: str, case: Case, repeats: int, limit: float) -> Measured | str:
    """What was measured, or why nothing was."""
    seconds, memory = foreseen(way, case)
    if seconds > limit or memory > 12e9:
        return f"left out: about {seconds:.0f} s, {memory / 1e9:.0f} GB"
    repeats = repeats if seconds < 5 else 1
    if way in ELSEWHERE:
        try:
            return elsewhere(ELSEWHERE[way], case, repeats)
        except RuntimeError as failed:
            return f"failed: {failed}"
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=measure, args=(way, case, repeats, results))
    child.start()
    child.join()
    return f"failed: exit {child.exitcode}" if child.exitcode else results.get()


def main() -> None:
    """Parse, measure, print a Markdown table."""
    parser = Parser(prog="ntk", description="Exact NTK by every way, side by side.")
    parser.add_argument("--shapes", nargs="+", choices=list(CASES), default=list(CASES))
    every = [*WAYS, *ELSEWHERE]
    parser.add_argument("--ways", nargs="+", choices=every, default=every)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a call may take")
    arguments = parser.parse_args()
    columns = ("median ms", "times this engine", "relative error", "MiB beside the result")
    print(heading("shape", "rows", "way", *columns))
    for name in arguments.shapes:
        case = CASES[name]
        ours = None
        for way in arguments.ways:
            found = attempt(way, case, arguments.repeats, arguments.limit)
            if isinstance(found, str):
                print(row(name, case.rows, way, found, "", "", ""), flush=True)
                continue
            ours = found.median if ours is None else ours
            error = "" if found.error is None else f"{found.error:.1e}"
            times = f"{found.median / ours:.1f}"
            cells = f"{found.median * 1e3:.1f}", times, error, f"{found.peak / 2**20:.0f}"
            print(row(name, case.rows, way, *cells), flush=True)


if __name__ == "__main__":
    main()
