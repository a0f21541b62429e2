"""One SGD iteration of a pack of networks by every method that torch offers, in turns in one process, and by jax.

    python -m benchmarks peers training [--networks 40] [--hidden 300] [--task 2AF] [--batch 32] [--device cpu]

`training_methods.py` describes the methods. Before anything is timed all train three iterations from the same weights
on the same trials, and the last column is the largest relative difference of a loss from this project's. Methods that
train one network at a time train a few networks, and their time is scaled to all. Jax is timed alone in a process of
its own. The first rows are the peak of fused multiply-adds, and the rates of one large fp32 product and of the pack's
batched product by the libraries at hand. FLOPs are those that an iteration needs; the first step has no recurrent
product, since h_0 = 0. Trials are drawn beforehand.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch.nn.functional import conv2d

from benchmarks.markdown import heading, row
from benchmarks.options import add_pack, named_task
from benchmarks.peers.training_methods import TrainingMethod, by_jax, difference, training_methods
from benchmarks.suites.cases import pack_of_runs
from benchmarks.suites.measure import Call, in_turns
from benchmarks.suites.peak import peak_call
from hpr.command_line import Parser, UsageError, positive
from hpr.experiment.cost import cost
from hpr.tasks import Task
from hpr.training.trials import trials
from hpr_kernels.native import library

CHECKED = 3
ROUNDS = 15
# Rows of the large product's matrices.
LARGE = 2048
# Batched products per call.
PRODUCTS = 20
COLUMNS = (
    "ms per iteration",
    "times this project",
    "GFLOP/s",
    "share of the first",
    "losses differ by",
)


def add_arguments(parser: Parser) -> None:
    """The pack, and where it trains."""
    add_pack(parser, networks=40)
    parser.add_argument("--batch", type=positive, default=32, help="trials per network (32)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print a Markdown table."""
    R, N, B = arguments.networks, arguments.hidden, arguments.batch
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device: expected cpu, as there is no CUDA device, got cuda")
    task = trainable_task(arguments.task)
    # Otherwise cuDNN's RNN would round to TF32.
    torch.backends.cudnn.allow_tf32 = False
    specs = pack_of_runs(task, R, N, B)
    methods = training_methods(specs, task, device)
    batches = list(trials(specs, task, 0, CHECKED, device))
    differences = [difference(method, batches) for method in methods]

    def call_of(method: TrainingMethod) -> Call:
        return lambda: method.iterate(*batches[0])

    products = product_calls(R, B, N, device)
    calls = [*(call for _, _, call in products), *map(call_of, methods)]
    times = [statistics.median(turns) for turns in in_turns(calls, ROUNDS, device)]
    peak = products[0][1] / times[0]

    def rate(flops: float, seconds: float) -> tuple[str, str]:
        return f"{flops / seconds / 1e9:.0f}", f"{flops / seconds / peak:.0%}"

    print(heading(f"{R} networks, N = {N}, {task.name}, batch {B}", *COLUMNS))
    for (name, flops, _), seconds in zip(products, times, strict=False):
        print(row(name, "", "", *rate(flops, seconds), ""))
    jax = by_jax(specs, task, batches, ROUNDS) if device.type == "cpu" else None
    scaled = [
        seconds * R / method.networks
        for method, seconds in zip(methods, times[len(products) :], strict=True)
    ]
    flops = cost(specs, task).training_flops
    for method, seconds, differs in zip(methods, scaled, differences, strict=True):
        cells = f"{seconds * 1e3:.1f}", f"{seconds / scaled[0]:.1f}", *rate(flops, seconds)
        print(row(method.name, *cells, f"{differs:.0e}"))
    if jax is not None:
        cells = (
            f"{jax.seconds * 1e3:.1f}",
            f"{jax.seconds / scaled[0]:.1f}",
            *rate(flops, jax.seconds),
        )
        print(row("jax, `vmap` and `jit`", *cells, f"{jax.differs:.0e}"))


def trainable_task(name: str) -> Task:
    """The task that --task names.

    Raises:
        UsageError: there is no such task, or some method cannot train it.
    """
    task = named_task(name)
    if task.loss != "cross_entropy" or task.loss_steps != "all":
        raise UsageError(f"--task: expected one with a class at every step, got {name}")
    return task


def product_calls(R: int, B: int, N: int, device: torch.device) -> list[tuple[str, float, Call]]:
    """Name, FLOPs and call of the yardsticks: the peak, one large product, and the pack's batched products."""
    A, A2 = torch.randn(2, LARGE, LARGE, device=device)
    rates, W = torch.randn(R, B, N, device=device), torch.randn(R, N, N, device=device)
    product = torch.empty_like(rates)

    def batched() -> None:
        for _ in range(PRODUCTS):
            torch.bmm(rates, W, out=product)

    flops, size = 2.0 * LARGE**3, f"one product of {LARGE} x {LARGE}"
    found: list[tuple[str, float, Call]] = []
    if device.type == "cpu":
        if not library.obstacle():
            peak, peak_flops = peak_call()
            found.append(("fused multiply-adds in registers", peak_flops, peak))
        left, right = A.numpy(), A2.numpy()
        picture, kernel = A.view(1, LARGE, LARGE // 32, 32), A2.view(LARGE, LARGE, 1, 1)
        found += [
            (f"{size} by NumPy's BLAS", flops, lambda: left @ right),
            # Torch gives convolutions on the CPU to oneDNN.
            (f"{size} by oneDNN, a 1 x 1 convolution", flops, lambda: conv2d(picture, kernel)),
        ]
    products = 2.0 * PRODUCTS * R * B * N * N
    return [
        *found,
        (f"{size} by torch", flops, lambda: A @ A2),
        (f"{R} products of {B} x {N} by {N} x {N} by torch", products, batched),
    ]
