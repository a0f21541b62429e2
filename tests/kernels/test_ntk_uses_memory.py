"""`ntk` keeps to its memory budget with layers of every kind; in a process of its own (`pytest -m alone`)."""

from __future__ import annotations

import sys

import pytest
from ntk_zoo_parts import Own, weight
from test_memory import MIB, SLACK, beside_result, normal
from torch import nn

from hpr_kernels import ntk

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "perceptron": (
        nn.Sequential(nn.Linear(200, 500), nn.Tanh(), nn.Linear(500, 300), nn.Tanh(), nn.Linear(300, 10)),
        (400, 200)),
    "convolution": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.MaxPool2d(4), nn.Conv2d(8, 9, 4), nn.Flatten()),
        (200, 3, 18, 18)),
    "tokens": (nn.Sequential(nn.Linear(30, 60), nn.Tanh(), nn.Linear(60, 2)), (60, 20, 30)),
    "directly": (Own(lambda self, x: (x @ self.a).tanh() @ self.b, a=weight(30, 40), b=weight(40, 5)), (1000, 30)),
}  # fmt: skip


@pytest.mark.parametrize("reduce", ["full", "trace"])
@pytest.mark.parametrize("name", MODULES)
def test_layers(name: str, reduce: str) -> None:
    """In one piece each of these takes more than 36 MiB."""
    module, shape = MODULES[name]
    x = normal(*shape)
    ntk(module, x[:2])
    used = beside_result(lambda: ntk(module, x, reduce=reduce, memory_budget=24 * MIB))
    assert used <= 24 * MIB + SLACK
