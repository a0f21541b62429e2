"""The recurrence by the C kernels: accuracy, one result on every CPU and any number of threads, and its borders.

`test_recurrence.py` compares whichever backend serves the CPU with the fp64 reference; here the C kernels are named.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hpr_kernels import layout
from hpr_kernels.native import library
from hpr_kernels.recurrence import dispatch, eager, native, reference
from hpr_kernels.testing import assert_close, random_network, relative_error

pytestmark = pytest.mark.skipif(
    library.library() is None, reason="the installation has built no C kernels"
)
ACTIVATIONS = ("relu", "tanh", "linear")
HERE = Path(__file__).parent


def filled(
    N: int, T: int, B: int, N_in: int = 3, R: int = 1, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a trace with inputs and without rates, joined weights, and a readout of three outputs."""
    net = random_network(
        torch.Generator().manual_seed(7), N=N, T=T, B=B, N_in=N_in, R=R, dtype=dtype
    )
    trace = layout.empty_trace(R, T, B, N, N_in, like=net.x)
    trace[:, :-1, :, N : N + N_in] = net.x
    return trace, layout.join(net.recurrent, net.input), net.readout


def results(
    trace: Tensor, weights: Tensor, readout: Tensor, rho: float, activation: str
) -> list[Tensor]:
    """Return rates, swept gradients and adjoints by the C kernels, which scale adjoints as torch does."""
    N, T = weights.shape[1], trace.shape[1] - 1
    steps = tuple(sorted({0, T // 2, T - 1}))
    native.forward(trace, weights, rho, activation)
    rates = trace[:, 1:, :, :N]
    g = (rates * 0.5 + 0.25).contiguous()
    native.sweep(g, trace, weights, rho, activation)
    adjoints = native.adjoints(trace, weights, readout, rho, steps, activation)
    scaled = native.adjoints(trace, weights, readout, rho, steps, activation, 0.3)
    assert torch.equal(scaled, 0.3 * adjoints)
    return [rates, g, adjoints]


def references(
    trace: Tensor, weights: Tensor, readout: Tensor, rho: float, activation: str
) -> list[Tensor]:
    """Return what `results` does, by the equations, in the dtype of the arguments."""
    N, T = weights.shape[1], trace.shape[1] - 1
    recurrent, input = weights[..., :N], weights[..., N:]
    rates = reference.leaky_rnn(trace[:, :-1, :, N:], recurrent, input, rho, activation)
    slope = {"relu": (rates > 0).to(rates), "tanh": 1 - rates.square()}.get(
        activation, torch.ones_like(rates)
    )
    g = rates * 0.5 + 0.25
    swept = [slope[:, -1] * g[:, -1]]
    for s in range(T - 2, -1, -1):
        pulled = g[:, s] + (1 - rho) * swept[0] @ recurrent
        swept.insert(0, slope[:, s] * pulled + rho * swept[0])
    steps = sorted({0, T // 2, T - 1})
    adjoints = reference.adjoints(rates, recurrent, readout, rho, steps, activation)
    return [rates, torch.stack(swept, 1), adjoints.permute(0, 3, 2, 1, 4)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("N", "T", "B", "N_in", "rho"),
    [(1, 1, 1, 1, 0.0), (33, 2, 5, 2, 0.5), (33, 9, 33, 1, 0.9), (300, 2, 33, 3, 0.0)],
    ids=str,
)
def test_equals_the_reference(
    N: int, T: int, B: int, N_in: int, rho: float, activation: str
) -> None:
    """The error is rounding in fp64, and at most twice that of torch's fp32 in fp32."""
    given = filled(N, T, B, N_in, R=2)
    exact = references(*(value.clone() for value in given), rho, activation)
    for got, wanted in zip(results(*given, rho, activation), exact, strict=True):
        assert_close(got, wanted)
    errs_at_most_twice_as_much(N, T, B, N_in, rho, activation)


@pytest.mark.parametrize(
    ("N", "T", "B", "N_in", "rho"), [(1000, 40, 4, 3, 0.5), (300, 2, 33, 784, 0.5)], ids=str
)
def test_long_sums_err_at_most_twice_as_much_as_torch(
    N: int, T: int, B: int, N_in: int, rho: float
) -> None:
    errs_at_most_twice_as_much(N, T, B, N_in, rho, "linear")


def errs_at_most_twice_as_much(
    N: int, T: int, B: int, N_in: int, rho: float, activation: str
) -> None:
    """Check the errors in fp32 against those of the equations in torch, from fp64."""
    single = [value.float() for value in filled(N, T, B, N_in, R=2)]
    torchs = references(*(value.clone() for value in single), rho, activation)
    exact = references(*(value.double() for value in single), rho, activation)
    ours = results(*single, rho, activation)
    for got, theirs, wanted in zip(ours, torchs, exact, strict=True):
        limit = max(relative_error(theirs, wanted), torch.finfo(torch.float32).eps)
        assert_close(got, wanted, 2 * limit)


def test_tanh_over_its_range() -> None:
    """One step of one unit computes tanh(w x): numbers near zero keep their relative accuracy."""
    size = torch.logspace(-12, 3, 4001, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        x = torch.cat([-size, size]).to(dtype)
        trace = layout.empty_trace(1, 1, len(x), 1, 1, like=x)
        trace[0, 0, :, 1] = x
        weights = torch.zeros(1, 1, 16, dtype=dtype)
        weights[..., 1] = 1
        native.forward(trace, weights, 0.0, "tanh")
        error = (trace[0, 1, :, 0].double() / x.double().tanh() - 1).abs().max()
        assert float(error) <= 4 * torch.finfo(dtype).eps


def test_a_nan_stays_in_its_example() -> None:
    trace, weights, _ = filled(33, 4, 5)
    clean = trace.clone()
    trace[0, 1, 2, 34] = torch.nan
    for z in (trace, clean):
        native.forward(z, weights, 0.5, "relu")
    assert bool(trace[0, 2:, 2, :33].isnan().any(-1).all())
    others = [0, 1, 3, 4]
    assert torch.equal(trace[0, :, others], clean[0, :, others])


def digest(dtype: torch.dtype) -> str:
    """Return one hash of all results of a few shapes."""
    bits = hashlib.sha256()
    for activation in ACTIVATIONS:
        for N, T, B in ((1, 2, 1), (33, 4, 5), (70, 3, 13)):
            for value in results(*filled(N, T, B, R=2, dtype=dtype), 0.367, activation):
                bits.update(value.contiguous().numpy().tobytes())
    return bits.hexdigest()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_instruction_set_gives_the_same_bits(dtype: str) -> None:
    """The build for CPUs without fused multiply-adds computes them in software."""
    code = f"import torch, test_recurrence_native as t; print(t.digest(torch.{dtype}))"
    environment = {
        **os.environ,
        library.VARIABLE: "baseline",
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(getattr(torch, dtype))


@pytest.mark.parametrize("R", [1, 3])
def test_threads_and_packs_change_no_bit(R: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = filled(70, 5, 13, R=R, dtype=torch.float32)
    together = results(*(value.clone() for value in given), 0.5, "relu")
    for r in range(R):
        alone = results(*(value[r : r + 1].clone() for value in given), 0.5, "relu")
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_[r])
    monkeypatch.setattr(native, "TASK_ROWS", 4)
    monkeypatch.setattr("hpr_kernels.workers._cores", lambda: 2)
    torch.set_num_threads(2)
    try:
        threaded = results(*(value.clone() for value in given), 0.5, "relu")
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, threaded, together))


def guarded(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of `value` between two margins of NaN, and its storage."""
    margin = 128
    storage = value.new_full((value.numel() + 2 * margin,), torch.nan)
    inner = storage[margin:-margin].view(value.shape)
    return inner.copy_(value), storage


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("N", "T", "B"), [(1, 1, 1), (33, 3, 5), (47, 2, 7)])
def test_margins_stay_untouched_and_unread(N: int, T: int, B: int, activation: str) -> None:
    given = filled(N, T, B, R=2)
    wanted = results(*(value.clone() for value in given), 0.5, activation)
    copies, storages = zip(*map(guarded, given), strict=True)
    before = [storage.isnan().sum() for storage in storages]
    got = results(*copies, 0.5, activation)
    g, storage = guarded(wanted[0] * 0.5 + 0.25)
    native.sweep(g, copies[0], copies[1], 0.5, activation)
    for some, all_ in zip([*got, g], [*wanted, wanted[1]], strict=True):
        assert torch.equal(some, all_)
    assert [s.isnan().sum() for s in storages] == before
    assert int(storage.isnan().sum()) == 256


def test_the_mode_of_the_processor_is_the_callers_afterwards() -> None:
    """Subnormal numbers are kept inside, whatever the caller has set."""
    tiny = torch.tensor([1e-40])
    trace = layout.empty_trace(1, 1, 1, 1, 1, like=tiny)
    weights = torch.zeros(1, 1, 16)
    trace[..., 0, 0, 1], weights[..., 1] = 1e-20, 1e-20
    assert torch.set_flush_denormal(True)
    try:
        native.forward(trace, weights, 0.0, "linear")
        assert float(tiny * 1) == 0
    finally:
        torch.set_flush_denormal(False)
    assert float(trace[0, 1, 0, 0]) > 0


def test_torch_serves_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both paths compute the same numbers up to rounding, by the same functions of `dispatch`."""
    trace, weights, readout = filled(33, 4, 5, R=2)
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    assert not native.serves(trace, weights)
    other = trace.clone()
    dispatch.forward(other, weights, 0.5)
    eager.forward(trace, weights, 0.5)
    assert torch.equal(other, trace)
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "auto")
    if not library.obstacle():
        assert native.serves(trace, weights)
        dispatch.forward(other, weights, 0.5)
        assert_close(other, trace)
        got = dispatch.adjoints(other, weights, readout, 0.5, (1, 3))
        assert_close(got, eager.adjoints(trace, weights, readout, 0.5, (1, 3)))
