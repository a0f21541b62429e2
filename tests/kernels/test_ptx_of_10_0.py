"""The kernels compiled for 10.0: those that the emulator can run make the bits of 8.0, and it names the others."""

from __future__ import annotations

import re

import pytest
from ptx_emulator.program import UnknownOpcodeError
from ptx_emulator.removal import Bench
from smallest_launches import NAMES, launches

# Products of 64 rows run on the tensor cores of 10.0 by `tcgen05`, with a memory of their own. No test emulates that.
TENSOR_MEMORY = re.compile(r"(gram|alignment|update)(, .*)?, tf32(x3)?")


@pytest.mark.emulated(100)
@pytest.mark.parametrize("name", NAMES)
def test_compiled_for_10_0(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    if TENSOR_MEMORY.fullmatch(name):
        with pytest.raises(UnknownOpcodeError, match=r"tcgen05\.alloc"):
            launches(name, 100, monkeypatch)
        return
    ours, theirs = (launches(name, capability, monkeypatch) for capability in (100, 80))
    for one, other in zip(ours, theirs, strict=True):
        assert Bench(one).expected == Bench(other).expected
