"""Kernels in tiles of some outputs of one example, `batch_first`, and the types of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hpr_kernels import leaky_rnn, leaky_rnn_adjoints, leaky_rnn_kernel_alignment, leaky_rnn_ntk
from hpr_kernels.recurrence import dispatch
from hpr_kernels.tangent import eager, tiling
from hpr_kernels.testing import Network, assert_close, random_network

RHO = 0.3


def weights(net: Network, readout: bool = True) -> dict[str, Any]:
    return {
        "recurrent": net.recurrent, "input": net.input, "readout": net.readout if readout else None,
    }  # fmt: skip


@pytest.fixture
def outputs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of outputs of an example per tile, over the calls of a test."""
    seen: set[int] = set()
    whole = tiling.one_example

    def spy(*args: Any, **kwargs: Any) -> tiling.Tiling:
        found = whole(*args, **kwargs)
        seen.add(found.outputs)
        return found

    monkeypatch.setattr(tiling, "one_example", spy)
    return seen


CASES: dict[str, dict[str, Any]] = {
    "all outputs": {},
    "pack": {"R": 2},
    "last": {"outputs": "last", "order": "dense"},
    "some steps, Dale's law": {"outputs": [1, 3], "self_connections": False},
    "propagate": {"order": "propagate", "self_connections": False},
    "hadamard": {"order": "hadamard", "R": 2},
    "rates": {"readout": False, "outputs": [2], "self_connections": False},
    "other inputs": {"second": True},
    "other inputs of the rates": {"second": True, "readout": False, "outputs": "last"},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduce", ["full", "trace", "diagonal"])
def test_pieces_make_the_whole(
    rng: torch.Generator, reduce: str, name: str, outputs_at_a_time: set[int]
) -> None:
    """The budgets start at the least that the error names, which holds one output of one example."""
    case = {"R": None, "readout": True, "second": False, **CASES[name]}
    net = random_network(rng, N=9, T=5, B=2, N_out=3, R=case.pop("R"))
    given = {**weights(net, case.pop("readout")), "rho": RHO, "reduce": reduce}
    second = net.x[..., :1, :] if case.pop("second") else None
    whole = leaky_rnn_ntk(net.x, second, **given, **case)
    with pytest.raises(ValueError, match=r"^memory_budget: expected at least") as refused:
        leaky_rnn_ntk(net.x, second, **given, **case, memory_budget=1)
    least = int(str(refused.value).split()[4])
    for budget in (least, 3 * least, 6 * least):
        K = leaky_rnn_ntk(net.x, second, **given, **case, memory_budget=budget)
        assert_close(K, whole)
        if second is None and reduce == "full":
            assert torch.equal(K, K.mT)
    assert 1 in outputs_at_a_time


@pytest.mark.parametrize(("share", "calls"), [(4.5, 1), (1.6, 10), (0.9, 36)])
def test_adjoints_are_computed_again_only_where_they_do_not_fit(
    rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, share: float, calls: int
) -> None:
    """A symmetric kernel needs all adjoints once, and a copy of them; the budget is a share of their bytes."""
    net = random_network(rng, N=100, T=20, B=16, N_out=8)
    made = []
    whole = dispatch.adjoints
    monkeypatch.setattr(dispatch, "adjoints", lambda *args: made.append(args) or whole(*args))
    given = {**weights(net), "rho": RHO, "outputs": "last"}
    budget = int(share * 16 * 20 * 8 * 100 * net.x.element_size())
    K = leaky_rnn_ntk(net.x, **given, order="propagate", memory_budget=budget)
    assert len(made) == calls
    assert_close(K, leaky_rnn_ntk(net.x, **given))


@pytest.mark.parametrize("alignment", [False, True], ids=["kernel", "alignment"])
def test_memory_is_given_back_after_every_block(
    rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, alignment: bool
) -> None:
    """Tiles take all of the budget, so the process would exceed it if it kept those that are freed."""
    net = random_network(rng, N=9, T=5, B=6, N_out=3)
    events: list[str] = []
    monkeypatch.setattr(eager, "give_back", lambda device: events.append("back"))
    given: dict[str, Any] = {
        "rho": RHO, "memory_budget": 40_000, "progress": lambda done, total: events.append("block"),
    }  # fmt: skip
    if alignment:
        leaky_rnn_kernel_alignment(net.x, before=weights(net), after=weights(net), **given)
    else:
        leaky_rnn_ntk(net.x, **weights(net), **given)
    blocks = [place for place, event in enumerate(events) if event == "block"]
    assert len(blocks) > 3
    assert all(events[place - 1] == "back" for place in blocks[1:])


@pytest.mark.parametrize("self_connections", [True, False])
@pytest.mark.parametrize("R", [None, 2], ids=["plain", "pack"])
def test_an_alignment_in_pieces(
    rng: torch.Generator, R: int | None, self_connections: bool, outputs_at_a_time: set[int]
) -> None:
    before, after = (random_network(rng, N=11, T=6, B=3, N_out=4, R=R) for _ in range(2))
    given: dict[str, Any] = {"rho": RHO, "self_connections": self_connections}
    pair = {"before": weights(before), "after": weights(after)}
    whole = leaky_rnn_kernel_alignment(before.x, **pair, **given)
    for budget in (30_000, 60_000, 200_000, 1_000_000):
        part = leaky_rnn_kernel_alignment(before.x, **pair, **given, memory_budget=budget)
        assert_close(part, whole)
    assert len(outputs_at_a_time) > 1
    with pytest.raises(ValueError, match=r"^memory_budget: expected at least \d+ bytes, got 7$"):
        leaky_rnn_kernel_alignment(before.x, **pair, **given, memory_budget=7)


@pytest.mark.parametrize("R", [None, 2], ids=["plain", "pack"])
def test_batch_first_is_the_same_with_axes_exchanged(rng: torch.Generator, R: int | None) -> None:
    net, other = (random_network(rng, N=7, T=4, B=4, N_out=2, R=R) for _ in range(2))
    turned = net.x.transpose(-3, -2)
    given = weights(net)
    plain = {"recurrent": net.recurrent, "input": net.input}
    rates = leaky_rnn(net.x, **plain, rho=RHO)
    assert torch.equal(
        leaky_rnn(turned, **plain, rho=RHO, batch_first=True), rates.transpose(-3, -2)
    )
    back = {"recurrent": net.recurrent, "readout": net.readout, "rho": RHO}
    assert torch.equal(
        leaky_rnn_adjoints(rates.transpose(-3, -2), **back, batch_first=True),
        leaky_rnn_adjoints(rates, **back),
    )
    x2 = other.x[..., :3, :]
    for second, second_turned in ((None, None), (x2, x2.transpose(-3, -2))):
        K = leaky_rnn_ntk(net.x, second, **given, rho=RHO)
        assert torch.equal(
            leaky_rnn_ntk(turned, second_turned, **given, rho=RHO, batch_first=True), K
        )
    pair = {"before": given, "after": weights(other)}
    # T and B are equal here, so only the argument tells one from the other.
    assert not torch.allclose(
        leaky_rnn_ntk(turned, **given, rho=RHO), leaky_rnn_ntk(net.x, **given, rho=RHO)
    )
    assert torch.equal(
        leaky_rnn_kernel_alignment(turned, **pair, rho=RHO, batch_first=True),
        leaky_rnn_kernel_alignment(net.x, **pair, rho=RHO),
    )


@pytest.mark.parametrize(
    "rho", [np.float32(0.25), np.float64(0.25), 0.25], ids=["fp32", "fp64", "float"]
)
@pytest.mark.parametrize("budget", [1e8, np.int32(10**8), 10**8], ids=["float", "int32", "int"])
def test_numbers_of_numpy_are_numbers(rng: torch.Generator, rho: Any, budget: Any) -> None:
    net = random_network(rng, N=7, T=4, B=3)
    K = leaky_rnn_ntk(net.x, **weights(net), rho=0.25)
    steps = np.array([0, 1, 2, 3])
    assert torch.equal(
        leaky_rnn_ntk(net.x, **weights(net), rho=rho, memory_budget=budget, outputs=steps), K
    )
    hidden = {"recurrent": net.recurrent, "input": net.input}
    rates = leaky_rnn(net.x, **hidden, rho=rho)
    assert torch.equal(rates, leaky_rnn(net.x, **hidden, rho=0.25))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": True}, "rho: expected a leak factor in [0, 1), got True"),
        ({"rho": np.float32("nan")}, "rho: expected a leak factor in [0, 1), got "),
        ({"rho": 10**400}, "rho: expected a leak factor in [0, 1), got 1000"),
        ({"rho": "0.3"}, "rho: expected a leak factor in [0, 1), got '0.3'"),
        ({"memory_budget": 1.5}, "memory_budget: expected a whole number of bytes, at least 1, got 1.5"),
        ({"memory_budget": -1}, "memory_budget: expected a whole number of bytes, at least 1, got -1"),
        ({"memory_budget": None}, "memory_budget: expected a whole number of bytes, at least 1, got None"),
        ({"batch_first": 1}, "batch_first: expected True or False, got 1"),
        ({"self_connections": "no"}, "self_connections: expected True or False, got 'no'"),
        ({"outputs": [True]}, "outputs: expected 'all', 'last' or whole numbers, got [True]"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_named(
    rng: torch.Generator, change: dict[str, Any], message: str
) -> None:
    net = random_network(rng, N=7, T=4, B=3)
    with pytest.raises((ValueError, TypeError)) as caught:
        leaky_rnn_ntk(net.x, **{**weights(net), "rho": RHO, **change})
    assert str(caught.value).startswith(message)
