"""Tests of the readout's cross-entropy, by torch and Triton, against autograd in fp64; the kernel's budget."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from triton_support import Guarded, assert_budget, on_each_device

from hpr_kernels.backend import uses_triton
from hpr_kernels.compiled import CAPABILITIES, compile_for
from hpr_kernels.layout import padded
from hpr_kernels.loss import dispatch, readout_cross_entropy, reference
from hpr_kernels.testing import assert_close, relative_error

pytest.importorskip("triton")


class Case(NamedTuple):
    R: int
    T: int
    B: int
    N: int
    N_out: int
    first: int


CASES = [
    Case(R=1, T=1, B=1, N=1, N_out=1, first=0),
    Case(R=3, T=8, B=33, N=33, N_out=3, first=0),
    Case(R=3, T=8, B=1, N=198, N_out=10, first=7),
    Case(R=1, T=3, B=33, N=300, N_out=17, first=2),
]
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.R}x{c.N}-T{c.T}-B{c.B}-O{c.N_out}-from{c.first}"
)


def numbers(rng: torch.Generator, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Rates, readout and targets."""
    R, T, B, N, N_out, _ = case
    rates = torch.randn(R, T, B, N, generator=rng).relu()
    readout = torch.randn(R, N_out, N, generator=rng) / N**0.5
    return rates, readout, torch.randint(0, N_out, (R, T, B), generator=rng)


def check(case: Case, got: tuple[Tensor, ...], values: tuple[Tensor, Tensor, Tensor]) -> None:
    """Check loss, K ∂L/∂y and K ∂L/∂a within twice the error of torch's own fp32, and the accuracy exactly."""
    rates, readout, targets = values
    exact = reference.readout_cross_entropy(rates.double(), readout.double(), targets, case.first)
    single = reference.readout_cross_entropy(rates, readout, targets, case.first)
    for result, wanted, torchs in zip(got, exact, single, strict=True):
        theirs = max(relative_error(torchs, wanted), torch.finfo(torch.float32).eps)
        assert_close(result.cpu(), wanted, 2 * theirs)
    assert torch.equal(got[1].cpu(), exact[1].float())


@every_case
def test_torch_equals_autograd(rng: torch.Generator, case: Case) -> None:
    values = numbers(rng, case)
    gradient = torch.empty_like(values[0])
    loss, accuracy, dy = readout_cross_entropy(*values, gradient, first=case.first)
    check(case, (loss, accuracy, dy, gradient), values)


@every_case
def test_torch_writes_the_partial_sums_of_any_buffers(rng: torch.Generator, case: Case) -> None:
    """Buffers of three tiles and padded rows, full of NaN: the means are those of the public function."""
    values = numbers(rng, case)
    gradient = torch.empty_like(values[0])
    wanted = (*readout_cross_entropy(*values, gradient, first=case.first), gradient)
    K = (case.T - case.first) * case.B
    sums = torch.full((case.R, 2, 3), torch.nan)
    dy = torch.full((case.R, K, padded(case.N_out)), torch.nan)
    again = torch.full_like(gradient, torch.nan)
    dispatch.readout_cross_entropy(*values, again, sums, dy[..., : case.N_out], case.first)
    means = dispatch.mean(sums, K)
    assert torch.equal(means, torch.stack(wanted[:2], 1))
    assert torch.equal(sums.sum(-1) / K, means)
    assert_close(dy[..., : case.N_out], wanted[2], 1e-7)
    assert bool(dy[..., case.N_out :].isnan().all())
    assert_close(again, wanted[3], 1e-6)


@on_each_device
@every_case
def test_triton_equals_autograd(rng: torch.Generator, case: Case, device: str) -> None:
    """The rates lie in a trace whose other columns are NaN, the gradient in padded rows; guard bands surround both."""
    R, T, B, N, _, first = case
    values = numbers(rng, case)
    trace = Guarded(R, T, B, padded(N + 3), device=device)
    rates = trace.tensor[..., :N]
    rates.copy_(values[0])
    gradient = Guarded(R, T, B, padded(N), device=device)
    assert uses_triton(rates)
    before = trace.memory.clone()
    loss, accuracy, dy = readout_cross_entropy(
        rates,
        values[1].to(device),
        values[2].to(device),
        gradient.tensor[..., :N],
        first=first,
        precision="ieee",
    )
    check(case, (loss, accuracy, dy, gradient.tensor[..., :N]), values)
    gradient.check()
    assert bool(gradient.unwritten()[..., N:].all())
    assert torch.equal(trace.memory, before)


@on_each_device
def test_pack_is_its_networks(rng: torch.Generator, device: str) -> None:
    """A network's result has the same bits alone, in a pack, and each time."""
    values = tuple(v.to(device) for v in numbers(rng, CASES[1]))

    def run(networks: slice) -> tuple[Tensor, ...]:
        part = [v[networks].contiguous() for v in values]
        gradient = torch.empty_like(part[0])
        return (*readout_cross_entropy(*part, gradient), gradient)

    together = run(slice(None))
    assert all(map(torch.equal, together, run(slice(None))))
    for r in range(CASES[1].R):
        alone = run(slice(r, r + 1))
        assert all(torch.equal(one[0], pack[r]) for one, pack in zip(alone, together, strict=True))


# The interpreter computes with NumPy, which warns of infinity times zero.
@pytest.mark.filterwarnings("ignore:invalid value encountered")
@on_each_device
def test_a_tie_is_a_miss_and_divergence_shows(rng: torch.Generator, device: str) -> None:
    """One network each has dead units, an infinite rate, a NaN rate, and a class that does not exist."""
    R, T, B, N, N_out = 5, 2, 33, 33, 3
    rates = torch.randn(R, T, B, N, generator=rng).relu()
    readout = torch.randn(R, N_out, N, generator=rng)
    targets = torch.zeros(R, T, B, dtype=torch.int64)
    rates[0] = 0
    rates[1, 1, 20, 3] = torch.inf
    rates[2, 0, 5, 3] = torch.nan
    targets[3, 1, 32] = N_out
    gradient = torch.empty_like(rates, device=device)
    loss, accuracy, _ = readout_cross_entropy(
        rates.to(device), readout.to(device), targets.to(device), gradient
    )
    assert accuracy[0].item() == 0
    assert loss.isfinite().tolist() == [True, False, False, False, True]
    assert bool(gradient[[0, 4]].isfinite().all())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": torch.zeros(3, 8, 33)}, TypeError, "targets: expected torch.int64 on"),
        ({"first": 8}, ValueError, r"first: expected a step in 0 … 7, got 8"),
        ({"precision": "bf16"}, ValueError, "precision: expected one of"),
        ({"gradient": torch.zeros(3, 8, 33, 32)}, ValueError, r"gradient: expected shape \[R, T"),
    ],
    ids=["targets", "first", "precision", "gradient"],
)
def test_refuses(
    rng: torch.Generator, change: dict[str, object], error: type[Exception], message: str
) -> None:
    rates, readout, targets = numbers(rng, CASES[1])
    arguments = {
        "rates": rates,
        "readout": readout,
        "targets": targets,
        "gradient": torch.empty_like(rates),
    }
    with pytest.raises(error, match=message):
        readout_cross_entropy(**{**arguments, **change})


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
def test_budget(capability: int, precision: str) -> None:
    from hpr_kernels.loss import triton

    for specimen in triton.specimens(precision)[:2]:
        compiled = compile_for(specimen, capability)
        # The narrow loads are those of the targets, 8 bytes each.
        assert_budget(compiled, narrow_loads=2)
        assert compiled.tensor_core > 0
