"""What the paper's `paper` profile is predicted to take on one H100, launch by launch; nothing is measured on a card.

    python -m benchmarks gpu-prediction [--workers 4] [--json]

The time of a launch of P programs, of which a multiprocessor holds j at a time (by the compiled kernel's registers and
shared memory), is the largest of three:

- rounds: ⌈P / (132 j)⌉ times the duration of a program. A program takes STEP cycles per step, and per tile of the inner
  loop the larger of the stalls that the compiler wrote into the loop and j times the loop's instructions;
- L2: the bytes that all programs read, over L2_BANDWIDTH;
- the floor of `hpr_kernels.report`: FLOPs over the peak and bytes over the memory's bandwidth.

GAP is added per launch. The host's seconds (initial weights and eigenvalues of each run, pictures of each iteration)
are measured here, on one core. They pass beside the card in `--workers` processes that share it. Stop rules are not
counted: every run trains to its end.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from benchmarks.markdown import heading, row
from hpr.command_line import Parser, positive
from hpr.experiment.cost import TaskShape
from hpr.experiment.plan import CARD_WORKERS, filling_networks, packs
from hpr.experiment.specification import RunSpec
from hpr.figures.discovery import discover
from hpr.figures.forecast import runs_of
from hpr.figures.settings import Settings
from hpr.tasks.shapes import shape_of
from hpr_kernels.compiled import Compiled, Specimen, compile_for, multiprocessor_holds
from hpr_kernels.layout import padded
from hpr_kernels.report import BANDWIDTH, PEAK

MULTIPROCESSORS, CLOCK = 132, 1.755e9  # H100 SXM5: NVIDIA's datasheet
# The next three are assumptions, to be refuted by a card.
L2_BANDWIDTH = 5.5e12  # bytes/s
STEP = 1500  # cycles: the barrier of a block, and the first loads from L2 behind it
GAP = 1.5e-6  # seconds between two launches of a graph
# Seconds until the first iteration: the imports, the CUDA context, and kernels that are compiled already.
START = 15.0


@dataclass(frozen=True)
class KernelTile:
    """What a compiled kernel tells: cycles and instructions of a tile of its inner loop, and the tile's sizes."""

    cycles: int
    instructions: int
    held: int  # blocks per multiprocessor
    rows: int
    units: int
    terms: int

    @property
    def tile(self) -> float:
        """Cycles that a tile takes a block where a multiprocessor is full."""
        return max(self.cycles, self.held * self.instructions)


@dataclass(frozen=True)
class PredictedLaunch:
    """The predicted seconds of a launch, and which of the three bounds it is."""

    name: str
    seconds: float
    bound: str


@dataclass(frozen=True)
class PackKind:
    """The prediction of all packs of one shape: seconds of training and of kernels on the card."""

    name: str
    runs: int
    pack: int
    iterations: int
    launches: tuple[PredictedLaunch, ...]
    training: float
    measures: float


def add_arguments(parser: Parser) -> None:
    """How many processes share the card, and the form of the output."""
    parser.add_argument(
        "--workers",
        type=positive,
        default=CARD_WORKERS,
        help=f"processes on the card ({CARD_WORKERS})",
    )
    parser.add_argument("--json", action="store_true", help="all launches, as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print the prediction."""
    specs = runs_of(list(discover().values()), Settings(profile="paper", smnist="sMNIST"))
    known = kernels()
    formed = packs(specs, networks_of_a_pack)
    groups = [predicted(kind, known) for kind in grouped(formed)]
    host = host_seconds(specs) + picture_seconds(formed)
    if arguments.json:
        print(json.dumps({"groups": [asdict(one) for one in groups], "host": host}, indent=1))
        return
    print(
        heading(
            "runs", "networks per pack", "iteration, µs", "bound by", "training, s", "kernels, s"
        )
    )
    for one in groups:
        whole = sum(launch.seconds for launch in one.launches)
        bound = max(one.launches, key=lambda launch: launch.seconds)
        cells = (f"{whole * 1e6:.0f}", f"{bound.name}: {bound.bound}")
        print(
            row(
                f"{one.runs} x {one.name}",
                one.pack,
                *cells,
                f"{one.training:.1f}",
                f"{one.measures:.1f}",
            )
        )
    card = sum(one.training + one.measures for one in groups)
    beside = host / arguments.workers
    print(
        f"\ncard {card:.0f} s; host {host:.0f} s, {beside:.0f} s in {arguments.workers} processes beside the card; "
        f"start {START:.0f} s; predicted for the whole paper: {(max(card, beside) + START) / 60:.1f} min"
    )


def networks_of_a_pack(shape: RunSpec) -> int:
    """How many networks a pack has on this card; its 80 GB hold them at all of the paper's sizes."""
    return filling_networks(shape, MULTIPROCESSORS)


def grouped(formed: Sequence[list[RunSpec]]) -> list[list[list[RunSpec]]]:
    """Packs of one kind: those whose dimensions, batch and iterations agree."""
    kinds: dict[tuple[object, ...], list[list[RunSpec]]] = {}
    for pack in formed:
        one = pack[0]
        size = shape_of(one.task, one.task_version, one.dt)
        name = one.task.partition("(")[0]
        kind = (
            name if one.model == "two_layer" else "",
            str(size),
            one.N,
            one.batch,
            one.iterations,
        )
        kinds.setdefault((*kind, one.checkpoints), []).append(pack)
    return list(kinds.values())


def kernels() -> dict[str, KernelTile]:
    """The kernels of an iteration and the adjoints' sweep, as compiled for 9.0 at the sizes of 2AF."""
    from hpr_kernels.report import specimens

    size = "N = 300, T = 8, B = 32"
    found = {specimen.name: specimen for specimen in specimens()}
    names = ("recurrence forward", "recurrence backward", "recurrence adjoints", "update")
    return {name: kernel_tile(found[f"{name}, {size}"]) for name in names}


def kernel_tile(specimen: Specimen) -> KernelTile:
    """Compile, and read what the prediction needs."""
    compiled: Compiled = compile_for(specimen, 90)
    sizes = [v for k, v in specimen.arguments.items() if k.startswith(("TILE", "BLOCK"))]
    held = multiprocessor_holds(compiled, specimen.num_warps)
    return KernelTile(compiled.tile_cycles, compiled.tile_instructions, held, *sizes[:3])


def predicted(formed: list[list[RunSpec]], known: dict[str, KernelTile]) -> PackKind:
    """The prediction for packs of one kind."""
    one = formed[0][0]
    size = shape_of(one.task, one.task_version, one.dt)
    assert size is not None
    runs = sum(map(len, formed))
    training = 0.0
    for pack in formed:
        training += one.iterations * sum(x.seconds for x in iteration(one, size, len(pack), known))
    largest = max(map(len, formed))
    if one.model == "two_layer":
        what = f"{one.task.partition('(')[0]}, two layers"
    else:
        what = "2AF, DMS, CXT" if size.N_out == 3 else one.task
    return PackKind(
        name=f"{what}, N = {one.N}, T = {size.T}, B = {one.batch}"
        + (f", {one.checkpoints} points" if one.checkpoints else ""),
        runs=runs,
        pack=largest,
        iterations=one.iterations,
        launches=tuple(iteration(one, size, largest, known)),
        training=training,
        measures=runs * (2 + one.checkpoints) * kernel_seconds(one, size, known),
    )


def iteration(
    one: RunSpec, size: TaskShape, R: int, known: dict[str, KernelTile]
) -> list[PredictedLaunch]:
    """The six launches of an iteration of R networks like `one`."""
    T, B, N, N_in, N_out = size.T, one.batch, one.N, size.N_in, size.N_out
    counted = B * (1 if size.loss_steps == "last" else T)
    layers = one.model == "two_layer"
    P = padded(N_in) if layers else padded(N + N_in)
    Q = padded(N)
    # The recurrent product of the first step is zero.
    inner = B * N * (N_in if layers else (T - 1) * N + T * N_in)
    back = 0 if layers else B * (T - 1) * N * N
    weights, rates = R * N * P * 4, R * T * B * Q * 4

    def sweep(name: str, kernel: KernelTile, multiply_adds: int, traffic: float) -> PredictedLaunch:
        programs = R * math.ceil(B / kernel.rows)
        tiles = math.ceil(Q / kernel.units) * math.ceil(P / kernel.terms)
        program = T * (tiles * kernel.tile + STEP) / CLOCK
        held = MULTIPROCESSORS * kernel.held
        return bounded_launch(
            name,
            rounds=math.ceil(programs / held) * program,
            L2=programs * T * (N * P * 4) / L2_BANDWIDTH,
            floor=least_seconds(2 * R * multiply_adds, traffic),
        )

    update = known["update"]
    tiles = R * math.ceil(N / update.rows) * math.ceil(P / update.units)
    rounds = math.ceil(tiles / (MULTIPROCESSORS * update.held))
    product = rounds * math.ceil(T * B / update.terms) * update.tile / CLOCK
    return [
        bounded_launch("trials", floor=least_seconds(0, 2 * R * T * B * N_in * 4)),
        sweep("forward", known["recurrence forward"], inner, weights + 2 * rates),
        bounded_launch("loss", floor=least_seconds(6 * R * counted * N * N_out, 2 * rates)),
        sweep("backward", known["recurrence backward"], back, weights + 3 * rates),
        bounded_launch(
            "update of the readout", floor=least_seconds(2 * R * counted * N * N_out, rates)
        ),
        bounded_launch(
            "update", rounds=product, floor=least_seconds(2 * R * inner, 4 * weights + 2 * rates)
        ),
    ]


def kernel_seconds(one: RunSpec, size: TaskShape, known: dict[str, KernelTile]) -> float:
    """Seconds of one exact kernel of one network: its adjoints and their contraction."""
    if one.model == "two_layer":
        return 2 * GAP
    T, B, N = size.T, one.kernel_trials, one.N
    outputs = size.N_out * (1 if size.loss_steps == "last" else T)
    sweep, Q = known["recurrence adjoints"], padded(N)
    tiles = math.ceil(Q / sweep.units) * math.ceil(Q / sweep.terms)
    rounds = math.ceil(outputs * math.ceil(B / sweep.rows) / (MULTIPROCESSORS * sweep.held))
    adjoints = rounds * T * (tiles * sweep.tile + STEP) / CLOCK
    rows = outputs * B
    # By steps or by weights, as `order="auto"` compares them; half of the pairs, by symmetry.
    by_steps, by_weights = rows * rows * N * T * T / 4, rows * rows * N * N / 2
    contraction = 2 * min(by_steps, by_weights)
    # A tile of 64 x 64 does 16 FLOP per byte that it reads from L2.
    return adjoints + max(contraction / PEAK["tf32x3"], contraction / 16 / L2_BANDWIDTH) + 6 * GAP


def least_seconds(flops: float, traffic: float) -> float:
    """The seconds that peak and memory allow at least; see `hpr_kernels.report.floor`."""
    return max(flops / PEAK["tf32x3"], traffic / BANDWIDTH)


def bounded_launch(name: str, **bounds: float) -> PredictedLaunch:
    """A launch that takes the largest of its bounds, and GAP."""
    bound = max(bounds, key=lambda of: bounds[of])
    return PredictedLaunch(name, bounds[bound] + GAP, bound)


def host_seconds(specs: Sequence[RunSpec]) -> float:
    """Seconds of one core of this machine for what the host does once per run, for all runs."""
    import numpy as np
    import torch

    from hpr.connectivity import LowRank
    from hpr.laziness import leading_eigenvalue
    from hpr.tasks import make_task
    from hpr.training.initial import initial_pack

    task, cpu = make_task("2AF"), torch.device("cpu")
    spent: dict[tuple[int, int], float] = {}
    total = 0.0
    for spec in specs:
        size = shape_of(spec.task, spec.task_version, spec.dt)
        assert size is not None
        rows = spec.kernel_trials * size.N_out * (1 if size.loss_steps == "last" else size.T)
        sizes = (min(spec.N, size.N_in) if spec.model == "two_layer" else spec.N, rows)
        if sizes not in spent:
            N, M = sizes
            like = replace(RunSpec("2AF", LowRank(rank=1), seed=0), N=max(N, 2))
            half = torch.from_numpy(np.random.default_rng(0).standard_normal((M, 64)))
            spent[sizes] = core_seconds(partial(initial_pack, [like], task, cpu)) + core_seconds(
                partial(both_ranks, N)
            )
            spent[M, -1] = core_seconds(partial(leading_eigenvalue, half @ half.T))
        total += spent[sizes] + (2 + spec.checkpoints) * spent[rows, -1]
    return total


def picture_seconds(formed: Sequence[list[RunSpec]]) -> float:
    """Seconds of one core for all batches of pictures: a pack's runs of one seed share them."""
    import numpy as np

    from hpr.tasks.digits import Pictures, RowDigits

    images, labels = np.zeros((60_000, 28, 28), np.uint8), np.zeros(60_000, np.int64)
    pictures: Pictures = {"train": (images, labels), "evaluation": (images, labels)}
    task = RowDigits("sMNIST", "pictures", batch_size=200, brightest=255, pictures=pictures)
    each = core_seconds(lambda: task.draw(0, 0, 20, 200)) / 20
    shown = [pack for pack in formed if "MNIST" in pack[0].task]
    return sum(each * pack[0].iterations * len({spec.seed for spec in pack}) for pack in shown)


def both_ranks(N: int) -> None:
    """The effective ranks of a matrix [N, N], by singular values and by eigenvalues."""
    import numpy as np

    from hpr.connectivity import effective_rank

    matrix = np.random.default_rng(0).standard_normal((N, N))
    effective_rank(matrix, singular=True)
    effective_rank(matrix)


def core_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the second of two calls."""
    work()
    started = time.process_time()
    work()
    return time.process_time() - started
