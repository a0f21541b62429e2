"""How Triton kernels are tested on a machine without a GPU, and what those tests share.

Triton settles when it is imported whether a process compiles kernels or interprets them, so there are two processes:

- `pytest` compiles for cards that are not here (`assert_budget`) and skips tests marked `interpreter`;
- `HPR_KERNELS_BACKEND=interpret pytest -m interpreter` runs kernels on CPU tensors through Triton's interpreter.

`make test` does both. A test that takes the argument `device`, from `on_each_device`, is written once: it runs under
the interpreter, and with the marker `gpu` on a card where there is one (`pytest -m gpu`).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hpr_kernels.compiled import SHARED_LIMIT, Compiled

on_each_device = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.interpreter),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)

# A NaN that no arithmetic gives, so that a stray write shows even if it is a NaN.
CANARY = 0x7FC0DEAD
BAND = 1024


class Guarded:
    """An fp32 tensor full of NaN between two bands of NaN: a read outside of it, or before writing, poisons results."""

    def __init__(self, *shape: int, device: str) -> None:
        size = torch.Size(shape).numel()
        self.memory = torch.full((size + 2 * BAND,), CANARY, dtype=torch.int32, device=device)
        self.tensor: Tensor = self.memory[BAND : BAND + size].view(torch.float32).view(shape)

    def check(self) -> None:
        """Fail where anything was written outside."""
        bands = torch.cat([self.memory[:BAND], self.memory[-BAND:]])
        stray = int((bands != CANARY).sum())
        assert stray == 0, f"{stray} elements written outside a tensor of {self.tensor.shape}"

    def unwritten(self) -> Tensor:
        """Where the tensor still holds what it was filled with."""
        return self.tensor.view(torch.int32) == CANARY


def assert_budget(compiled: Compiled, *, narrow_loads: int = 0, spills: int = 0) -> None:
    """No local memory; shared memory that exists; no stack, and loads of 16 bytes, but for the exceptions named."""
    assert compiled.local == 0
    assert compiled.spills <= spills
    assert compiled.stack <= 8 * spills
    assert compiled.shared <= SHARED_LIMIT[compiled.capability]
    loads = compiled.global_loads()
    assert loads.get(128, 0) > 0
    assert sum(loads.values()) - loads[128] <= narrow_loads, loads
