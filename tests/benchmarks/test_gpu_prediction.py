"""The prediction of the paper's time on a card, by hand for small numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks import gpu_prediction as prediction
from benchmarks.gpu_prediction import CLOCK, GAP, L2_BANDWIDTH, STEP, KernelTile
from hpr.connectivity import LowRank
from hpr.experiment.specification import RunSpec
from hpr.tasks.shapes import TaskDimensions
from hpr_kernels.compiled import Compiled, multiprocessor_holds
from hpr_kernels.report import BANDWIDTH

ONE = RunSpec("2AF", LowRank(rank=1), seed=0, N=64, batch=32, iterations=10)
SIZE = TaskDimensions(N_in=3, N_out=3, T=2, loss_steps="all")
# Two blocks per multiprocessor; a tile of 16 x 64 x 32 stalls for 1000 cycles and has 20 instructions.
KERNEL = KernelTile(cycles=1000, instructions=20, held=2, rows=16, units=64, terms=32)
KNOWN = {
    f"recurrence {part}": KERNEL for part in ("forward", "backward", "adjoints")
} | {"update": replace(KERNEL, rows=64, units=64)}  # fmt: skip


def seconds(R: int, name: str, kernel: KernelTile = KERNEL) -> float:
    launches = prediction.iteration(ONE, SIZE, R, KNOWN | {f"recurrence {name}": kernel})
    return next(launch.seconds for launch in launches if launch.name == name)


@pytest.mark.parametrize(("R", "rounds"), [(1, 1), (132, 1), (133, 2), (264, 2), (265, 3)], ids=str)
def test_a_launch_takes_whole_rounds(R: int, rounds: int) -> None:
    """A network of 32 examples is two programs; 132 multiprocessors hold 264. W is 64 x 80: three tiles per step."""
    program = 2 * (3 * 1000 + STEP) / CLOCK
    assert seconds(R, "forward") == pytest.approx(rounds * program + GAP)


def test_many_instructions_keep_co_resident_blocks_waiting() -> None:
    program = 2 * (3 * 2 * 700 + STEP) / CLOCK
    busy = replace(KERNEL, instructions=700)
    assert seconds(1, "forward", busy) == pytest.approx(program + GAP)


def test_l2_bounds_programs_that_compute_little() -> None:
    quick = replace(KERNEL, cycles=0, instructions=0, rows=1, held=10**6)
    bytes_read = 5 * 32 * 2 * 64 * 80 * 4
    launched = prediction.iteration(ONE, SIZE, 5, KNOWN | {"recurrence forward": quick})[1]
    program = 2 * STEP / CLOCK
    assert launched.seconds == pytest.approx(max(bytes_read / L2_BANDWIDTH, program) + GAP)
    many = prediction.iteration(ONE, SIZE, 5000, KNOWN | {"recurrence forward": quick})[1]
    assert many.bound == "L2"
    assert many.seconds == pytest.approx(1000 * bytes_read / L2_BANDWIDTH + GAP)


def test_memory_bounds_the_trials() -> None:
    launched = prediction.iteration(ONE, SIZE, 7, KNOWN)[0]
    assert launched.seconds == pytest.approx(2 * 7 * 2 * 32 * 3 * 4 / BANDWIDTH + GAP)


def test_packs_add_up_and_a_trajectory_adds_kernels() -> None:
    packs = [[replace(ONE, seed=seed) for seed in range(count)] for count in (3, 2)]
    found = prediction.predicted(packs, KNOWN)
    iterations = [
        sum(launch.seconds for launch in prediction.iteration(ONE, SIZE_2AF, R, KNOWN))
        for R in (3, 2)
    ]
    assert (found.runs, found.pack) == (5, 3)
    assert found.training == pytest.approx(10 * sum(iterations))
    watched = [[replace(spec, checkpoints=4) for spec in pack] for pack in packs]
    assert prediction.predicted(watched, KNOWN).measures == pytest.approx(3 * found.measures)


SIZE_2AF = TaskDimensions(N_in=3, N_out=3, T=8, loss_steps="all")


@pytest.mark.parametrize(
    ("registers", "shared", "held"),
    [(128, 11 << 10, 4), (203, 21 << 10, 2), (32, 100 << 10, 2), (24, 0, 16), (257, 0, 1)],
)
def test_registers_and_shared_memory_limit_the_blocks(
    registers: int, shared: int, held: int
) -> None:
    compiled = Compiled(90, registers, shared, 0, 0, {}, 0, 0)  # type: ignore[arg-type]
    assert multiprocessor_holds(compiled, num_warps=4) == held


def test_all_of_the_paper_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    """The command compiles the real kernels and adds up a finite time."""
    pytest.importorskip("triton")
    from benchmarks.__main__ import main

    assert main(["gpu-prediction", "--workers", "2"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    minutes = float(last.removesuffix(" min").rpartition(" ")[2])
    card = float(last.split()[1])
    assert "in 2 processes" in last
    assert math.isfinite(minutes)
    assert minutes * 60 > card > 60
