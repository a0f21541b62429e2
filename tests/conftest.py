"""A hostile house: uninitialised memory is NaN, a process has one thread; warnings are errors (pyproject.toml).

One thread a process: `make test` runs two processes, which a busy machine slows down by its share. Threads that wait
for each other at every small product it slows down a hundredfold.
"""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def hostile() -> None:
    """Deterministic mode fills every fresh `empty` with NaN, so that an unwritten entry shows."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator for random weights and inputs."""
    return torch.Generator().manual_seed(20240501)
