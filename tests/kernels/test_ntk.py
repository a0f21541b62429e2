"""The exact NTK against torch.func in fp64, over the shapes of the paper and odd ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpr_kernels import leaky_rnn_kernel_alignment, leaky_rnn_ntk, ntk, two_layer_ntk
from hpr_kernels.recurrence import reference
from hpr_kernels.tangent.arguments import checked_networks
from hpr_kernels.tangent.tiling import kernel_tiling
from hpr_kernels.testing import (
    EXAMPLES,
    HIDDEN,
    OUTPUTS,
    STEPS,
    Network,
    assert_close,
    random_network,
)

RHO = 0.367
GROUPS = ("recurrent", "input", "readout")
SUBSETS = [c for size in (1, 2, 3) for c in itertools.combinations(GROUPS, size)]
ORDERS = ("hadamard", "propagate", "dense")


def kernels_by_group(net: Network) -> dict[str, Tensor]:
    """K [B, T, N_out, B, T, N_out] of each group alone: jacrev through the reference, then J Jᵀ."""

    def outputs(recurrent: Tensor, input: Tensor, readout: Tensor, x: Tensor) -> Tensor:
        rates = reference.leaky_rnn(x[None, :, None], recurrent[None], input[None], RHO)
        return (rates[0, :, 0] @ readout.mT).flatten()

    # Few rows at a time are 4 times faster than all at once, whose pages the system reclaims at each step.
    jacobian = torch.func.vmap(
        torch.func.jacrev(outputs, argnums=(0, 1, 2), chunk_size=10),
        in_dims=(None, None, None, 1),
        chunk_size=1,
    )
    T, B, N_out = net.x.shape[0], net.x.shape[1], net.readout.shape[0]
    rows = (B, T, N_out)
    kernels = {}
    for group, J in zip(GROUPS, jacobian(*net[1:], net.x), strict=True):
        flat = J.flatten(2).flatten(0, 1)
        kernels[group] = (flat @ flat.mT).view(*rows, *rows)
    return kernels


def cases(N: int, T: int, generator: random.Random) -> list[tuple[object, ...]]:
    """All subsets x outputs x orders x (x2 given), or a seeded sample of them where a kernel takes long."""
    listed = [T // 2] if T < 3 else [0, T // 2, T - 1]
    every = list(itertools.product(SUBSETS, ("all", "last", listed), ORDERS, (False, True)))
    if N < 100 and T < 28:
        return every
    return generator.sample(every, 6 if N >= 100 and T >= 28 else 24)


def sizes() -> Iterator[Any]:
    """All N x B x T x N_out; those of most rows are nightly, since others have any two of their B, T and N_out."""
    for sizes in itertools.product(HIDDEN, EXAMPLES, STEPS, OUTPUTS):
        most = sizes[1:] == (EXAMPLES[-1], STEPS[-1], OUTPUTS[-1])
        yield pytest.param(*sizes, marks=[pytest.mark.nightly] if most else [])


@pytest.mark.parametrize(("N", "B", "T", "N_out"), [*sizes()])
def test_against_torch_func(rng: torch.Generator, N: int, B: int, T: int, N_out: int) -> None:
    extra = 2 if N < 100 else 1
    net = random_network(rng, N=N, T=T, B=B + extra, N_out=N_out)
    expected = kernels_by_group(net)
    x1, x2 = net.x[:, :B], net.x[:, B:]
    for parameters, outputs, order, both in cases(N, T, random.Random(f"{N} {B} {T} {N_out}")):
        steps = {"all": list(range(T)), "last": [T - 1]}.get(str(outputs), outputs)
        columns = slice(B, None) if both else slice(0, B)
        block = sum(expected[group] for group in parameters)
        block = block[:B][:, steps][:, :, :, columns][:, :, :, :, steps]
        K = leaky_rnn_ntk(
            x1,
            x2 if both else None,
            **weights(net),
            rho=RHO,
            outputs=outputs,
            parameters=parameters,
            order=order,
        )
        assert_close(K, block.flatten(3).flatten(0, 2))


def test_pack_equals_its_networks(rng: torch.Generator) -> None:
    net = random_network(rng, N=33, T=5, B=4, R=3)
    for x in (net.x, net.x[:1]):
        K = leaky_rnn_ntk(x, **weights(net), rho=RHO)
        for r in range(3):
            plain = {name: value[r] for name, value in weights(net).items()}
            assert torch.equal(K[r], leaky_rnn_ntk(x[r % len(x)], **plain, rho=RHO))


def test_x2_may_have_other_steps(rng: torch.Generator) -> None:
    net = random_network(rng, N=9, T=6, B=4)
    K = leaky_rnn_ntk(net.x[:, :1], net.x[:3, 1:], **weights(net), rho=RHO)
    full = leaky_rnn_ntk(net.x, **weights(net), rho=RHO).view(4, 6, 3, 4, 6, 3)
    assert_close(K, full[:1, :, :, 1:, :3].flatten(3).flatten(0, 2))


def test_linear_activation(rng: torch.Generator) -> None:
    net = random_network(rng, N=7, T=3, B=2)
    K = leaky_rnn_ntk(net.x, **weights(net), rho=RHO, activation="linear")

    def outputs(weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
        recurrent, input, readout = weights
        rates = reference.leaky_rnn(
            x[None, :, None], recurrent[None], input[None], RHO, activation="linear"
        )
        return (rates[0, :, 0] @ readout.mT).flatten()

    jacobian = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 1))(net[1:], net.x)
    flat = torch.cat([J.flatten(2).flatten(0, 1) for J in jacobian], dim=1)
    assert_close(K, flat @ flat.mT)


def jacobian_by_torch_func(
    net: Network, *, hidden: bool = False, effective: Tensor | None = None
) -> list[Tensor]:
    """J [B, T, outputs, …] by each weight; `effective` masks |W_h|, `hidden` makes the rates the outputs."""

    def outputs(recurrent: Tensor, input: Tensor, readout: Tensor, x: Tensor) -> Tensor:
        W = recurrent if effective is None else recurrent.abs() * effective
        rates = reference.leaky_rnn(x[None, :, None], W[None], input[None], RHO)[0, :, 0]
        return rates if hidden else rates @ readout.mT

    by = (0, 1) if hidden else (0, 1, 2)
    jacobian = torch.func.vmap(
        torch.func.jacrev(outputs, argnums=by), in_dims=(None, None, None, 1)
    )
    return list(jacobian(*net[1:], net.x))


def kernel_of(jacobians: list[Tensor]) -> Tensor:
    flat = torch.cat([J.flatten(3).flatten(0, 2) for J in jacobians], dim=1)
    return flat @ flat.mT


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("T", [1, 6])
def test_hidden_states_as_outputs(rng: torch.Generator, T: int, order: str) -> None:
    net = random_network(rng, N=9, T=T, B=3)
    expected = kernel_of(jacobian_by_torch_func(net, hidden=True))
    given = {**weights(net), "readout": None}
    assert_close(leaky_rnn_ntk(net.x, **given, rho=RHO, order=order), expected)


@pytest.mark.parametrize("reduce", ["full", "trace", "diagonal"])
def test_dales_law_is_the_kernel_of_the_raw_weights(rng: torch.Generator, reduce: str) -> None:
    """W_h = |W| ∘ sign without self-connections: the kernel by W is that by W_h without its diagonal."""
    net = random_network(rng, N=11, T=5, B=4)
    sign = torch.where(torch.arange(11) < 8, 1.0, -1.0).double().expand(11, 11).clone()
    sign.fill_diagonal_(0)
    expected = kernel_of(jacobian_by_torch_func(net, effective=sign))
    given = {**weights(net), "recurrent": net.recurrent.abs() * sign}
    K = leaky_rnn_ntk(net.x, **given, rho=RHO, self_connections=False, reduce=reduce)
    assert_close(K, reduced(expected, 4, reduce))
    assert not torch.allclose(K, leaky_rnn_ntk(net.x, **given, rho=RHO, reduce=reduce))


def reduced(K: Tensor, B: int, reduce: str) -> Tensor:
    if reduce == "full":
        return K
    diagonal = K.view(B, len(K) // B, B, -1).diagonal(dim1=1, dim2=3)
    return diagonal if reduce == "diagonal" else diagonal.sum(-1)


@pytest.mark.parametrize("parameters", SUBSETS, ids=" ".join)
@pytest.mark.parametrize("outputs", ["all", "last", [0, 2]], ids=str)
def test_reductions(
    rng: torch.Generator, outputs: list[int] | str, parameters: tuple[str, ...]
) -> None:
    net = random_network(rng, N=9, T=4, B=5)
    given = {**weights(net), "rho": RHO, "outputs": outputs, "parameters": parameters}
    full = leaky_rnn_ntk(net.x, **given)
    assert torch.equal(full, full.mT)
    for reduce in ("trace", "diagonal"):
        K = leaky_rnn_ntk(net.x, **given, reduce=reduce)
        assert_close(K, reduced(full, 5, reduce))
        both = leaky_rnn_ntk(net.x, net.x, **given, reduce=reduce)
        assert_close(both, K)


@pytest.mark.parametrize("reduce", ["full", "trace", "diagonal"])
@pytest.mark.parametrize("pack", [None, 2], ids=["plain", "pack"])
def test_every_budget_gives_the_same(rng: torch.Generator, pack: int | None, reduce: str) -> None:
    """From one tile of all examples to tiles of one; some tile sizes do not divide the examples."""
    net = random_network(rng, N=9, T=4, B=7, R=pack)
    whole = leaky_rnn_ntk(net.x, **weights(net), rho=RHO, reduce=reduce)
    half = leaky_rnn_ntk(net.x, net.x[..., 1:6, :], **weights(net), rho=RHO, reduce=reduce)
    sizes = set()
    networks = checked_networks(
        "x", net.x, weights(net), rho=RHO, outputs="all", parameters=None, activation="relu",
        self_connections=True, precision="ieee", batch_first=False,
    )  # fmt: skip
    for budget in (40_000, 60_000, 100_000, 200_000, 1 << 24):
        x = net.x if pack else net.x[None]
        sizes.add(kernel_tiling(networks, x, 7, None, reduce, "auto", budget).examples)
        given = {**weights(net), "rho": RHO, "reduce": reduce, "memory_budget": budget}
        assert_close(leaky_rnn_ntk(net.x, **given), whole)
        assert_close(leaky_rnn_ntk(net.x, net.x[..., 1:6, :], **given), half)
    assert min(sizes) < 3
    assert 7 in sizes
    assert sizes - {1, 2, 7}
    if reduce == "full":
        assert torch.equal(whole, whole.mT)


@pytest.mark.parametrize("budget", [1_000_000, 1 << 28])
@pytest.mark.parametrize("pack", [None, 2], ids=["plain", "pack"])
def test_streamed_alignment(rng: torch.Generator, pack: int | None, budget: int) -> None:
    before, after = (random_network(rng, N=33, T=5, B=13, R=pack) for _ in range(2))
    for given in ({}, {"outputs": "last", "parameters": ("recurrent",)}):
        K_0, K_f = (
            leaky_rnn_ntk(before.x, **weights(net), rho=RHO, **given) for net in (before, after)
        )
        norms = K_0.norm(dim=(-2, -1)) * K_f.norm(dim=(-2, -1))
        expected = (K_0 * K_f).sum((-2, -1)) / norms
        got = leaky_rnn_kernel_alignment(
            before.x,
            before=weights(before),
            after=weights(after),
            rho=RHO,
            memory_budget=budget,
            **given,
        )
        assert_close(got, expected)


def test_alignment_of_dead_networks_is_nan(rng: torch.Generator) -> None:
    net = random_network(rng, N=5, T=3, B=2)
    dead = {**weights(net), "input": torch.zeros_like(net.input)}
    assert leaky_rnn_kernel_alignment(net.x, before=weights(net), after=dead, rho=RHO).isnan()


def test_fp32_error_is_that_of_torch_func(rng: torch.Generator) -> None:
    net = random_network(rng, N=300, T=8, B=4)
    exact = sum(kernels_by_group(net).values()).flatten(3).flatten(0, 2)
    single = Network(*(value.float() for value in net))
    theirs = sum(kernels_by_group(single).values()).flatten(3).flatten(0, 2)
    bound = 2 * float((theirs.double() - exact).norm() / exact.norm())
    for order in ORDERS:
        assert_close(leaky_rnn_ntk(single.x, **weights(single), rho=RHO, order=order), exact, bound)


@pytest.mark.parametrize("activation", ["relu", "tanh", "linear"])
@pytest.mark.parametrize("parameters", [("hidden",), ("readout",), ("hidden", "readout")])
@pytest.mark.parametrize(("B", "d", "N", "N_out"), [(1, 1, 1, 1), (7, 5, 33, 3), (4, 20, 198, 1)])
def test_two_layer(
    rng: torch.Generator,
    B: int,
    d: int,
    N: int,
    N_out: int,
    parameters: tuple[str, ...],
    activation: str,
) -> None:
    module = nn.Sequential(
        nn.Linear(d, N, bias=False, dtype=torch.float64),
        {"relu": nn.ReLU(), "tanh": nn.Tanh(), "linear": nn.Identity()}[activation],
        nn.Linear(N, N_out, bias=False, dtype=torch.float64),
    )
    x = torch.randn(B, d, generator=rng, dtype=torch.float64)
    hidden, readout = module[0].weight.detach(), module[2].weight.detach()
    for x2 in (None, torch.flip(x, (0,)) * 0.5):
        got = two_layer_ntk(
            x, x2, hidden=hidden, readout=readout, parameters=parameters, activation=activation
        )
        names = [{"hidden": "0.weight", "readout": "2.weight"}[group] for group in parameters]
        assert_close(got, ntk(module, x, x2, parameters=names))
    if activation == "linear" and N_out == 1 and len(parameters) == 2:
        d_d = hidden.mT @ hidden + readout.square().sum() * torch.eye(d, dtype=torch.float64)
        assert_close(
            two_layer_ntk(x, hidden=hidden, readout=readout, activation="linear"), x @ d_d @ x.mT
        )


class Tied(nn.Module):
    """A convolution under two names, one weight in two layers, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 2, 3, padding=1, dtype=torch.float64)
        self.again = self.first
        self.head = nn.Linear(10, 10, dtype=torch.float64)
        self.tail = nn.Linear(10, 10, dtype=torch.float64)
        self.tail.weight = self.head.weight
        self.register_buffer("gain", torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.first(x).relu() * self.gain).flatten(1)
        return self.tail(self.head(y).tanh())[:, :3]


@pytest.mark.parametrize("examples", [1, 2, 9])
def test_any_module_against_a_loop_of_autograd(rng: torch.Generator, examples: int) -> None:
    module = Tied()
    held = list(module.parameters())
    budget = examples * 3 * 8 * sum(parameter.nbytes for parameter in held)
    x1, x2 = torch.randn(2, 3, 2, 5, generator=rng, dtype=torch.float64)

    def jacobian(x: Tensor) -> Tensor:
        rows = [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(y, list(module.parameters()), retain_graph=True)
                ]
            )
            for y in module(x).flatten()
        ]
        return torch.stack(rows)

    assert_close(ntk(module, x1, x2, memory_budget=budget), jacobian(x1) @ jacobian(x2).mT)
    assert_close(ntk(module, x1, memory_budget=budget), jacobian(x1) @ jacobian(x1).mT)
    assert all(a is b for a, b in zip(held, module.parameters(), strict=True))


class Centring(nn.Module):
    """Mixes the examples of a batch, which its class name does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y - y.mean(0)


def test_a_module_that_mixes_by_itself_is_refused(rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match="module: expected each example on its own, got other"):
        ntk(Centring(), torch.randn(3, 2, generator=rng))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "got BatchNorm1d '1' in training mode"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "got Dropout '1' in training mode"),
    ],
    ids=["batch normalisation", "dropout"],
)
def test_modules_that_mix_or_draw_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ntk(module, torch.zeros(3, 2))
    assert ntk(module.eval(), torch.zeros(3, 2)).shape == (6, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": "first"}, "outputs: expected one of"),
        ({"outputs": [1, 0]}, "outputs: expected 'all', 'last' or ascending steps in 0 … 3"),
        ({"outputs": [1.5]}, r"outputs: expected 'all', 'last' or whole numbers, got \[1.5\]"),
        ({"outputs": 3}, "outputs: expected 'all', 'last' or whole numbers, got 3"),
        ({"x1": torch.zeros(4)}, "x1: expected 3 or 4 axes"),
        ({"outputs": [4]}, "outputs: expected 'all', 'last' or ascending steps in 0 … 3"),
        ({"parameters": ("bias",)}, "parameters: expected some of"),
        ({"parameters": ()}, "parameters: expected some of"),
        ({"order": "fast"}, "order: expected one of"),
        ({"rho": -0.1}, "rho: expected"),
        ({"readout": torch.zeros(1, 4)}, r"readout: expected shape \[N_out, N\] = \[any, 3\]"),
        ({"readout": torch.zeros(0, 3)}, r"readout: expected an output, got shape \(0, 3\)"),
        ({"recurrent": torch.full((3, 3), torch.nan)}, "recurrent: expected finite numbers, got 9"),
        ({"x2": torch.zeros(4, 1, 9)}, "x2: expected shape"),
        ({"x1": torch.full((4, 1, 2), torch.inf)}, "x1: expected finite numbers, got 8"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "x1": torch.zeros(4, 1, 2),
        "recurrent": torch.zeros(3, 3),
        "input": torch.zeros(3, 2),
        "readout": torch.zeros(1, 3),
        "rho": 0.5,
    }
    with pytest.raises((ValueError, TypeError), match=message):
        leaky_rnn_ntk(**{**arguments, **change})  # type: ignore[arg-type]


def weights(net: Network) -> dict[str, Tensor]:
    return {"recurrent": net.recurrent, "input": net.input, "readout": net.readout}


def test_alignment_refuses_networks_of_two_shapes(rng: torch.Generator) -> None:
    before, after = (random_network(rng, N=5, T=2, B=1, N_out=N_out) for N_out in (1, 3))
    with pytest.raises(ValueError, match="after: expected readout as before"):
        leaky_rnn_kernel_alignment(before.x, before=weights(before), after=weights(after), rho=RHO)
