"""The kernels compiled for 10.0 make the bits of 8.0, or numbers that another order of the same roundings makes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ptx_emulator.removal import Bench
from smallest_launches import NAMES, launches

# Products of 64 rows run on the tensor cores of 10.0 by `tcgen05`, with a memory of their own.
TENSOR_MEMORY = re.compile(r"(gram|alignment|update)(, .*)?, tf32(x3)?")
# Around the products of an update the compiler joins other multiplications and additions than for 8.0, and the threads
# of an alignment add other numbers. The tests of each kernel compare these with fp64 (`on_each_device`).
BOUNDS = {"update": (np.dtype(np.float32), 2.0**-22), "alignment": (np.dtype(np.float64), 2.0**-50)}


@pytest.mark.emulated(100)
@pytest.mark.parametrize("name", NAMES)
def test_compiled_for_10_0(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    ours, theirs = (launches(name, capability, monkeypatch) for capability in (100, 80))
    used = any("tcgen05" in one.opcode for one in ours[0].kernel.program.instructions)
    assert used == bool(TENSOR_MEMORY.fullmatch(name))
    for one, other in zip(ours, theirs, strict=True):
        for got, wanted in zip(Bench(one).expected, Bench(other).expected, strict=True):
            if not used or name.startswith("gram"):
                assert got == wanted
            elif got != wanted:
                kind, bound = BOUNDS[name.split(",")[0]]
                a, b = (np.frombuffer(value, kind) for value in (got, wanted))
                assert np.abs(a - b).max() <= bound * np.abs(b).max()
