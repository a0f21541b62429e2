"""Training a pack of networks against the machine's own fp32 matrix product, interleaved in one process.

    python benchmarks/training.py [--networks 40] [--hidden 300] [--device cpu]

Prints the median rate of one large product, of the pack's own batched products alone, and of whole SGD iterations, and
the share of the first that training reaches. FLOPs are those that the iteration needs: the first step has no recurrent
product, since h_0 = 0.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from hpr.connectivity import SVD
from hpr.model import initial_pack
from hpr.runs import RunSpec, cost
from hpr.step import Step, trials
from hpr.tasks import make_task

ITERATIONS = 20
REPEATS = 9


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=300)
    parser.add_argument("--task", default="2AF")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    task = make_task(arguments.task)
    specs = [
        RunSpec(
            task.name,
            SVD(rank=1 + i % arguments.hidden),
            seed=i % 10,
            N=arguments.hidden,
            batch=arguments.batch,
            iterations=ITERATIONS,
        )
        for i in range(arguments.networks)
    ]
    pack = initial_pack(specs, task, device)
    step = Step(pack, specs[0], task)

    def train() -> None:
        for x, targets in trials(specs, task, 0, ITERATIONS, device):
            step(x, targets)

    size = 2048
    A, B = (torch.randn(size, size, device=device) for _ in range(2))
    R, N, M = len(specs), arguments.hidden, arguments.batch
    rates = torch.randn(R, M, N, device=device)
    weights = torch.randn(R, N, N, device=device)
    product = torch.empty(R, M, N, device=device)

    def batched() -> None:
        for _ in range(ITERATIONS):
            torch.bmm(rates, weights, out=product)

    work: dict[str, tuple[Callable[[], object], float]] = {
        f"one product of {size} x {size}": (lambda: A @ B, 2.0 * size**3),
        f"{R} products of {M} x {N} by {N} x {N}": (
            batched,
            2.0 * ITERATIONS * R * M * N * N,
        ),
        f"training, {R} networks, N = {N}, {task.name}": (
            train,
            cost(specs, task).training_flops,
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    with torch.no_grad():
        for repeat in range(REPEATS + 1):
            for name, (call, _) in work.items():
                started = time.perf_counter()
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                # The first round warms up.
                if repeat:
                    seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peak = work[next(iter(work))][1] / medians[next(iter(work))]
    for name, (_, flops) in work.items():
        rate = flops / medians[name]
        print(f"{name}: {rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the first")
    print(f"one iteration: {medians[name] / ITERATIONS * 1e3:.1f} ms on {device}")


if __name__ == "__main__":
    main()
