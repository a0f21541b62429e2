"""Every suite runs on the CPU, and raises what asv takes for a skip where there is no CUDA device."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

from benchmarks.suites import cases, experiments, imports, leaky_rnn, measure, ntk, training

SUITES = [
    suite
    for module in (leaky_rnn, ntk, training, experiments)
    for _, suite in inspect.getmembers(module, inspect.isclass)
    if suite.__module__ == module.__name__
]


def suite_cases() -> Iterator[Any]:
    for suite in SUITES:
        for chosen in product(*getattr(suite, "params", ())):
            if "cuda" not in chosen:
                yield pytest.param(suite, chosen, id="-".join([suite.__name__, *map(str, chosen)]))


@pytest.mark.parametrize(("suite", "parameters"), [*suite_cases()])
def test_every_benchmark_runs(suite: type, parameters: tuple[Any, ...]) -> None:
    made: Any = suite()
    made.setup(*parameters)
    try:
        names = [name for name in vars(suite) if name.startswith("time_")]
        assert names
        for name in names:
            getattr(made, name)(*parameters)
    finally:
        getattr(made, "teardown", lambda *_: None)(*parameters)


@pytest.mark.parametrize("suite", [s for s in SUITES if "device" in getattr(s, "param_names", ())])
def test_a_device_that_is_not_here_is_skipped(suite: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made: Any = suite()
    with pytest.raises(NotImplementedError, match="no CUDA device"):
        made.setup(*[values[0] for values in made.params[:-1]], "cuda")


@pytest.mark.parametrize("name", [n for n in vars(imports.Imports) if n.startswith("timeraw_")])
def test_an_import_starts_no_cuda(name: str) -> None:
    done = trapped(getattr(imports.Imports(), name)())
    assert done.returncode == 0, done.stderr


def test_the_suites_start_no_cuda() -> None:
    done = trapped(
        "from benchmarks.suites import calls, cases, experiments, guards, leaky_rnn, ntk, training"
    )
    assert done.returncode == 0, done.stderr


def test_a_start_of_cuda_would_be_seen() -> None:
    """The trap works without a card, too, where PyTorch itself would raise another error."""
    assert "ZeroDivisionError" in trapped("torch.zeros(1, device='cuda')").stderr


def trapped(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process in which any start of CUDA raises."""
    trap = "import torch; torch.cuda.init = torch.cuda._lazy_init = lambda: 1 / 0"
    return subprocess.run([sys.executable, "-c", f"{trap}; {code}"], capture_output=True, text=True)


def test_a_slowdown_is_ours_over_theirs() -> None:
    small, large = torch.randn(32, 32), torch.randn(256, 256)
    assert measure.slowdown(lambda: small @ small, lambda: large @ large) < 1
    assert measure.slowdown(lambda: large @ large, lambda: small @ small) > 1


@pytest.mark.parametrize("R", [None, 2])
def test_a_drawn_network_is_the_same_in_every_dtype(R: int | None) -> None:
    shape = cases.NetworkShape(3, 4, 2, 3, "all", N=7)
    for single, double in zip(
        cases.draw_network(shape, R=R),
        cases.draw_network(shape, R=R, dtype=torch.float64),
        strict=True,
    ):
        assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
        assert torch.equal(single.double(), double)
