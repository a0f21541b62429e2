"""Every public function gives the same bits in every mode that its caller may set; the tests find them all."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hpr_kernels
from hpr_kernels import FactoredJacobian, NTKOperator, testing
from hpr_kernels.gram import ContractionPlan
from hpr_kernels.tangent.module_plan import NTKPlan

PACKAGES = ("", ".recurrence", ".gram", ".loss", ".update", ".trials", ".tangent", ".testing")


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")


def network() -> dict[str, Tensor]:
    return {
        "recurrent": normal(33, 33, seed=1) / 6,
        "input": normal(33, 3, seed=2),
        "readout": normal(2, 33, seed=3),
    }


def jacobian() -> FactoredJacobian:
    return FactoredJacobian(normal(5, 2, 4, 33), normal(5, 4, 9, seed=1))


def rates_of(x: Tensor, recurrent: Tensor, input: Tensor) -> Tensor:
    return hpr_kernels.leaky_rnn(x, recurrent=recurrent, input=input, rho=0.3)


def leaky_rnn() -> list[Tensor]:
    """Return the rates, and the gradients of everything that has one."""
    given = [normal(6, 5, 3), *list(network().values())[:2]]
    for tensor in given:
        tensor.requires_grad_(not torch.is_inference_mode_enabled())
    rates = rates_of(*given)
    if not rates.requires_grad:
        return [rates]
    return [rates.detach(), *torch.autograd.grad(rates.square().sum(), given)]


def loss() -> list[Tensor]:
    from hpr_kernels.loss import readout_cross_entropy

    rates, gradient = (
        normal(2, 4, 5, 33).relu(),
        torch.zeros(2, 4, 5, 33, dtype=torch.float32, device="cpu"),
    )
    targets = torch.ones(2, 4, 5, dtype=torch.int64, device="cpu")
    return [*readout_cross_entropy(rates, normal(2, 3, 33, seed=1), targets, gradient), gradient]


def regression_loss() -> list[Tensor]:
    from hpr_kernels.loss import readout_squared_error

    rates, targets = normal(2, 4, 5, 33).relu(), normal(2, 4, 5, 3, seed=2)
    gradient = torch.zeros(2, 4, 5, 33, dtype=torch.float32, device="cpu")
    return [*readout_squared_error(rates, normal(2, 3, 33, seed=1), targets, gradient), gradient]


def update() -> list[Tensor]:
    from hpr_kernels.update import momentum_step

    weights, velocity = normal(2, 33, 36), normal(2, 33, 36, seed=1)
    left, right = normal(2, 20, 33, seed=2), normal(2, 20, 36, seed=3)
    momentum_step(weights, velocity, left, right, scale=0.1, learning_rate=0.1, momentum=0.9)
    return [weights, velocity]


def trials() -> list[Tensor]:
    from hpr_kernels.trials import place_trials

    def integers(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int64, device="cpu")

    trace, placed = normal(2, 5, 3, 48), integers(2, 4, 3)
    place_trials(normal(1, 4, 3, 2), integers(1, 4, 3), integers(2), trace, placed, 33)
    return [trace, placed]


def trace() -> list[Tensor]:
    from hpr_kernels.recurrence import leaky_rnn_trace

    net = network()
    return list(
        leaky_rnn_trace(normal(1, 6, 5, 3), net["recurrent"][None], net["input"][None], 0.3)
    )


def small_module(seed: int = 1) -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 9, dtype=torch.float32, device="cpu"), nn.Tanh())
    net[0].weight = nn.Parameter(normal(9, 3, seed=seed))
    net[0].bias = nn.Parameter(normal(9, seed=2))
    return net


def alignment_of_modules() -> list[Tensor]:
    return [hpr_kernels.ntk_alignment(small_module(), small_module(4), normal(5, 3))]


def module_operator() -> NTKOperator:
    return hpr_kernels.ntk_operator(small_module(), normal(2, 3))


def recurrent_operator() -> NTKOperator:
    return hpr_kernels.leaky_rnn_ntk_operator(normal(6, 5, 3), **network(), rho=0.3, outputs="last")


def both_operators(call: Callable[[NTKOperator, Tensor], Any]) -> list[Any]:
    """Return what a call with an operator and a vector gives, of the two kinds of operators."""
    made = (module_operator(), recurrent_operator())
    return [call(one, normal(one.shape[0])) for one in made]


def scipy_product(one: NTKOperator | FactoredJacobian, u: Tensor) -> Tensor:
    return torch.from_numpy(one.to_scipy() @ u.numpy())


def linearized() -> list[Tensor]:
    net = nn.Sequential(nn.Linear(3, 9, dtype=torch.float32, device="cpu"), nn.Tanh())
    net[0].weight = nn.Parameter(normal(9, 3, seed=1))
    net[0].bias = nn.Parameter(normal(9, seed=2))
    linear = hpr_kernels.linearize(net)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter += 1
    return [linear(normal(5, 3)).detach()]


def prediction() -> list[Tensor | None]:
    J = normal(7, 9)
    # A product of matrices would be cast.
    K = (J[:, None] * J).sum(-1)
    given = (K, normal(7, seed=1), K[:2])
    return [
        *hpr_kernels.predict_mse(*given),
        *hpr_kernels.predict_mse(*given, t=[0.0, 2.0]),
        *hpr_kernels.predict_mse(*given, steps=3, learning_rate=0.01),
    ]


def weights_of_a_module() -> list[Tensor]:
    module = nn.RNN(3, 33, dtype=torch.float32, device="cpu")
    for seed, (name, value) in enumerate(list(module.named_parameters())):
        setattr(module, name, nn.Parameter(normal(*value.shape, seed=seed)))
    given = hpr_kernels.from_rnn(module)
    bias = given["bias"]
    assert bias is not None
    return [given["recurrent"], given["input"], bias]


def weights(seed: int) -> dict[str, Tensor]:
    return {name: value + normal(*value.shape, seed=seed) / 50 for name, value in network().items()}


def after_one_draw() -> list[Tensor]:
    drawn = testing.random_network(
        torch.Generator("cpu").manual_seed(0), N=5, T=3, B=2, dtype=torch.float32
    )
    return list(drawn)


CALLS: dict[str, Callable[[], list[Any]]] = {
    "from_rnn": weights_of_a_module,
    "leaky_rnn": leaky_rnn,
    "leaky_rnn_trace": trace,
    "leaky_rnn_adjoints": lambda: [
        hpr_kernels.leaky_rnn_adjoints(
            normal(6, 5, 33).relu(), **{k: v for k, v in network().items() if k != "input"}, rho=0.3
        )
    ],
    "leaky_rnn_ntk": lambda: [
        hpr_kernels.leaky_rnn_ntk(normal(6, 5, 3), **network(), rho=0.3, reduce=reduce, order=order)
        for reduce in ("full", "trace", "diagonal")
        for order in ("auto", "hadamard", "propagate", "dense")
    ],
    "leaky_rnn_kernel_alignment": lambda: [
        hpr_kernels.leaky_rnn_kernel_alignment(
            normal(6, 5, 3), before=network(), after=weights(4), rho=0.3
        )
    ],
    "two_layer_ntk": lambda: [
        hpr_kernels.two_layer_ntk(normal(5, 3), hidden=normal(33, 3, seed=1), readout=normal(2, 33))
    ],
    "ntk": lambda: [hpr_kernels.ntk(small_module(), normal(5, 3))],
    "ntk_operator": lambda: [module_operator() @ normal(18)],
    "ntk_plan": lambda: [hpr_kernels.ntk_plan(small_module(), normal(2, 3))],
    "ntk_alignment": alignment_of_modules,
    "leaky_rnn_ntk_operator": lambda: [recurrent_operator() @ normal(10)],
    "NTKOperator.matvec": lambda: both_operators(lambda one, u: one.matvec(u)),
    "NTKOperator.rmatvec": lambda: both_operators(lambda one, u: one.rmatvec(u)),
    "NTKOperator.trace": lambda: both_operators(lambda one, u: one.trace()),
    "NTKOperator.leading_eigenvalues": lambda: both_operators(
        lambda one, u: one.leading_eigenvalues(2)
    ),
    "NTKOperator.leading_eigenvectors": lambda: both_operators(
        lambda one, u: one.leading_eigenvectors(2)[1]
    ),
    "NTKOperator.to_scipy": lambda: both_operators(scipy_product),
    "linearize": linearized,
    "predict_mse": prediction,
    "readout_cross_entropy": loss,
    "readout_squared_error": regression_loss,
    "momentum_step": update,
    "place_trials": trials,
    "random_network": after_one_draw,
    "relative_error": lambda: [testing.relative_error(normal(33), normal(33, seed=1))],
    "assert_close": lambda: [testing.assert_close(normal(33), normal(33) + 1e-7, 1e-6)],
    "FactoredJacobian.dense": lambda: [jacobian().dense()],
    "FactoredJacobian.gram": lambda: [
        jacobian().gram(order=order) for order in ("hadamard", "propagate", "dense")
    ],
    "FactoredJacobian.plan": lambda: [jacobian().plan()],
    "FactoredJacobian.matvec": lambda: [jacobian().matvec(normal(33 * 9))],
    "FactoredJacobian.rmatvec": lambda: [jacobian().rmatvec(normal(10))],
    "FactoredJacobian.gram_matvec": lambda: [jacobian().gram_matvec(normal(10))],
    "FactoredJacobian.trace": lambda: [jacobian().trace()],
    "FactoredJacobian.leading_eigenvalues": lambda: [jacobian().leading_eigenvalues(2)],
    "FactoredJacobian.leading_eigenvectors": lambda: list(jacobian().leading_eigenvectors(2)),
    "FactoredJacobian.to_scipy": lambda: [scipy_product(jacobian(), normal(10))],
}  # fmt: skip


def public() -> Iterator[str]:
    """Yield every function of an `__all__` of the package, and every public method."""
    for name in PACKAGES:
        package = importlib.import_module(f"hpr_kernels{name}")
        for member in package.__all__:
            value = getattr(package, member)
            if inspect.isfunction(value):
                yield member
            elif value in (FactoredJacobian, NTKOperator):
                for method, function in vars(value).items():
                    if inspect.isfunction(function) and not method.startswith("_"):
                        yield f"{member}.{method}"


def test_no_public_function_is_left_out() -> None:
    assert set(public()) == set(CALLS)


@contextmanager
def default(setter: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


MODES: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to half": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default dtype": lambda: default(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("threads", [1, 2], ids=["one thread", "two threads"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CALLS)
def test_the_same_bits_in_every_mode(name: str, mode: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = CALLS[name]()
        with MODES[mode]():
            got = CALLS[name]()
    finally:
        torch.set_num_threads(before)
    # Without a graph, `leaky_rnn` has no gradients to give.
    for one, other in zip(got, expected, strict=mode not in ("inference mode", "no gradients")):
        if isinstance(other, Tensor):
            assert (one.dtype, one.device) == (other.dtype, other.device)
            assert torch.equal(one, other)
        else:
            assert isinstance(other, ContractionPlan | NTKPlan | tuple | float | None)
            assert one == other


def test_the_backward_of_a_forward_outside_leaves_autocast() -> None:
    """The forward runs outside of autocast, and only the gradient is taken within it."""
    given = [normal(6, 5, 3), *list(network().values())[:2]]
    for tensor in given:
        tensor.requires_grad_()
    outside = torch.autograd.grad(rates_of(*given).square().sum(), given)
    total = rates_of(*given).square().sum()
    with torch.autocast("cpu"):
        inside = torch.autograd.grad(total, given)
    for one, other in zip(inside, outside, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
