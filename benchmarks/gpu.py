"""The kernels on a card: each beside its floor, training beside torch.bmm in a graph, the recurrence beside cuDNN.

    python -m benchmarks gpu [--networks 128] [--hidden 300] [--task 2AF] [--no-floors] [--figure]

Times are medians of CUDA events around one call, with the L2 cache as the last call left it (warm) and overwritten
before each call (cold). The networks are leaky ReLU networks trained by cross-entropy, by the six launches of
`hpr.training.fused_step`. Floors (`hpr_kernels.report`) and predictions (`benchmarks.gpu_prediction`) are computed for
an H100; on another card they are only a scale. `--figure` adds Figure 1 from start to end. Without a card one line says
so, and nothing is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch

from benchmarks import gpu_prediction
from benchmarks.options import add_pack, named_task
from benchmarks.suites.cases import figure_1_pack
from benchmarks.suites.measure import Call, seconds
from hpr.command_line import Parser, UsageError
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.initial import initial_pack
from hpr.training.step import Step
from hpr.training.trials import trials
from hpr_kernels import leaky_rnn_ntk, report
from hpr_kernels.internal import layout, recurrence

REPEATS = 51
# The launches of an iteration in their order, as `hpr_kernels.report` names them.
LAUNCHES = (
    "trials",
    "recurrence forward",
    "cross-entropy",
    "recurrence backward",
    "update of the readout",
    "update",
)


class Timing(NamedTuple):
    """What is timed, and the seconds that an H100 needs at least and is predicted to take, where they are known."""

    name: str
    call: Call
    floor: float | None = None
    predicted: float | None = None


def add_arguments(parser: Parser) -> None:
    """The pack, and what else is measured."""
    add_pack(parser, networks=128)
    parser.add_argument(
        "--no-floors", action="store_true", help="for sizes that hpr_kernels.report does not list"
    )
    parser.add_argument("--figure", action="store_true", help="time Figure 1 as well")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print a line per call."""
    if not torch.cuda.is_available():
        print("benchmarks gpu: no CUDA device here, so nothing is measured")
        return
    task = named_task(arguments.task)
    specs = figure_1_pack(task, arguments.networks, arguments.hidden)
    floors = None if arguments.no_floors else launch_floors(specs[0], task)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {REPEATS} repeats, µs")
    print(f"{len(specs)} networks of {specs[0].N} units, {task.name}, batch {specs[0].batch}")
    with torch.no_grad():
        for timing in (*launches(specs, task, floors), *by_torch_and_cudnn(specs, task)):
            warm, cold = (median_seconds(timing.call, flush=flush) for flush in (False, True))
            parts = [f"{timing.name}: warm {warm * 1e6:.1f}, cold {cold * 1e6:.1f}"]
            if timing.floor is not None:
                parts.append(f"floor {timing.floor * 1e6:.1f}, {timing.floor / warm:.0%} of it")
            if timing.predicted is not None:
                parts.append(f"predicted {timing.predicted * 1e6:.1f}")
            print(", ".join(parts), flush=True)
    if arguments.figure:
        time_figure_1()


def median_seconds(call: Call, *, flush: bool) -> float:
    """Median seconds of a call; with `flush`, after a write of four times the L2 cache."""
    device = torch.device("cuda")
    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    cache = torch.empty(4 * card.L2_cache_size, dtype=torch.int8, device=device)
    times = []
    for repeat in range(REPEATS + 5):
        if flush:
            cache.fill_(repeat % 2)
        times.append(seconds(call, device))
    # The first calls compile and warm up.
    return statistics.median(times[5:])


def graphed(call: Call) -> Call:
    """The call as a CUDA graph."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@contextmanager
def torch_backend() -> Iterator[None]:
    """Let torch serve what the Triton kernels would serve."""
    before = os.environ.get("HPR_KERNELS_BACKEND", "auto")
    os.environ["HPR_KERNELS_BACKEND"] = "torch"
    try:
        yield
    finally:
        os.environ["HPR_KERNELS_BACKEND"] = before


def launch_floors(spec: RunSpec, task: Task) -> list[float]:
    """Seconds per network that an H100 needs at least for each of an iteration's launches.

    Raises:
        UsageError: `hpr_kernels.report` has no launch of that name at the size.
    """
    known = {specimen.name: specimen for specimen in report.specimens()}
    floors = []
    for launch in LAUNCHES:
        name = f"{launch}, N = {spec.N}, T = {task.T}, B = {spec.batch}"
        if name not in known:
            raise UsageError(
                f"floors: expected {name!r} among the launches of hpr_kernels.report, got none; "
                "--no-floors measures without"
            )
        floors.append(report.floor(known[name])[0])
    return floors


def launches(specs: list[RunSpec], task: Task, floors: list[float] | None) -> list[Timing]:
    """An iteration, whole and launch by launch, and an exact kernel; `floors` are those of `launch_floors`."""
    from hpr.training.fused_step import FusedStep

    step = FusedStep(initial_pack(specs, task, torch.device("cuda")), specs[0], task)
    ((x, targets),) = trials(specs, task, 0, 1, torch.device("cuda"))
    parts = step.launches(x.contiguous(), targets.contiguous(), step.seed, step.sums)

    def iteration() -> None:
        for part in parts:
            part()

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
    whole = None if floors is None else len(specs) * sum(floors)
    each = [None] * len(LAUNCHES) if floors is None else [len(specs) * floor for floor in floors]
    foreseen = [
        launch.seconds
        for launch in gpu_prediction.iteration(specs[0], task, len(specs), gpu_prediction.kernels())
    ]
    return [
        *(Timing(*of) for of in zip(LAUNCHES, map(graphed, parts), each, foreseen, strict=True)),
        Timing("one iteration in a CUDA graph", graphed(iteration), whole, sum(foreseen)),
        Timing("exact kernel of one network", kernel),
    ]


def by_torch_and_cudnn(specs: list[RunSpec], task: Task) -> list[Timing]:
    """The same iteration by torch.bmm in a CUDA graph; one network's recurrence at rho = 0, here and by cuDNN."""
    device = torch.device("cuda")
    pack = initial_pack(specs, task, device)
    ((x, targets),) = trials(specs, task, 0, 1, device)
    step = Step(pack, specs[0], task)
    with torch_backend():
        torch_step = graphed(lambda: step(x, targets))
    N, B = specs[0].N, specs[0].batch
    rnn = torch.nn.RNN(task.N_in, N, nonlinearity="relu", bias=False).to(device)
    input, recurrent = rnn.all_weights[0]
    one = layout.join(recurrent[None], input[None])
    trace = layout.empty_trace(1, task.T, B, N, task.N_in, like=one)
    trace[:, :-1, :, N : N + task.N_in] = x[:1]
    inputs = x[0].contiguous()
    forward = graphed(lambda: recurrence.forward(trace, one, 0.0))
    return [
        Timing("one iteration by torch.bmm in a CUDA graph", torch_step),
        Timing("forward of one network at rho = 0", forward),
        Timing("the same by cuDNN (torch.nn.RNN)", graphed(lambda: rnn(inputs))),
    ]


def time_figure_1() -> None:
    """Time Figure 1 at the paper's size, from the command line to the picture."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        command = [sys.executable, "-m", "hpr.reproduce", "--figure", "1", "--device", "cuda"]
        subprocess.run([*command, "--out", out], check=True)
        print(f"Figure 1, end to end: {time.perf_counter() - started:.1f} s")
