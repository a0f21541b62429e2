"""Instructions of the C kernels by callgrind: a loop that lost its vectors or runs twice shows on a busy machine too.

The counts are those of AVX2 in fp32. They are divided by the multiply-adds of the products, so that a vector of 8 lanes
without any other instruction would give 0.125.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "native" / "count.c"
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-march=x86-64-v3")
# Sizes of count.c
N, T, B, N_in, N_out, EXAMPLES = 100, 8, 32, 3, 3, 6


def multiply_adds_of_training() -> int:
    """Forward, backward and weight gradients; the readout's outputs, its gradient, and ∂loss/∂a."""
    later, rows = (T - 1) * B, T * B
    return N * (3 * later * N + 2 * rows * N_in + 3 * rows * N_out)


def multiply_adds_of_ntk() -> int:
    """The steps 1 to 3 of docs/bits.md, for the pairs of examples b <= b'."""
    reached = N_out * sum(range(1, T + 1))  # Σ_o reach(o) + 1
    pair = T * T * (N + N_in) + T * reached * N + T * N_out * reached * N
    return EXAMPLES * (EXAMPLES + 1) // 2 * pair


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [name for name in ("gcc", "valgrind") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    if platform.machine() != "x86_64" or "avx2" not in Path("/proc/cpuinfo").read_text("utf-8"):
        pytest.skip("needs a CPU with avx2")
    found = tmp_path_factory.mktemp("count") / "count"
    macros = ("-DISA=any", "-DREAL=float")
    subprocess.run(["gcc", *FLAGS, *macros, str(SOURCE), "-o", str(found), "-lm"], check=True)
    return found


# The limits are the counts of gcc 12, 0.441 and 0.674, and 10 %; without vectors in its scalar loops training has 15 %
# more.
@pytest.mark.parametrize(
    ("call", "multiply_adds", "limit"),
    [
        ("train", multiply_adds_of_training(), 0.485),
        ("gram", multiply_adds_of_ntk(), 0.741),
    ],
)
def test_instructions_per_multiply_add(
    program: Path, call: str, multiply_adds: int, limit: float
) -> None:
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
        f"--toggle-collect={call}_any_float", str(program), call,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    assert collected, done.stderr
    assert 0.125 < int(collected[1]) / multiply_adds < limit
