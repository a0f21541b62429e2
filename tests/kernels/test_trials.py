"""Tests of the launch that places trials into the buffers of a pack, against plain indexing."""

from __future__ import annotations

import pytest
import torch
from triton_support import Guarded, on_each_device

from hpr_kernels.backend import uses_triton
from hpr_kernels.compiled import CAPABILITIES, compile_for
from hpr_kernels.layout import padded
from hpr_kernels.trials import place_trials

pytest.importorskip("triton")


@on_each_device
@pytest.mark.parametrize(
    ("R", "S", "T", "B", "N", "N_in"),
    [(1, 1, 1, 1, 1, 1), (3, 2, 8, 33, 33, 3), (3, 3, 2, 5, 198, 28), (2, 2, 1, 5, 7, 131)],
)
@pytest.mark.parametrize("N_out", [None, 1, 67], ids=["classes", "one output", "outputs"])
def test_equals_indexing(
    rng: torch.Generator,
    R: int,
    S: int,
    T: int,
    B: int,
    N: int,
    N_in: int,
    N_out: int | None,
    device: str,
) -> None:
    """The trials are one iteration of a longer draw; only the inputs' columns and the targets are written."""
    chunk = torch.randn(S, 4, T, B, N_in, generator=rng).to(device)
    if N_out is None:
        targets = torch.randint(0, 9, (S, 4, T, B), generator=rng).to(device)
        placed = torch.empty(R, T, B, dtype=torch.int64, device=device)
    else:
        targets = torch.randn(S, 4, T, B, N_out, generator=rng).to(device)
        guarded = Guarded(R, T, B, N_out, device=device)
        placed = guarded.tensor
    seed = torch.randint(0, S, (R,), generator=rng).to(device)
    trace = Guarded(R, T + 1, B, padded(N + N_in), device=device)
    assert uses_triton(chunk)
    place_trials(chunk[:, 2], targets[:, 2], seed, trace.tensor, placed, N)
    trace.check()
    if N_out is not None:
        guarded.check()
    given = (slice(None), slice(T), slice(None), slice(N, N + N_in))
    assert torch.equal(trace.tensor[given], chunk[seed, 2])
    assert torch.equal(placed, targets[seed, 2])
    untouched = trace.unwritten()
    untouched[given] = True
    assert bool(untouched.all())


def test_refuses() -> None:
    x, targets = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, dtype=torch.int64)
    trace, seed = torch.zeros(5, 3, 3, 16), torch.zeros(5, dtype=torch.int64)
    placed = torch.zeros(5, 2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"N: expected 0 … 12 units before 4 inputs, got 13"):
        place_trials(x, targets, seed, trace, placed, 13)
    with pytest.raises(
        TypeError, match=r"seed: expected torch.int64 on cpu, got torch.int32 on cpu"
    ):
        place_trials(x, targets, seed.int(), trace, placed, 12)
    outputs = torch.zeros(1, 2, 3, 7)
    with pytest.raises(TypeError, match=r"placed: expected a dtype of float32 .* got torch.int64"):
        place_trials(x, outputs, seed, trace, placed, 12)
    with pytest.raises(
        TypeError, match=r"targets: expected torch.float32 on cpu, got torch.float64"
    ):
        place_trials(x, outputs.double(), seed, trace, outputs, 12)
    with pytest.raises(
        ValueError, match=r"placed: expected shape \[R, T, B, N_out\] = \[5, 2, 3, 7\]"
    ):
        place_trials(x, outputs, seed, trace, outputs, 12)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_budget(capability: int) -> None:
    from hpr_kernels.trials import triton

    for specimen in triton.specimens()[:2]:
        compiled = compile_for(specimen, capability)
        assert (compiled.stack, compiled.local, compiled.spills) == (0, 0, 0)
