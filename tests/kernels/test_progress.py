"""What `leaky_rnn_ntk`, `two_layer_ntk` and `leaky_rnn_kernel_alignment` tell the function `progress`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from triton_support import on_each_device

from hpr_kernels import leaky_rnn_kernel_alignment, leaky_rnn_ntk, two_layer_ntk
from hpr_kernels.backend import uses_triton
from hpr_kernels.tangent import eager
from hpr_kernels.tangent.block import JacobianBlock
from hpr_kernels.testing import random_network

RHO = 0.3
WRONG = r"^progress: expected a function of two numbers, got int$"


class Calls(list[tuple[int, int | None]]):
    """The calls of `progress`."""

    def __call__(self, done: int, total: int | None) -> None:
        self.append((done, total))

    def check(self) -> int:
        """Check that the parts were counted one by one up to a total that was known at the first; it is returned."""
        total = len(self)
        assert self == [(done, total) for done in range(1, total + 1)]
        return total


def weights(rng: torch.Generator, R: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    given = random_network(rng, N=9, T=3, B=4, N_out=2, R=R)._asdict()
    return given.pop("x"), given


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for each block of a kernel that is computed during a test."""
    made: list[int] = []
    whole = JacobianBlock.kernel

    def spy(self: JacobianBlock, *args: Any) -> Tensor:
        made.append(1)
        return whole(self, *args)

    monkeypatch.setattr(JacobianBlock, "kernel", spy)
    return made


@pytest.mark.parametrize("second", [False, True], ids=["x1 alone", "x1 and x2"])
@pytest.mark.parametrize("R", [None, 3], ids=["plain", "pack"])
@pytest.mark.parametrize("reduce", ["full", "diagonal", "trace"])
def test_a_kernel_counts_its_blocks(
    rng: torch.Generator, reduce: Any, R: int | None, second: bool, blocks: list[int]
) -> None:
    x, given = weights(rng, R)
    x2 = x[..., :3, :] if second else None
    with pytest.raises(ValueError, match=r"^memory_budget: expected at least") as refused:
        leaky_rnn_ntk(x, x2, **given, rho=RHO, reduce=reduce, memory_budget=1)
    least = int(str(refused.value).split()[4])
    expected = leaky_rnn_ntk(x, x2, **given, rho=RHO, reduce=reduce)
    totals = []
    for budget in (least, 2 * least, 5 * least, 1 << 28):
        calls = Calls()
        blocks.clear()
        K = leaky_rnn_ntk(
            x, x2, **given, rho=RHO, reduce=reduce, memory_budget=budget, progress=calls
        )
        torch.testing.assert_close(K, expected)
        totals.append(calls.check())
        assert totals[-1] == len(blocks)
    assert totals[-1] == 1
    assert totals[0] > totals[2] > 1
    # The least budget holds one of 6 outputs of one of 4 examples, against 3 in x2.
    rows, outputs = (24, 1) if reduce == "full" else (4, 6)
    pairs = rows * rows * 3 // 4 if second else rows * (rows + 1) // 2
    assert totals[0] == (R or 1) * outputs * pairs


@pytest.mark.parametrize("R", [None, 3], ids=["plain", "pack"])
def test_an_alignment_counts_its_pairs_of_blocks(
    rng: torch.Generator, R: int | None, blocks: list[int]
) -> None:
    x, before = weights(rng, R)
    _, after = weights(rng, R)
    totals = []
    for budget in (30_000, 60_000, 1 << 28):
        calls = Calls()
        blocks.clear()
        leaky_rnn_kernel_alignment(
            x, before=before, after=after, rho=RHO, memory_budget=budget, progress=calls
        )
        totals.append(calls.check())
        assert 2 * totals[-1] == len(blocks)
    assert totals[-1] == 1
    assert totals[0] > totals[1] > 1


@on_each_device
def test_an_alignment_by_triton(
    rng: torch.Generator, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("torch computed a block")

    monkeypatch.setattr(eager, "alignment_sums", refuse)
    net = random_network(rng, N=9, T=3, B=4, N_out=2, dtype=torch.float32)
    given = {name: value.to(device) for name, value in net._asdict().items()}
    x = given.pop("x")
    assert uses_triton(x)
    totals = []
    for budget in (13_000, 1 << 28):
        calls = Calls()
        leaky_rnn_kernel_alignment(
            x, before=given, after=given, rho=RHO, memory_budget=budget, progress=calls
        )
        totals.append(calls.check())
    # Four examples one by one, then all at once.
    assert totals == [10, 1]


def test_two_layers(rng: torch.Generator) -> None:
    x = torch.randn(5, 3, generator=rng)
    hidden, readout = torch.randn(4, 3, generator=rng), torch.randn(2, 4, generator=rng)
    totals = []
    for budget in (2_000, 1 << 28):
        calls = Calls()
        two_layer_ntk(x, hidden=hidden, readout=readout, memory_budget=budget, progress=calls)
        totals.append(calls.check())
    assert totals[0] > totals[1] == 1


def test_what_cannot_be_called_is_named_before_any_work(rng: torch.Generator) -> None:
    """The inputs are NaN, which the first pass over them would name."""
    x, given = weights(rng, None)
    x *= torch.nan
    wrong: Any = 3
    with pytest.raises(TypeError, match=WRONG):
        leaky_rnn_ntk(x, **given, rho=RHO, progress=wrong)
    with pytest.raises(TypeError, match=WRONG):
        leaky_rnn_kernel_alignment(x, before=given, after=given, rho=RHO, progress=wrong)
    with pytest.raises(TypeError, match=WRONG):
        two_layer_ntk(x[0], hidden=given["input"], readout=given["readout"], progress=wrong)


def test_an_error_of_the_function_reaches_the_caller(rng: torch.Generator) -> None:
    x, given = weights(rng, None)

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leaky_rnn_ntk(x, **given, rho=RHO, progress=stop)
