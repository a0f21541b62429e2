"""Tests of the memory that a kernel allocates beside its result, by the peak of the process's resident memory.

In a process of its own (`pytest -m alone`): in one that has run large kernels the mark rises by more than a call needs.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpr_kernels import (
    FactoredJacobian,
    leaky_rnn_kernel_alignment,
    leaky_rnn_ntk,
    ntk,
    two_layer_ntk,
)
from hpr_kernels.memory import on_huge_pages

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

MIB = 1 << 20
# This allows for the allocator's rounding and for buffers of libraries.
SLACK = 12 * MIB


def resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def beside_result(function: Callable[[], Tensor]) -> int:
    """The most bytes that a call holds at once, without its result: the least of five calls.

    Pages that the allocator has not given back add to a measurement, by up to 8 MiB on a busy machine.
    """
    return min(beside_result_once(function) for _ in range(5))


def beside_result_once(function: Callable[[], Tensor]) -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    # This resets the high-water mark.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    result = function()
    return resident("VmHWM") - before - result.nbytes


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("budget", [24 * MIB, 80 * MIB], ids=["24 MiB", "80 MiB"])
@pytest.mark.parametrize("order", ["hadamard", "propagate", "dense"])
@pytest.mark.parametrize(
    "shape", [(1, 1200, 1, 20, 3), (300, 4, 6, 50, 53), (40, 2, 60, 90, 20)], ids=str
)
def test_gram(shape: tuple[int, ...], order: str, budget: int) -> None:
    B, O, S, N, F = shape
    J = FactoredJacobian(normal(B, O, S, N), normal(B, S, F))
    # The first call lets libraries allocate what they keep.
    FactoredJacobian(normal(2, 2, 2, 2), normal(2, 2, 2)).gram(order=order)
    plan = J.plan(order=order, memory_budget=budget)
    used = beside_result(lambda: J.gram(order=order, memory_budget=budget))
    assert used <= plan.workspace + SLACK
    assert plan.workspace <= budget


@pytest.mark.parametrize("self_connections", [True, False], ids=["free", "Dale's law"])
@pytest.mark.parametrize("R", [1, 3])
def test_ntk(R: int, self_connections: bool) -> None:
    """All adjoints would take 230 MiB."""
    B, T, N, N_out = 800, 4, 100, 2
    x = normal(1, T, B, 3)
    weights = {
        "recurrent": normal(R, N, N) / 10,
        "input": normal(R, N, 3),
        "readout": normal(R, N_out, N),
    }
    used = beside_result(
        lambda: leaky_rnn_ntk(
            x,
            **weights,
            rho=0.3,
            outputs="last",
            memory_budget=40 * MIB,
            self_connections=self_connections,
        )
    )
    assert used <= 40 * MIB + SLACK


def test_alignment() -> None:
    """Each of the two packs' adjoints would take 77 MiB, and each kernel 10 MiB."""
    B, T, N, N_out = 800, 4, 100, 2
    pair = {
        name: {
            "recurrent": normal(N, N) / 10,
            "input": normal(N, 3),
            "readout": normal(N_out, N) + (name == "after"),
        }
        for name in ("before", "after")
    }
    used = beside_result(
        lambda: leaky_rnn_kernel_alignment(
            normal(T, B, 3), **pair, rho=0.3, outputs="last", memory_budget=40 * MIB
        )
    )
    assert used <= 40 * MIB + SLACK


def test_a_large_tensor_is_on_huge_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text(encoding="utf-8"):
        pytest.skip("a kernel without huge pages")
    memory = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    tensor = torch.frombuffer(memory, dtype=torch.uint8)
    assert faults(tensor[: 16 * MIB]) > 1000
    assert faults(on_huge_pages(tensor[16 * MIB :])) < 100


def faults(tensor: Tensor) -> int:
    """Page faults while a tensor is written; libraries' threads have none of their own here."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensor.fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.parametrize("parameters", [None, ("recurrent", "bias")], ids=["all", "two groups"])
def test_ntk_with_a_bias(parameters: Any) -> None:
    """The inputs get a column of ones, and the columns of two groups that are apart are copied."""
    B, T, N, N_out = 800, 4, 100, 2
    x = normal(T, B, 40)
    weights = {
        "recurrent": normal(N, N) / 10,
        "input": normal(N, 40) / 10,
        "bias": normal(N),
        "readout": normal(N_out, N),
    }
    used = beside_result(
        lambda: leaky_rnn_ntk(
            x, **weights, rho=0.3, outputs="last", activation="tanh", parameters=parameters,
            memory_budget=20 * MIB,
        )
    )  # fmt: skip
    assert used <= 20 * MIB + SLACK


@pytest.mark.parametrize("reduce", ["full", "trace"])
def test_one_example_that_is_larger_than_the_budget(reduce: str) -> None:
    """The adjoints of one example take 38 MiB, so the kernel takes some of its outputs at a time."""
    B, T, N, N_out = 2, 100, 100, 10
    x = normal(T, B, 3)
    weights = {
        "recurrent": normal(N, N) / 10,
        "input": normal(N, 3),
        "readout": normal(N_out, N) / 10,
    }
    leaky_rnn_ntk(x[:2], **weights, rho=0.3)
    used = beside_result(
        lambda: leaky_rnn_ntk(x, **weights, rho=0.3, reduce=reduce, memory_budget=20 * MIB)
    )
    assert used <= 20 * MIB + SLACK


def test_two_layers() -> None:
    x, hidden, readout = normal(3000, 4), normal(50, 4), normal(1, 50)
    used = beside_result(
        lambda: two_layer_ntk(x, hidden=hidden, readout=readout, memory_budget=40 * MIB)
    )
    assert used <= 40 * MIB + SLACK


def test_any_module() -> None:
    layers = [torch.nn.Linear(4, 4) for _ in range(12)]
    module, x = torch.nn.Sequential(*layers), normal(400, 4)
    used = beside_result(lambda: ntk(module, x, memory_budget=40 * MIB))
    assert used <= 40 * MIB + SLACK
