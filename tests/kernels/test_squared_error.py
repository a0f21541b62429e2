"""Tests of the readout's squared error, by torch and Triton, against autograd in fp64; the kernel's budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from triton_support import Guarded, assert_budget, on_each_device

from hpr_kernels.backend import uses_triton
from hpr_kernels.compiled import CAPABILITIES, compile_for
from hpr_kernels.layout import padded
from hpr_kernels.loss import (
    dispatch,
    readout_cross_entropy,
    readout_squared_error,
    reference,
)
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
    Case(R=3, T=1, B=33, N=33, N_out=3, first=0),
    Case(R=2, T=50, B=1, N=65, N_out=1, first=0),
    Case(R=3, T=8, B=5, N=198, N_out=10, first=7),
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
    return rates, readout, torch.randn(R, T, B, N_out, generator=rng)


def check(case: Case, got: tuple[Tensor, ...], values: tuple[Tensor, Tensor, Tensor]) -> None:
    """Check loss, K ∂L/∂y and K ∂L/∂a within twice the error of torch's own fp32."""
    exact = reference.readout_squared_error(*(v.double() for v in values), case.first)
    single = reference.readout_squared_error(*values, case.first)
    for result, wanted, torchs in zip(got, exact, single, strict=True):
        theirs = max(relative_error(torchs, wanted), torch.finfo(torch.float32).eps)
        assert_close(result.cpu(), wanted, 2 * theirs)


@every_case
def test_torch_equals_autograd(rng: torch.Generator, case: Case) -> None:
    values = numbers(rng, case)
    gradient = torch.empty_like(values[0])
    loss, dy = readout_squared_error(*values, gradient, first=case.first)
    check(case, (loss, dy, gradient), values)
    double = tuple(v.double() for v in values)
    gradient = torch.empty_like(double[0])
    got = (*readout_squared_error(*double, gradient, first=case.first), gradient)
    exact = reference.readout_squared_error(*double, case.first)
    for result, wanted in zip(got, exact, strict=True):
        assert_close(result, wanted, 1e-12)


@every_case
def test_torch_writes_the_partial_sums_of_any_buffers(rng: torch.Generator, case: Case) -> None:
    """Buffers of three tiles and padded rows, full of NaN: the loss is that of the public function."""
    values = numbers(rng, case)
    gradient = torch.empty_like(values[0])
    loss, dy = readout_squared_error(*values, gradient, first=case.first)
    sums = torch.full((case.R, 1, 3), torch.nan)
    rows = torch.full((*dy.shape[:2], padded(case.N_out)), torch.nan)
    again = torch.full_like(gradient, torch.nan)
    within = rows[..., : case.N_out]
    dispatch.readout_squared_error(*values, again, sums, within, case.first)
    # The padded rows may be summed in another order.
    assert_close(dispatch.mean(sums, dy[0].numel())[:, 0], loss, 1e-6)
    assert torch.equal(sums[..., 1:], torch.zeros_like(sums[..., 1:]))
    assert_close(within, dy, 1e-6)
    assert bool(rows[..., case.N_out :].isnan().all())
    assert_close(again, gradient, 1e-6)


@on_each_device
@every_case
def test_triton_equals_autograd(rng: torch.Generator, case: Case, device: str) -> None:
    """The rates lie in a trace whose other columns are NaN, the gradient in padded rows; guard bands surround all."""
    R, T, B, N, N_out, first = case
    values = numbers(rng, case)
    trace = Guarded(R, T, B, padded(N + 3), device=device)
    rates = trace.tensor[..., :N]
    rates.copy_(values[0])
    gradient = Guarded(R, T, B, padded(N), device=device)
    targets = Guarded(R, T, B, N_out, device=device)
    targets.tensor.copy_(values[2])
    assert uses_triton(rates)
    before = trace.memory.clone()
    loss, dy = readout_squared_error(
        rates,
        values[1].to(device),
        targets.tensor,
        gradient.tensor[..., :N],
        first=first,
        precision="ieee",
    )
    check(case, (loss, dy, gradient.tensor[..., :N]), values)
    for guarded in (gradient, targets):
        guarded.check()
    assert bool(gradient.unwritten()[..., N:].all())
    assert torch.equal(trace.memory, before)


@on_each_device
@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
def test_each_precision_keeps_its_error(rng: torch.Generator, precision: str, device: str) -> None:
    """tf32 keeps 11 bits of each factor, so N products err by at most 2⁻¹⁰ of the sum of their sizes."""
    case = CASES[3]
    values = numbers(rng, case)
    gradient = torch.empty_like(values[0], device=device)
    loss, dy = readout_squared_error(
        *(v.to(device) for v in values), gradient, first=case.first, precision=precision
    )
    exact = reference.readout_squared_error(*(v.double() for v in values), case.first)
    error = 2e-6 if precision == "tf32x3" else 2.0**-9
    for result, wanted in zip((loss, dy, gradient), exact, strict=True):
        assert_close(result.cpu(), wanted, error)


@on_each_device
def test_pack_is_its_networks(rng: torch.Generator, device: str) -> None:
    """A network's result has the same bits alone, in a pack, and each time."""
    values = tuple(v.to(device) for v in numbers(rng, CASES[1]))

    def run(networks: slice) -> tuple[Tensor, ...]:
        part = [v[networks].contiguous() for v in values]
        gradient = torch.empty_like(part[0])
        return (*readout_squared_error(*part, gradient), gradient)

    together = run(slice(None))
    assert all(map(torch.equal, together, run(slice(None))))
    for r in range(CASES[1].R):
        alone = run(slice(r, r + 1))
        assert all(torch.equal(one[0], pack[r]) for one, pack in zip(alone, together, strict=True))


# The interpreter computes with NumPy, which warns of infinity times zero.
@pytest.mark.filterwarnings("ignore:invalid value encountered")
@on_each_device
def test_a_divergence_shows_in_its_own_network(rng: torch.Generator, device: str) -> None:
    """One network each has an infinite rate, a NaN rate, a NaN in the readout, a NaN target, and nothing wrong.

    The step before `first` holds NaN too, which the loss does not count.
    """
    R, T, B, N, N_out = 5, 3, 33, 33, 3
    rates = torch.randn(R, T, B, N, generator=rng).relu()
    readout = torch.randn(R, N_out, N, generator=rng)
    targets = torch.randn(R, T, B, N_out, generator=rng)
    rates[0, 1, 20, 3] = torch.inf
    rates[1, 2, 5, 3] = torch.nan
    readout[2, 1, 7] = torch.nan
    targets[3, 2, 32, 2] = torch.nan
    rates[:, 0], targets[:, 0] = torch.nan, torch.nan
    gradient = torch.empty_like(rates, device=device)
    loss, dy = readout_squared_error(
        rates.to(device), readout.to(device), targets.to(device), gradient, first=1
    )
    assert loss.isfinite().tolist() == [False, False, False, False, True]
    assert bool(gradient[4].isfinite().all())
    assert bool(dy[4].isfinite().all())
    assert bool((gradient[[0, 1, 3, 4], 0] == 0).all())


@on_each_device
def test_torch_serves_a_wide_readout(rng: torch.Generator, device: str) -> None:
    """A program keeps at most 128 outputs in registers."""
    case = Case(R=2, T=2, B=3, N=5, N_out=dispatch.MOST_OUTPUTS + 1, first=1)
    values = numbers(rng, case)
    gradient = torch.empty_like(values[0], device=device)
    on_device = [v.to(device) for v in values]
    loss, dy = readout_squared_error(*on_device, gradient, first=1)
    check(case, (loss, dy, gradient), values)
    classes = torch.randint(0, case.N_out, values[2].shape[:3], generator=rng)
    exact = reference.readout_cross_entropy(*(v.double() for v in values[:2]), classes, 1)
    got = readout_cross_entropy(*on_device[:2], classes.to(device), gradient, first=1)
    for result, wanted in zip((*got, gradient), exact, strict=True):
        assert_close(result.cpu(), wanted, 1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"targets": torch.zeros(3, 1, 33, 3, dtype=torch.int64)},
            TypeError,
            "targets: expected a dtype of float32 or float64, got torch.int64",
        ),
        (
            {"targets": torch.zeros(3, 1, 33, 3).double()},
            TypeError,
            "targets: expected torch.float32 on cpu, got torch.float64 on cpu",
        ),
        (
            {"targets": torch.zeros(3, 1, 33, 2)},
            ValueError,
            r"targets: expected shape \[R, T, B, N",
        ),
        ({"first": 1}, ValueError, r"first: expected a step in 0 … 0, got 1"),
        ({"precision": "bf16"}, ValueError, "precision: expected one of"),
        ({"readout": torch.zeros(3, 0, 33)}, ValueError, "rates: expected no empty axis"),
    ],
    ids=["classes", "dtype", "targets", "first", "precision", "empty"],
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
        readout_squared_error(**{**arguments, **change})


@pytest.mark.parametrize("loss", [readout_cross_entropy, readout_squared_error])
def test_a_gradient_that_would_be_written_to_a_copy_is_refused(
    rng: torch.Generator, loss: Callable[..., object]
) -> None:
    rates, readout, targets = numbers(rng, CASES[3])
    if loss is readout_cross_entropy:
        targets = targets.argmax(-1)
    examples_first = torch.empty_like(rates.transpose(1, 2)).contiguous().transpose(1, 2)
    with pytest.raises(ValueError, match=r"gradient: expected rows \(t, b\) one after another"):
        loss(rates, readout, targets, examples_first)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
def test_budget(capability: int, precision: str) -> None:
    from hpr_kernels.loss import triton

    specimens = [s for s in triton.specimens(precision) if s.name.startswith("squared error")]
    assert len(specimens) == 2
    for specimen in specimens:
        compiled = compile_for(specimen, capability)
        # The narrow load is that of the targets, 4 bytes.
        assert_budget(compiled, narrow_loads=1)
        assert compiled.tensor_core > 0
