"""`ntk` of modules of every kind against their Jacobians, written out; which parameters are kept as factors."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest
import torch
from ntk_reference import CALLS, check_calls, jacobians, reduced
from ntk_zoo import F64, ZOO, made
from ntk_zoo_parts import Own, kinds, sequence, weight
from torch import Tensor, nn
from torch.nn import functional as F

from hpr_kernels import ntk
from hpr_kernels.checks import ORDERS, REDUCTIONS
from hpr_kernels.testing import assert_close, relative_error

pytestmark = [
    # Torch says that it copies the inputs of such a convolution.
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    # Torch says that its other implementation serves such a layer.
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


@pytest.mark.parametrize("name", ZOO)
def test_which_parameters_are_factored(name: str) -> None:
    module, x, _ = made(name)
    direct = {key for key, way in kinds(module, x).items() if way == "direct"}
    assert direct == set(ZOO[name].direct)


@pytest.mark.parametrize("name", ZOO)
def test_every_module_against_its_jacobian(name: str) -> None:
    """With and without x2, by each reduction."""
    module, x1, x2 = made(name)
    check_calls(module, x1, x2, 1 << 28)


# Each kind of parameter, as of `ntk_plan`, meets each call; two modules alone have embeddings with factors.
SAMPLED = {
    f"{name}, {'x2' if second else 'x1'}, {reduce}": (name, (second, reduce))
    for name, (second, reduce) in [*zip(ZOO, cycle(CALLS)), *(("embedding", one) for one in CALLS)]
}


@pytest.mark.parametrize(("name", "call"), SAMPLED.values(), ids=SAMPLED)
def test_every_module_one_output_of_one_example_at_a_time(
    name: str, call: tuple[bool, Any]
) -> None:
    module, x1, x2 = made(name)
    check_calls(module, x1[:2], x2[:1], calls=[call])


@pytest.mark.nightly
@pytest.mark.parametrize("name", ZOO)
def test_every_call_one_output_of_one_example_at_a_time(name: str) -> None:
    module, x1, x2 = made(name)
    check_calls(module, x1[:2], x2[:1])


@pytest.mark.parametrize("name", ZOO)
def test_each_parameter_alone(name: str) -> None:
    module, x1, x2 = made(name)
    J, H = jacobians(module, x1), jacobians(module, x2)
    for key in J:
        assert_close(ntk(module, x1, x2, parameters=key), reduced(J[key], H[key], "full"))


@pytest.mark.parametrize("name", ["perceptron", "two axes", "own recurrence", "encoder", "embedding"])  # fmt: skip
@pytest.mark.parametrize("order", ORDERS)
def test_each_order(name: str, order: Any) -> None:
    module, x, _ = made(name)
    J = torch.cat(list(jacobians(module, x).values()), -1)
    for reduce in REDUCTIONS:
        assert_close(ntk(module, x, order=order, reduce=reduce), reduced(J, J, reduce))


def by_torch_func(module: nn.Module, x: Tensor) -> Tensor:
    weights = {name: value.detach() for name, value in module.named_parameters()}

    def example(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        return torch.func.functional_call(module, weights, (one[None],)).flatten()

    J = torch.func.vmap(torch.func.jacrev(example), in_dims=(None, 0))(weights, x)
    return sum(reduced(value.flatten(2), value.flatten(2), "full") for value in J.values())  # type: ignore[return-value]


def by_a_loop(module: nn.Module, x: Tensor) -> Tensor:
    return sum(reduced(J, J, "full") for J in jacobians(module, x).values())  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ZOO)
def test_single_precision_errs_no_more_than_torch(name: str) -> None:
    module, x, _ = made(name, torch.float32)
    double, _, _ = made(name)
    double.load_state_dict(module.state_dict())
    exact = ntk(double, x if ZOO[name].tokens else x.double())
    K = by_a_loop(module, x) if ZOO[name].fused else by_torch_func(module, x)
    own, other = relative_error(ntk(module, x), exact), relative_error(K, exact)
    assert own <= 2 * other


@pytest.mark.parametrize(
    "name", ["over tokens", "own recurrence", "convolution of steps", "attention", "embedding"]
)
def test_inputs_of_two_lengths(name: str) -> None:
    module, x1, x2 = made(name)
    longer = torch.cat([x2, x2.flip(1)], dim=1)
    J, H = (torch.cat(list(jacobians(module, x).values()), -1) for x in (x1, longer))
    assert_close(ntk(module, x1, longer), reduced(J, H, "full"))
    if J.shape[1] == H.shape[1]:
        assert_close(ntk(module, x1, longer, reduce="trace"), reduced(J, H, "trace"))
    else:
        with pytest.raises(ValueError, match=r"^x2: expected \d+ outputs per example as of x1"):
            ntk(module, x1, longer, reduce="trace")


def test_a_weight_with_another_use_at_the_other_length() -> None:
    """The way of a parameter is the same on both sides of a kernel."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.w).sum(1) + (x[:, 3:] @ self.w.mT).tanh().sum(1)

    def short(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.w).sum(1) if x.shape[1] < 4 else forward(self, x)

    module = Own(short, w=weight(3, 4)).to(F64)
    x1, x2 = torch.ones(2, 3, 4, dtype=F64), torch.ones(2, 5, 4, dtype=F64)
    assert (kinds(module, x1), kinds(module, x2)) == ({"w": "linear"}, {"w": "direct"})
    J, H = jacobians(module, x1)["w"], jacobians(module, x2)["w"]
    assert_close(ntk(module, x1, x2), reduced(J, H, "full"))


def test_a_large_layer_is_not_refused(rng: torch.Generator) -> None:
    """The Jacobian of this perceptron would take 2.4 GiB, and its rows by one example 38 MiB."""
    module = sequence(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 200), nn.ReLU(), nn.Linear(200, 10))  # fmt: skip
    x = torch.randn(64, 784, generator=rng)
    K = ntk(module, x, memory_budget=16 << 20)
    few = torch.cat(list(jacobians(module, x[:2]).values()), -1)
    assert_close(K[:20, :20], reduced(few, few, "full"), 1e-5)


def test_a_call_that_torch_func_does_not_see() -> None:
    """Its second layer is called only outside of torch.func's transforms."""

    def forward(self: Any, x: Tensor) -> Tensor:
        inside = torch._C._functorch.is_functorch_wrapped_tensor(x)
        return self.a(x) if inside else self.a(x) + 2 * self.b(x)

    module = Own(forward, a=nn.Linear(4, 3), b=nn.Linear(4, 3)).to(F64)
    x = torch.ones(2, 4, dtype=F64)
    J = torch.cat(list(jacobians(module, x).values()), -1)
    assert_close(ntk(module, x), reduced(J, J, "full"))
