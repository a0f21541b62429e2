"""The kernels on a card: each against its floor, training against torch.bmm in a graph, the recurrence against cuDNN.

    python -m benchmarks.gpu [--networks 128] [--hidden 300] [--task 2AF] [--figure]

Times are medians of CUDA events around one call, with the L2 cache as the last call left it (warm) and overwritten
before each (cold). The iteration is that of leaky ReLU networks trained by cross-entropy, which is what Triton's
kernels train (`hpr.training.loop.new_trainer`). Floors are computed for an H100 (see `hpr_kernels.report`); on another
card they are only a scale. `--figure` adds Figure 1 from start to end. Without a card there is one line, and nothing is
measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from hpr.connectivity import LowRank
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.training.initial import initial_pack
from hpr.training.step import Step
from hpr.training.trials import trials
from hpr_kernels import leaky_rnn_ntk
from hpr_kernels.backend import VARIABLE

REPEATS = 51
Work = Callable[[], object]


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=300)
    parser.add_argument("--task", default="2AF")
    parser.add_argument("--figure", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device here, so nothing is measured")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {REPEATS} repeats, µs")
    task = make_task(arguments.task)
    base = RunSpec(
        task.name, LowRank(rank=1), seed=0, task_version=task.version, N=arguments.hidden
    )
    base = replace(base, batch=task.batch_size)
    specs = [
        replace(base, connectivity=LowRank(rank=1 + i % base.N), seed=i % 10)
        for i in range(arguments.networks)
    ]
    print(f"{len(specs)} networks of {base.N} units, {task.name}, batch {base.batch}")
    with torch.no_grad():
        for name, work, floor in (*launches(specs, task), *peers(specs, task)):
            warm, cold = (measure(work, flush=flush) for flush in (False, True))
            share = f", floor {floor * 1e6:.1f}, {floor / warm:.0%} of it" if floor else ""
            print(f"{name}: warm {warm * 1e6:.1f}, cold {cold * 1e6:.1f}{share}", flush=True)
    if arguments.figure:
        figure_1()
    return 0


def measure(work: Work, *, flush: bool) -> float:
    """Median seconds of a call; with `flush`, after a write of four times the L2 cache."""
    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    cache = torch.empty(4 * card.L2_cache_size, dtype=torch.int8, device="cuda")
    seconds = []
    for repeat in range(REPEATS + 5):
        if flush:
            cache.fill_(repeat % 2)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        # The first calls compile and warm up.
        if repeat >= 5:
            seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def graphed(work: Work) -> Work:
    """The work as a CUDA graph."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@contextmanager
def by_torch() -> Iterator[None]:
    """Serve by torch what Triton's kernels would serve."""
    before = os.environ.get(VARIABLE, "auto")
    os.environ[VARIABLE] = "torch"
    try:
        yield
    finally:
        os.environ[VARIABLE] = before


def launches(specs: list[RunSpec], task: Task) -> list[tuple[str, Work, float]]:
    """An iteration, whole and launch by launch, and an exact kernel, each with its floor."""
    from hpr.training import fused_step as cuda
    from hpr_kernels import report

    step = cuda.FusedStep(initial_pack(specs, task, torch.device("cuda")), specs[0], task)
    ((x, targets),) = trials(specs, task, 0, 1, torch.device("cuda"))
    parts = step.launches(x.contiguous(), targets.contiguous(), step.seed, step.sums)
    size = f"N = {specs[0].N}, T = {task.T}, B = {specs[0].batch}"
    floors = {
        found.name: len(specs) * report.floor(found)[0]
        for found in report.specimens()
        if found.name.endswith(size)
    }
    names = (
        "trials",
        "recurrence forward",
        "cross-entropy",
        "recurrence backward",
        "update of the readout",
        "update",
    )
    each = [(name, floors.get(f"{name}, {size}", 0.0)) for name in names]

    def iteration() -> None:
        for part in parts:
            part()

    found = [(name, graphed(part), floor) for (name, floor), part in zip(each, parts, strict=True)]
    whole = ("one iteration in a CUDA graph", graphed(iteration), sum(floor for _, floor in each))
    one = step.pack.select([0])
    kernel = partial(
        leaky_rnn_ntk,
        x[:1],
        recurrent=one.recurrent,
        input=one.input,
        readout=one.readout,
        rho=specs[0].rho,
        outputs=task.loss_steps,
    )
    return [*found, whole, ("exact kernel of one network", kernel, 0.0)]


def peers(specs: list[RunSpec], task: Task) -> list[tuple[str, Work, float]]:
    """The same iteration by torch.bmm in a CUDA graph; one network's recurrence at rho = 0, here and by cuDNN."""
    from hpr_kernels import layout
    from hpr_kernels.recurrence import triton as recurrence

    device = torch.device("cuda")
    pack = initial_pack(specs, task, device)
    ((x, targets),) = trials(specs, task, 0, 1, device)
    step = Step(pack, specs[0], task)
    with by_torch():
        torch_step = graphed(lambda: step(x, targets))
    N, B = specs[0].N, specs[0].batch
    rnn = torch.nn.RNN(task.N_in, N, nonlinearity="relu", bias=False).to(device)
    input, recurrent = rnn.all_weights[0]
    one = layout.join(recurrent[None], input[None])
    trace = layout.empty_trace(1, task.T, B, N, task.N_in, like=one)
    trace[:, :-1, :, N : N + task.N_in] = x[:1]
    inputs = x[0].contiguous()
    return [
        ("one iteration by torch.bmm in a CUDA graph", torch_step, 0.0),
        (
            "forward of one network at rho = 0",
            graphed(lambda: recurrence.forward(trace, one, 0.0)),
            0.0,
        ),
        ("the same by cuDNN (torch.nn.RNN)", graphed(lambda: rnn(inputs)), 0.0),
    ]


def figure_1() -> None:
    """Figure 1 at the paper's size, from the command line to the picture."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        command = [sys.executable, "-m", "hpr.reproduce", "--figure", "1", "--device", "cuda"]
        subprocess.run([*command, "--out", out], check=True)
        print(f"Figure 1, end to end: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
