"""Tests run where uninitialised memory is NaN, a process has one thread, and warnings are errors (pyproject.toml).

Each process has one thread because `make test` runs two processes. A busy machine slows these down by its share, but
threads that wait for each other at every small product become a hundred times slower.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from hpr_kernels.backend import backend

# Torch's deterministic mode requires this of cuBLAS, before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# A program goes on ignoring what it was started with, as SIGHUP under nohup and SIGINT behind `&`. A handler is not
# inherited, so the programs that tests start hear these signals.
for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda number, frame: None)

# Drawn tests draw the same every time, and a busy machine fails none of them.
settings.register_profile(
    "same everywhere", deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("same everywhere")

# Emulated tests that `make test` runs: every kernel at small shapes. The others get the marker `nightly`.
QUICK = re.compile(
    r"1x1-B1-|2x33-B5-|alignment_stores|equals_indexing|product_of_9_0|forward\[3x1-B33-T8"
    r"|padded-each-3x33x36|tensor_cores_take|2x65-T50|a_tie_is_a_miss|truncating_tensor_cores|first_removal"
    r"|every_opcode|10_0\[((forward|adjoints|cross-entropy), (tf32x3|ieee)|(gram|alignment|update), \w+)\]"
)
# Of these, a kernel that uses no tensor memory makes the bits of 8.0 on 10.0, where other tests compare them.
QUICK_ON_10_0 = re.compile(r"gram\[\w+-1x1-B1-|alignment_stores|tensor_cores_take")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this process cannot run; see tests/kernels/triton_support.py."""
    for item in items:
        if item.get_closest_marker("interpreter") and backend() != "interpret":
            item.add_marker(pytest.mark.skip(reason="needs HPR_KERNELS_BACKEND=interpret"))
        if item.get_closest_marker("emulated") and backend() == "interpret":
            item.add_marker(pytest.mark.skip(reason="needs a process that compiles kernels"))
        quick = QUICK_ON_10_0 if "emulated-100" in item.name else QUICK
        if item.get_closest_marker("emulated") and not quick.search(item.name):
            item.add_marker(pytest.mark.nightly)
        if item.get_closest_marker("alone") and config.option.markexpr != "alone":
            item.add_marker(pytest.mark.skip(reason="needs a process of its own: pytest -m alone"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def hostile() -> None:
    """Deterministic mode fills every fresh `empty` with NaN, so that an unwritten entry shows."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the marker `emulated(capability)`, Triton's kernels serve CPU tensors, emulated from their PTX."""
    marker = request.node.get_closest_marker("emulated")
    if marker is None:
        return
    jit = pytest.importorskip("triton.runtime.jit")
    from ptx_emulator.launch import server

    monkeypatch.setenv("HPR_KERNELS_BACKEND", "interpret")
    monkeypatch.setattr("hpr_kernels.backend._set_up_interpreter", lambda: None)
    # An A100 is reported to truncate the sums of its tensor cores; what later cards do is not documented.
    run = server(marker.args[0], truncate=marker.args[0] == 80)
    monkeypatch.setattr(jit.JITFunction, "run", run)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test finds no data set that this machine has kept, and what the test keeps is gone afterwards."""
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rng() -> torch.Generator:
    """Return a seeded generator for random weights and inputs."""
    return torch.Generator().manual_seed(20240501)
