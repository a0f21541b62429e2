"""What only a card can say of the kernels: how its tensor cores round, and times by programs and by precision.

    python -m benchmarks gpu-probes [--only rounding programs precisions]

`rounding` sums 2^24 + 3 by one product of the update kernel at tf32. Both numbers are exact in TF32, and numbers near
2^24 are even, so that a sum that rounds to nearest gives 2^24 + 4, and one that truncates 2^24 + 2. The two terms stand
in one instruction (8 terms), and in two. `programs` times the forward and the backward sweep of as many networks as
fill the multiprocessors once, once less one program, and so on. `precisions` times both at each precision, beside the
error against fp64 on the card and the error of torch's fp32.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu import graphed, median_seconds
from hpr.command_line import Parser
from hpr_kernels.backend import PRECISIONS
from hpr_kernels.internal import layout, momentum_step, recurrence
from hpr_kernels.testing import random_network, relative_error

RHO = 0.9
# Examples of one program of the forward and the backward sweep.
TILE = 16


def add_arguments(parser: Parser) -> None:
    """Which probes."""
    parser.add_argument("--only", nargs="+", choices=[*PROBES], default=[*PROBES])


def run(arguments: argparse.Namespace) -> None:
    """Print a line per measurement."""
    if not torch.cuda.is_available():
        print("benchmarks gpu-probes: no CUDA device here, so nothing is measured")
        return
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    with torch.no_grad():
        for name in arguments.only:
            for line in PROBES[name](device):
                print(f"{name}: {line}", flush=True)


def rounding(device: torch.device) -> Iterator[str]:
    """2^24 + 3 by a product at tf32, in one instruction and in two."""
    for where, second in (("within one instruction", 1), ("from one instruction to the next", 16)):
        got = int(sum_of_two(device, second)) - 2**24
        how = {2: "truncates", 4: "rounds to nearest"}.get(got, "does neither")
        yield f"{where}: 2^24 + 3 became 2^24 + {got}: it {how}"


def sum_of_two(device: torch.device, second: int) -> Tensor:
    """2^12 2^12 + 3 at terms 0 and `second` of a product over 32 terms."""
    left = torch.zeros(1, 32, 16, device=device)
    right = torch.zeros(1, 32, 16, device=device)
    left[0, 0], right[0, 0] = 2.0**12, 2.0**12
    left[0, second], right[0, second] = 1.0, 3.0
    weights, velocity = (torch.zeros(1, 16, 16, device=device) for _ in range(2))
    momentum_step(
        weights, velocity, left, right,
        scale=1.0, learning_rate=0.0, momentum=0.0, precision="tf32",
    )  # fmt: skip
    return velocity[0, 0, 0]


def programs(device: torch.device) -> Iterator[str]:
    """The sweeps by their number of programs, one per network."""
    card = torch.cuda.get_device_properties(device).multi_processor_count
    for number in (card - 1, card, card + 1, 2 * card, 4 * card):
        yield f"{number} programs: {sweep_times(device, number, T=8, B=TILE, N=300)}"


def sweep_times(device: torch.device, R: int, *, T: int, B: int, N: int) -> str:
    """Microseconds of both sweeps of R networks, warm."""
    trace, weights, g = sweep_operands(device, R, T=T, B=B, N=N)
    forward = graphed(lambda: recurrence.forward(trace, weights, RHO))
    backward = graphed(lambda: recurrence.sweep(g, trace, weights, RHO))
    times = [median_seconds(call, flush=False) * 1e6 for call in (forward, backward)]
    return "forward {:.1f} µs, backward {:.1f} µs".format(*times)


def sweep_operands(
    device: torch.device, R: int, *, T: int, B: int, N: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A trace with inputs, joined weights and seeds of random networks, fp32."""
    generator = torch.Generator().manual_seed(0)
    network = random_network(generator, N=N, T=T, B=B, R=R, dtype=torch.float32)
    weights = layout.join(network.recurrent.to(device), network.input.to(device))
    trace = layout.empty_trace(R, T, B, N, 3, like=weights)
    trace[:, :-1, :, N : N + 3] = network.x.to(device)
    g = recurrence.sweep_buffer(R, T, B, N, like=weights)
    g[..., :N] = torch.randn(R, T, B, N, generator=generator).to(device)
    return trace, weights, g


def precisions(device: torch.device) -> Iterator[str]:
    """Both sweeps at sMNIST's size by each precision: time and error."""
    for precision in PRECISIONS:
        error, torchs = sweep_errors(device, precision, R=4, T=28, B=200, N=300)
        trace, weights, g = sweep_operands(device, 40, T=28, B=200, N=300)
        calls = (
            graphed(lambda: recurrence.forward(trace, weights, RHO, precision=precision)),  # noqa: B023
            graphed(lambda: recurrence.sweep(g, trace, weights, RHO, precision=precision)),  # noqa: B023
        )
        times = [median_seconds(call, flush=False) * 1e3 for call in calls]
        yield (
            f"{precision}: forward {times[0]:.3f} ms, backward {times[1]:.3f} ms for 40 networks; "
            f"relative error {error[0]:.1e} and {error[1]:.1e}, torch's {torchs[0]:.1e} and {torchs[1]:.1e}"
        )


def sweep_errors(
    device: torch.device, precision: str, *, R: int, T: int, B: int, N: int
) -> tuple[list[float], list[float]]:
    """The relative errors of both sweeps, and those of torch's fp32, against torch's fp64."""
    trace, weights, seeds = sweep_operands(device, R, T=T, B=B, N=N)
    results = []
    for dtype, how in ((torch.float64, None), (torch.float32, None), (torch.float32, precision)):
        z, W, g = (value.to(dtype, copy=True) for value in (trace, weights, seeds))
        if how is None:
            from hpr_kernels.recurrence import eager

            eager.forward(z, W, RHO)
            eager.sweep(g, z, W, RHO)
        else:
            recurrence.forward(z, W, RHO, precision=how)
            recurrence.sweep(g, z, W, RHO, precision=how)
        results.append((z[:, 1:, :, :N], g[..., :N]))
    exact, torchs, ours = results
    return (
        [relative_error(a, b) for a, b in zip(ours, exact, strict=True)],
        [relative_error(a, b) for a, b in zip(torchs, exact, strict=True)],
    )


PROBES = {"rounding": rounding, "programs": programs, "precisions": precisions}
