"""The tests of Triton kernels, which need no GPU, share these tools.

Triton decides at its import whether a process compiles or interprets kernels, so the tests need two processes:

- `pytest` compiles for cards that the machine need not have (`assert_budget`), and skips tests marked `interpreter`;
- `HPR_KERNELS_BACKEND=interpret pytest -m interpreter` runs kernels on CPU tensors through Triton's interpreter.

`make test` runs both. A test with the argument `device`, from `on_each_device`, runs under the interpreter, and on a
card where the machine has one (`pytest -m gpu`).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hpr_kernels.compiled import SHARED_LIMIT, Compiled

# The compute capabilities whose compiled code tests/ptx_emulator runs.
EMULATED = [
    pytest.param("cpu", marks=pytest.mark.emulated(capability), id=f"emulated-{capability}")
    for capability in (80, 90, 100)
]
on_each_device = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.interpreter),
        *EMULATED,
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)

# No arithmetic results in this NaN, so a stray write is found even if it writes a NaN.
CANARY = 0x7FC0DEAD
BAND = 1024


class Guarded:
    """This is an fp32 tensor of NaN between two bands of NaN: a read outside it, or too early, makes results NaN."""

    def __init__(self, *shape: int, device: str) -> None:
        size = torch.Size(shape).numel()
        self.memory = torch.full((size + 2 * BAND,), CANARY, dtype=torch.int32, device=device)
        self.tensor: Tensor = self.memory[BAND : BAND + size].view(torch.float32).view(shape)

    def check(self) -> None:
        """Fail if a band was written to."""
        bands = torch.cat([self.memory[:BAND], self.memory[-BAND:]])
        stray = int((bands != CANARY).sum())
        assert stray == 0, f"{stray} elements written outside a tensor of {self.tensor.shape}"

    def unwritten(self) -> Tensor:
        """Return a mask of the elements that were not written since the tensor was made."""
        return self.tensor.view(torch.int32) == CANARY


def assert_budget(compiled: Compiled, *, narrow_loads: int = 0, spills: int = 0) -> None:
    """Check that a kernel uses no local memory and no stack, fits into shared memory, and loads 16 bytes at a time.

    `narrow_loads` and `spills` are the exceptions that a test allows.
    """
    assert compiled.local == 0
    assert compiled.spills <= spills
    assert compiled.stack <= 8 * spills
    assert compiled.shared <= SHARED_LIMIT[compiled.capability]
    loads = compiled.global_loads()
    assert loads.get(128, 0) > 0
    assert sum(loads.values()) - loads[128] <= narrow_loads, loads
