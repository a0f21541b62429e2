"""Networks with a bias, and those of tanh units, against the fp64 reference: rates, gradients and tangent kernels."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hpr_kernels import leaky_rnn, leaky_rnn_kernel_alignment, leaky_rnn_ntk
from hpr_kernels.checks import ACTIVATIONS, GROUPS, ORDERS, REDUCTIONS
from hpr_kernels.recurrence import reference
from hpr_kernels.testing import Network, assert_close, random_network

SUBSETS = [c for size in (1, 2, 3, 4) for c in itertools.combinations(GROUPS, size)]
Leaves = tuple[Tensor, Tensor, Tensor, Tensor]


def drawn(rng: torch.Generator, **sizes: Any) -> tuple[Network, Tensor]:
    """A random network and its bias."""
    net = random_network(rng, **sizes)
    bias = torch.randn(net.recurrent.shape[:-1], generator=rng, dtype=torch.float64)
    return net, bias.to(net.x.dtype)


def weights(net: Network, bias: Tensor) -> dict[str, Tensor]:
    return {"recurrent": net.recurrent, "input": net.input, "bias": bias, "readout": net.readout}


def rates_of(
    x: Tensor, recurrent: Tensor, input: Tensor, bias: Tensor, rho: float, activation: Any
) -> Tensor:
    """`leaky_rnn` by position, as `torch.func` differentiates."""
    return leaky_rnn(x, recurrent=recurrent, input=input, bias=bias, rho=rho, activation=activation)


def expected_rates(
    x: Tensor, recurrent: Tensor, input: Tensor, bias: Tensor, rho: float, activation: str
) -> Tensor:
    packed = [value if x.dim() == 4 else value[None] for value in (x, recurrent, input, bias)]
    rates = reference.leaky_rnn(*packed[:3], rho, activation, packed[3])
    return rates if x.dim() == 4 else rates[0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rho", [0.0, 0.367])
@pytest.mark.parametrize(
    ("R", "N", "B", "T"), [(1, 1, 1, 1), (3, 33, 5, 8), (1, 16, 1, 28), (2, 300, 5, 2)], ids=str
)
def test_rates_and_gradients(
    rng: torch.Generator, R: int, N: int, B: int, T: int, rho: float, activation: str
) -> None:
    net, bias = drawn(rng, N=N, T=T, B=B, R=R)
    leaves = [value.requires_grad_() for value in (*net[:3], bias)]
    rates = rates_of(*leaves, rho, activation)
    expected = expected_rates(*leaves, rho, activation)
    assert_close(rates, expected)
    weight = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    got = torch.autograd.grad((rates * weight).sum(), leaves)
    for one, other in zip(got, torch.autograd.grad((expected * weight).sum(), leaves), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(rng: torch.Generator, activation: str) -> None:
    net, bias = drawn(rng, N=5, T=4, B=2, R=2)
    leaves = [value.requires_grad_() for value in (*net[:3], bias)]
    assert torch.autograd.gradcheck(lambda *args: rates_of(*args, 0.3, activation), leaves)


def test_a_bias_of_zero_and_shared_inputs(rng: torch.Generator) -> None:
    net, bias = drawn(rng, N=33, T=8, B=5, R=3)
    zero = torch.zeros_like(bias)
    plain = leaky_rnn(net.x, recurrent=net.recurrent, input=net.input, rho=0.3, activation="tanh")
    assert_close(rates_of(*net[:3], zero, 0.3, "tanh"), plain)
    shared = rates_of(net.x[:1], net.recurrent, net.input, bias, 0.3, "tanh")
    turned = leaky_rnn(
        net.x[:1].transpose(-3, -2), recurrent=net.recurrent, input=net.input, bias=bias, rho=0.3,
        activation="tanh", batch_first=True,
    )  # fmt: skip
    assert torch.equal(turned.transpose(-3, -2), shared)
    for r in range(3):
        alone = rates_of(net.x[0], net.recurrent[r], net.input[r], bias[r], 0.3, "tanh")
        assert_close(shared[r], alone)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("N", [1, 33])
def test_torch_func(rng: torch.Generator, N: int, activation: str) -> None:
    """The gradient by the bias through `grad`, `vmap` over examples and over biases, and `jacrev`."""
    net, bias = drawn(rng, N=N, T=5, B=4)

    def transformed(rnn: Any) -> list[Tensor]:
        def loss(bias: Tensor, x: Tensor) -> Tensor:
            return rnn(x[:, None], net.recurrent, net.input, bias, 0.367, activation).square().sum()

        def last(bias: Tensor, x: Tensor) -> Tensor:
            return rnn(x[:, None], net.recurrent, net.input, bias, 0.367, activation)[-1, 0]

        several = torch.stack([bias, 2 * bias, -bias])
        by_bias = torch.func.grad(loss)
        return [
            torch.func.vmap(by_bias, in_dims=(None, 1))(bias, net.x),
            torch.func.vmap(by_bias, in_dims=(0, None))(several, net.x[:, 0]),
            torch.func.vmap(torch.func.jacrev(last, argnums=(0, 1)), in_dims=(None, 1))(
                bias, net.x
            )[0],
        ]

    for one, other in zip(transformed(rates_of), transformed(expected_rates), strict=True):
        assert_close(one, other)


# Torch's own tracing of a Function causes this warning.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_break(rng: torch.Generator) -> None:
    net, bias = drawn(rng, N=33, T=4, B=5, R=2)

    def loss(*leaves: Tensor) -> Tensor:
        return rates_of(*leaves, 0.3, "tanh").square().sum()

    leaves = [value.requires_grad_() for value in (*net[:3], bias)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*leaves), leaves)
    for one, other in zip(got, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fp32_error_is_that_of_torch(rng: torch.Generator, activation: str) -> None:
    net, bias = drawn(rng, N=300, T=8, B=33)
    exact = (*net[:3], bias)
    single = [value.float() for value in exact]
    wanted = expected_rates(*(value.double() for value in single), 0.3, activation)
    theirs = (expected_rates(*single, 0.3, activation).double() - wanted).norm()
    assert (rates_of(*single, 0.3, activation).double() - wanted).norm() <= 2 * theirs


def jacobians(net: Network, bias: Tensor, rho: float, activation: str) -> dict[str, Tensor]:
    """J [B, T, N_out, …] by each group, by `jacrev` of the reference."""

    def outputs(
        recurrent: Tensor, input: Tensor, bias: Tensor, readout: Tensor, x: Tensor
    ) -> Tensor:
        return (
            expected_rates(x[:, None], recurrent, input, bias, rho, activation)[:, 0] @ readout.mT
        )

    jacobian = torch.func.vmap(
        torch.func.jacrev(outputs, argnums=(0, 1, 2, 3)), in_dims=(None, None, None, None, 1)
    )
    by_group = jacobian(net.recurrent, net.input, bias, net.readout, net.x)
    return dict(zip(GROUPS, by_group, strict=True))


def kernel_of(by_group: list[Tensor], B: int, reduce: str = "full") -> Tensor:
    J = torch.cat([J.flatten(3) for J in by_group], dim=-1).flatten(1, 2)  # [B, O, columns]
    if reduce == "full":
        return J.flatten(0, 1) @ J.flatten(0, 1).mT
    diagonal = torch.einsum("bop,cop->bco", J, J)
    return diagonal if reduce == "diagonal" else diagonal.sum(-1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rho", [0.0, 0.367])
@pytest.mark.parametrize(
    ("N", "B", "T", "N_out"), [(1, 2, 1, 1), (9, 1, 5, 3), (33, 5, 4, 1)], ids=str
)
def test_kernels_of_all_groups(
    rng: torch.Generator, N: int, B: int, T: int, N_out: int, rho: float, activation: Any
) -> None:
    """Each set of groups, of outputs and of inputs; the orders of contraction alternate."""
    net, bias = drawn(rng, N=N, T=T, B=B + 2, N_out=N_out)
    by_group = jacobians(net, bias, rho, activation)
    x1, x2 = net.x[:, :B], net.x[:, B:]
    orders = itertools.cycle(ORDERS)
    for parameters, outputs, both in itertools.product(
        SUBSETS, ("all", "last", [0, T // 2] if T > 1 else [0]), (False, True)
    ):
        steps = {"all": list(range(T)), "last": [T - 1]}.get(str(outputs), outputs)
        chosen = [by_group[group][:, steps] for group in parameters]
        columns = slice(B, None) if both else slice(0, B)
        rows = torch.cat([J.flatten(3) for J in chosen], dim=-1)
        left, right = (rows[part].flatten(0, 2) for part in (slice(0, B), columns))
        K = leaky_rnn_ntk(
            x1, x2 if both else None, **weights(net, bias), rho=rho, outputs=outputs,
            parameters=parameters, order=next(orders), activation=activation,
        )  # fmt: skip
        assert_close(K, left @ right.mT)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_groups_default_to_those_that_are_given(rng: torch.Generator, activation: Any) -> None:
    net, bias = drawn(rng, N=9, T=4, B=3)
    given = {**weights(net, bias), "rho": 0.3, "activation": activation}
    by_group = jacobians(net, bias, 0.3, activation)
    assert_close(leaky_rnn_ntk(net.x, **given), kernel_of(list(by_group.values()), 3))
    without = {**given, "bias": None}
    known = r"parameters: expected some of \('recurrent', 'input', 'readout'\), got"
    with pytest.raises(ValueError, match=known):
        leaky_rnn_ntk(net.x, **without, parameters=("bias",))
    zero = {**given, "bias": torch.zeros_like(bias)}
    difference = leaky_rnn_ntk(net.x, **zero) - leaky_rnn_ntk(net.x, **without)
    assert_close(difference, leaky_rnn_ntk(net.x, **zero, parameters=("bias",)))


@pytest.mark.parametrize("self_connections", [True, False], ids=["free", "Dale's law"])
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("parameters", SUBSETS, ids=" ".join)
def test_reductions_in_pieces(
    rng: torch.Generator, parameters: tuple[str, ...], reduce: Any, self_connections: bool
) -> None:
    """The budgets start at the least that the error names, which holds one output of one example."""
    net, bias = drawn(rng, N=9, T=3, B=2, N_out=2, R=2)
    given = {
        **weights(net, bias), "rho": 0.3, "activation": "tanh", "parameters": parameters,
        "reduce": reduce, "self_connections": self_connections,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^memory_budget: expected at least") as refused:
        leaky_rnn_ntk(net.x, **given, memory_budget=1)
    least = int(str(refused.value).split()[4])
    expected = []
    for r in range(2):
        by_group = jacobians(Network(*(value[r] for value in net)), bias[r], 0.3, "tanh")
        if not self_connections:
            by_group["recurrent"].diagonal(dim1=-2, dim2=-1).zero_()
        expected.append(kernel_of([by_group[group] for group in parameters], 2, reduce))
    for budget in (1 << 28, 8 * least, 3 * least, least):
        K = leaky_rnn_ntk(net.x, **given, memory_budget=budget)
        assert_close(K, torch.stack(expected))


def test_second_inputs_with_other_steps_and_rates_as_outputs(rng: torch.Generator) -> None:
    net, bias = drawn(rng, N=9, T=6, B=4)
    given = {**weights(net, bias), "readout": None, "rho": 0.3, "activation": "tanh"}
    by_group = jacobians(net._replace(readout=torch.eye(9).double()), bias, 0.3, "tanh")
    full = kernel_of([by_group[group] for group in GROUPS[:3]], 4)
    assert_close(leaky_rnn_ntk(net.x, **given), full)
    part = full.view(4, 6, 9, 4, 6, 9)[:1, :, :, 1:, :3].flatten(3).flatten(0, 2)
    assert_close(leaky_rnn_ntk(net.x[:, :1], net.x[:3, 1:], **given), part)


@pytest.mark.parametrize("budget", [40_000, 200_000, 1 << 28])
@pytest.mark.parametrize("R", [None, 2], ids=["plain", "pack"])
def test_alignment(rng: torch.Generator, R: int | None, budget: int) -> None:
    (before, old), (after, new) = (drawn(rng, N=11, T=4, B=5, N_out=2, R=R) for _ in range(2))
    pair = {"before": weights(before, old), "after": weights(after, new)}
    options: dict[str, Any] = {"rho": 0.3, "activation": "tanh"}
    for parameters in (None, ("bias",), ("recurrent", "bias")):
        K_0, K_f = (
            leaky_rnn_ntk(before.x, **given, **options, parameters=parameters)
            for given in pair.values()
        )
        norms = K_0.norm(dim=(-2, -1)) * K_f.norm(dim=(-2, -1))
        got = leaky_rnn_kernel_alignment(
            before.x, **pair, **options, parameters=parameters, memory_budget=budget
        )
        assert_close(got, (K_0 * K_f).sum((-2, -1)) / norms)


def test_bad_biases_are_named(rng: torch.Generator) -> None:
    net, bias = drawn(rng, N=5, T=2, B=1)
    given = weights(net, bias)
    for wrong, message in (
        (bias[:3], r"bias: expected shape \[N\] = \[5\], got \[3\]"),
        (bias * torch.nan, "bias: expected finite numbers, got 5 NaN or infinite"),
        (bias.float(), "bias: expected torch.float64 on cpu, got torch.float32"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            leaky_rnn_ntk(net.x, **{**given, "bias": wrong}, rho=0.3)
    without = {name: value for name, value in given.items() if name != "bias"}
    for before, after, message in (
        (given, without, r"after: expected bias as before, torch.Size\(\[5\]\), got None"),
        (without, given, r"after: expected bias as before, None, got torch.Size\(\[5\]\)"),
        (
            {**given, "more": bias},
            given,
            r"before: expected the weights \('recurrent', 'input', 'r",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            leaky_rnn_kernel_alignment(net.x, before=before, after=after, rho=0.3)
    empty = {**without, "bias": None}
    alignment = leaky_rnn_kernel_alignment(net.x, before=without, after=empty, rho=0.3)
    assert_close(alignment, torch.ones((), dtype=torch.float64))
