"""A hostile house: uninitialised memory is NaN, threads are fixed; warnings are errors (pyproject.toml)."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def hostile() -> None:
    """Deterministic mode fills every fresh `empty` with NaN, so that an unwritten entry shows."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator for random weights and inputs."""
    return torch.Generator().manual_seed(20240501)
