"""`linearize` against Jacobians written out, in value, in training and in state."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from ntk_reference import jacobians
from ntk_zoo import F64, ZOO, Own, made, weight
from torch import Tensor, nn

from hpr_kernels import linearize, ntk
from hpr_kernels.testing import assert_close

# Torch has no second derivative of an embedding bag.
NAMES = sorted({*ZOO} - {"embedding bag"})


def perceptron() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(F64)
    return module, torch.randn(5, 3, dtype=F64)


def moved(linear: nn.Module) -> dict[str, Tensor]:
    """Move the parameters, and return by how much."""
    with torch.no_grad():
        change = {name: torch.randn_like(value) for name, value in linear.named_parameters()}
        for name, value in linear.named_parameters():
            value += change[name]
    return change


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_equal_the_jacobian(name: str) -> None:
    module, x, _ = made(name)
    before = copy.deepcopy(module.state_dict())
    linear = linearize(module)
    y = module(x).detach()
    assert_close(linear(x), y)
    change = moved(linear)
    J = jacobians(module, x)
    expected = y + sum(J[key] @ value.flatten() for key, value in change.items()).view_as(y)
    got = linear(x)
    assert_close(got, expected)
    direction = torch.arange(got.numel(), dtype=F64).cos().view_as(got)
    found = torch.autograd.grad(
        (got * direction).sum(), list(linear.parameters()), materialize_grads=True
    )
    for (key, value), gradient in zip(linear.named_parameters(), found, strict=True):
        rows = J[key].flatten(0, 1)
        assert_close(gradient, (direction.flatten() @ rows).view_as(value))
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_recurrent_layers(kind: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = kind(3, 4, num_layers=2, bidirectional=True)
    module = Own(lambda self, x: self.layer(x)[0], layer=layer).to(dtype)
    # Steps come before examples here.
    x = torch.randn(5, 2, 3, dtype=dtype)
    linear = linearize(module)
    change = moved(linear)
    J = jacobians(module, x)
    y = module(x)
    expected = y + sum(J[key] @ value.flatten() for key, value in change.items()).view_as(y)
    assert_close(linear(x), expected, 1e-12 if dtype == F64 else 2e-5)


def test_the_tangent_kernel_stays_that_of_the_module() -> None:
    module, x = perceptron()
    linear = linearize(module)
    moved(linear)
    J = torch.cat([value.flatten(0, 1) for value in jacobians(linear, x).values()], 1)
    assert_close(J @ J.mT, ntk(module, x))


def test_the_gradient_by_x() -> None:
    module, x = perceptron()
    linear = linearize(module)
    moved(linear)
    assert torch.autograd.gradcheck(linear, (x[:2].clone().requires_grad_(),))


def test_chosen_parameters_move_alone() -> None:
    module, x = perceptron()
    linear = linearize(module, parameters=["2.bias"])
    assert [name for name, _ in linear.named_parameters()] == ["2.bias"]
    change = moved(linear)["2.bias"]
    assert_close(linear(x), module(x) + change)
    module[0].requires_grad_(False)  # type: ignore[index]
    assert {name for name, _ in linearize(module).named_parameters()} == {"2.weight", "2.bias"}


def test_tied_weights_stay_tied() -> None:
    module, x, _ = made("tied")
    linear = linearize(module)
    assert linear.get_parameter("0.weight") is linear.get_parameter("2.weight")
    assert [*linear.state_dict()] == [*module.state_dict()]
    trained = copy.deepcopy(module)
    moved(trained)
    linear.load_state_dict(trained.state_dict())
    J = jacobians(module, x)
    start = dict(module.named_parameters())
    change = sum(
        J[name] @ (value - start[name]).flatten() for name, value in trained.named_parameters()
    )
    assert_close(linear(x), module(x) + change)


def test_it_follows_the_given_module_nowhere_and_survives_copies() -> None:
    module, x = perceptron()
    linear = linearize(module)
    moved(linear)
    expected = linear(x).detach()
    moved(module)
    assert torch.equal(linear(x), expected)
    file = io.BytesIO()
    torch.save(linear, file)
    file.seek(0)
    for other in (copy.deepcopy(linear), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), expected)
        moved(other)
        assert not torch.equal(other(x), expected)
    assert torch.equal(linear(x), expected)
    assert_close(linear.float()(x.float()), expected.float(), 1e-5)
    assert "of Sequential" in repr(linear)


def test_the_mode_is_that_of_the_given_module() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).to(F64).eval()
    x = torch.randn(4, 3, dtype=F64)
    linear = linearize(module)
    expected = module(x)
    assert torch.equal(linear.train()(x), expected)
    module.train()
    for part in (module, nn.Sequential(module[0], module[2])):
        with pytest.raises(ValueError, match=r"^module: expected .*, got .* in training mode; "):
            linearize(part)


def test_examples_may_depend_on_each_other() -> None:
    module, x = perceptron()
    mixing = Own(lambda self, x: self.inner(x) - self.inner(x).mean(0), inner=module)
    linear = linearize(mixing)
    change = moved(linear)
    J = jacobians(mixing, x)
    expected = mixing(x) + sum(J[key] @ value.flatten() for key, value in change.items())
    assert_close(linear(x), expected)


def test_it_trains_with_any_optimiser_towards_least_squares() -> None:
    module, x = perceptron()
    linear = linearize(module)
    y = torch.randn(5, 2, dtype=F64)
    optimiser = torch.optim.LBFGS(
        linear.parameters(), max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.mse_loss(linear(x), y)
        value.backward()
        return value

    optimiser.step(loss)
    # There are more parameters than outputs, so the linear network fits all targets.
    assert float(loss().detach()) < 1e-10


def test_modules_and_inputs_of_inference_mode() -> None:
    module, x = perceptron()
    with torch.inference_mode():
        made_there = copy.deepcopy(module)
        made_there.load_state_dict(module.state_dict())
        linear = linearize(made_there)
        inside = linear(x.clone())
        given = x.clone()
    assert not inside.requires_grad
    assert torch.equal(linear(given), inside)
    assert linear(given).requires_grad


def test_random_generators_stay() -> None:
    module, x = perceptron()
    state = torch.get_rng_state()
    linearize(module)(x)
    assert torch.equal(torch.get_rng_state(), state)


class Counting(nn.Module):
    """A linear layer that counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


class Elsewhere(nn.Module):
    """A linear layer whose weight is read from a list beside the place where it is registered."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.read = [self.linear.weight]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.read[0].mT + self.linear.bias


def noisy(self: Any, x: Tensor) -> Tensor:
    return self.linear(x) + torch.rand(2)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Counting(), "module: expected one that keeps its state, got other buffers"),
        (Elsewhere(), "module: expected its parameters to be read where they are registered, got "),
        (Own(noisy, linear=nn.Linear(3, 2)), "module: expected no random numbers, got some drawn"),
        (nn.GRU(3, 2), "module: expected a tensor as its result, got tuple; wrap it"),
        (nn.Linear(4, 2), r"module: expected one that takes x of shape \[5, 3\] and "),
        (
            Own(lambda self, x: self.p.log() + x.sum(), p=nn.Parameter(torch.zeros(2))),
            "outputs of the module: expected finite numbers, got 2 NaN or infinite",
        ),
    ],
)
def test_a_first_call_that_does_not_fit_is_one_line(module: nn.Module, message: str) -> None:
    state = torch.get_rng_state()
    linear = linearize(module)
    for _ in range(2):
        with pytest.raises((ValueError, TypeError), match=f"^{message}") as error:
            linear(torch.ones(5, 3))
        assert "\n" not in str(error.value)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_operation_without_second_derivative_is_one_line() -> None:
    module, x, _ = made("embedding bag")
    with pytest.raises(ValueError, match=r"^module: expected one that .* twice, got NotImpl"):
        linearize(module)(x)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (torch.tanh, {}, "module: expected a torch.nn.Module, got builtin_function_or_method"),
        (nn.Tanh(), {}, "module: expected one with parameters, got Tanh"),
        (nn.Linear(3, 2), {"parameters": ["w"]}, "parameters: expected some of"),
        (nn.Linear(3, 2).requires_grad_(False), {}, "parameters: expected names, since no"),
        (
            Own(lambda self, x: x, w=nn.Parameter(torch.full((2,), torch.nan))),
            {},
            "parameter w: expected finite numbers, got 2 NaN or infinite",
        ),
    ],
)
def test_an_argument_that_does_not_fit_is_one_line(
    module: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        linearize(module, **options)
    with pytest.raises(TypeError, match=r"^x: expected a torch.Tensor, got list$"):
        linearize(Own(lambda self, x: x, w=weight(2)))([1.0])
