"""`ntk_operator`: products, trace and eigenvalues against the dense kernel, in every way to differentiate forwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ntk_reference import jacobians
from ntk_zoo import F64, ZOO, Own, made
from torch import Tensor, nn

from hpr_kernels import NTKOperator, ntk, ntk_operator
from hpr_kernels.tangent import tangents
from hpr_kernels.testing import assert_close

# Torch says that it copies the inputs of such a convolution.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")


def normal(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(3)).to(dtype)


def dense(module: nn.Module, x1: Tensor, x2: Tensor, names: Any = None) -> Tensor:
    """K by a loop of autograd."""
    J, H = jacobians(module, x1), jacobians(module, x2)
    chosen = list(J) if names is None else names
    pairs = [(J[name].flatten(0, 1), H[name].flatten(0, 1)) for name in chosen]
    return sum(one @ other.mT for one, other in pairs)  # type: ignore[return-value]


def by_own_rule(self: Any, x: Tensor) -> Tensor:
    return Doubled.apply(self.a(x)).tanh()


class Doubled(torch.autograd.Function):
    """Twice a tensor, with no rule for forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return 2 * grad


class DoubledOnce(Doubled):
    """As `Doubled`, differentiable once."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return 2 * grad


class Wrong(torch.autograd.Function):
    """Twice a tensor, with a wrong rule for forward mode."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return 2 * grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Any:
        return 3 * tangent


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.inner = kind(4, 3, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0][:, -1]


def gated_without_gradient(self: Any, x: Tensor) -> Tensor:
    """The gate, of which there is no gradient, is open for positive inputs alone."""
    with torch.no_grad():
        gate = self.gate(x).relu() * (x[:, :1] > 0)
    return self.linear(x) + gate


def through(function: Any) -> nn.Module:
    return Own(lambda self, x: function.apply(self.a(x)).tanh(), a=nn.Linear(4, 3))


# A module, and the way in `WAYS` by which it is differentiated forwards.
WAYS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "forward": (lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2)), (4,), 0),
    "no rule": (lambda: through(Doubled), (4,), 1),
    "no second derivative": (lambda: through(DoubledOnce), (4,), 2),
    "a wrong rule": (lambda: through(Wrong), (4,), 1),
    "gradients off": (
        lambda: Own(gated_without_gradient, gate=nn.Linear(4, 3), linear=nn.Linear(4, 3)), (4,), 1),
    "GRU": (lambda: Recurrent(nn.GRU), (5, 4), 0),
    "LSTM": (lambda: Recurrent(nn.LSTM), (5, 4), 0),
    "RNN": (lambda: Recurrent(nn.RNN), (5, 4), 0),
}  # fmt: skip


def drawn(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make().double()


@pytest.mark.parametrize("name", ZOO)
def test_products_are_those_of_the_kernel(name: str) -> None:
    module, x1, x2 = made(name)
    for second in (None, x2):
        K = ntk(module, x1, second)
        operator = ntk_operator(module, x1, second)
        assert isinstance(operator, NTKOperator)
        assert list(operator.shape) == list(K.shape)
        assert (operator.dtype, operator.device) == (K.dtype, K.device)
        u, w = normal(K.shape[1]), normal(K.shape[0], 2)
        assert_close(operator.matvec(u), K @ u)
        assert_close(operator.rmatvec(w), K.mT @ w)
        if second is None:
            assert_close(operator.trace(), K.trace())


@pytest.mark.parametrize("name", WAYS)
def test_every_way_forwards_gives_the_same(name: str) -> None:
    make, shape, way = WAYS[name]
    module, x1, x2 = drawn(make), normal(3, *shape), normal(2, *shape)
    # The first example closes the gate, the second opens it.
    x1[:2] = torch.stack([-x1[0].abs(), x1[1].abs()])
    for second in (None, x2):
        K = dense(module, x1, x1 if second is None else second)
        for budget in (1, 10**8):
            operator = ntk_operator(module, x1, second, memory_budget=budget)
            u = normal(K.shape[1], 2)
            assert_close(operator @ u, K @ u)
            assert operator._left.way == way  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", range(len(tangents.WAYS)))
@pytest.mark.parametrize(
    "name", ["perceptron", "tied decoder", "unused", "convolutions", "encoder", "embedding"]
)
def test_the_ways_agree(name: str, way: int) -> None:
    module, x, _ = made(name)
    operator = ntk_operator(module, x)
    operator._left.way = way  # type: ignore[attr-defined]
    K = ntk(module, x)
    u = normal(len(K))
    assert_close(operator.matvec(u), K @ u)
    assert operator._left.way == way  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["perceptron", "scalar outputs", "two axes", "encoder", "embedding"]
)
def test_budgets_down_to_one_example_and_one_vector(name: str) -> None:
    module, x1, x2 = made(name)
    K = ntk(module, x1, x2)
    u = normal(K.shape[1], 3)
    chunks, columns = set(), set()
    for budget in (1, 2000, 10_000, 10**8):
        operator = ntk_operator(module, x1, x2, memory_budget=budget)
        chunks.add(min(operator._left.chunk, len(x1)))  # type: ignore[attr-defined]
        columns.add(min(operator._left.columns, 3))
        assert_close(operator @ u, K @ u)
        assert_close(operator.rmatvec(K @ u), K.mT @ (K @ u))
    assert {1, len(x1)} <= chunks
    assert {1, 3} <= columns


@pytest.mark.parametrize("name", ["perceptron", "layer norm", "GRU cell", "tied"])
def test_each_parameter_alone(name: str) -> None:
    module, x1, x2 = made(name)
    for parameter in dict(module.named_parameters()):
        K = dense(module, x1, x2, [parameter])
        operator = ntk_operator(module, x1, x2, parameters=[parameter])
        u = normal(K.shape[1])
        assert_close(operator @ u, K @ u)


def test_what_requires_no_gradient_is_left_out() -> None:
    module, x, _ = made("perceptron")
    module[0].requires_grad_(False)
    names = ["2.weight", "2.bias", "4.weight", "4.bias"]
    u = normal(12)
    expected = ntk(module, x, parameters=names) @ u
    assert_close(ntk_operator(module, x) @ u, expected)
    assert_close(ntk_operator(module, x, parameters=names) @ u, expected)


def test_a_transposed_operator_is_that_of_the_exchanged_inputs() -> None:
    module, x1, x2 = made("perceptron")
    operator, K = ntk_operator(module, x1, x2), ntk(module, x2, x1)
    u = normal(K.shape[1])
    assert list(operator.T.shape) == list(K.shape)
    assert_close(operator.T @ u, K @ u)
    assert_close(operator.T.rmatvec(K @ u), K.mT @ (K @ u))
    symmetric = ntk_operator(module, x1)
    assert symmetric.T is symmetric
    assert repr(operator) == "NTKOperator(shape=[12, 9], dtype=torch.float64, device=cpu)"


@pytest.mark.parametrize("name", ["perceptron", "convolution", "own recurrence", "embedding"])
def test_eigenvectors(name: str) -> None:
    module, x, _ = made(name)
    operator = ntk_operator(module, x)
    K = ntk(module, x)
    values, vectors = operator.leading_eigenvectors(3)
    assert list(values.shape) == [3]
    assert list(vectors.shape) == [len(K), 3]
    assert_close(values, torch.as_tensor(np.linalg.eigvalsh(K.numpy())[::-1][:3].copy()), 1e-12)
    assert_close(K @ vectors, vectors * values, 1e-12)
    assert_close(vectors.mT @ vectors, torch.eye(3, dtype=F64), 1e-12)
    assert torch.equal(operator.leading_eigenvalues(3), values)
    assert torch.equal(ntk_operator(module, x).leading_eigenvectors(3)[1], vectors)


def test_outputs_that_sum_to_a_constant_have_eigenvalues() -> None:
    """The product with the vector of ones is exactly zero, and ARPACK refuses to start from there."""
    module = Own(lambda self, x: torch.cat([self.a(x), -self.a(x)], 1), a=nn.Linear(4, 2)).double()
    x = normal(5, 4).round()
    operator, K = ntk_operator(module, x), ntk(module, x)
    assert not (operator @ torch.ones(20, dtype=F64)).any()
    assert_close(operator.leading_eigenvalues(2), torch.linalg.eigvalsh(K).flip(0)[:2])


def test_a_kernel_of_zero() -> None:
    module = Own(lambda self, x: self.a(x).detach() * x, a=nn.Linear(4, 4)).double()
    operator = ntk_operator(module, normal(3, 4))
    assert not (operator @ normal(12)).any()
    values, vectors = operator.leading_eigenvectors(2)
    assert not values.any()
    assert torch.equal(vectors.mT @ vectors, torch.eye(2, dtype=F64))


def test_scipy_solves_with_it() -> None:
    from scipy.sparse.linalg import LinearOperator, cg, eigsh, svds

    module, x1, x2 = made("perceptron")
    K = ntk(module, x1).numpy()
    operator = ntk_operator(module, x1).to_scipy()
    assert isinstance(operator, LinearOperator)
    assert (operator.shape, operator.dtype) == ((12, 12), np.float64)
    values = eigsh(operator, k=2, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(K)[-2:], rtol=1e-10)
    y = normal(12).numpy()
    ridge = operator + LinearOperator((12, 12), matvec=lambda u: 0.5 * u, dtype=np.float64)
    solution, failed = cg(ridge, y, rtol=1e-12)
    assert failed == 0
    np.testing.assert_allclose(solution, np.linalg.solve(K + 0.5 * np.eye(12), y), rtol=1e-8)

    between = ntk(module, x1, x2).numpy()
    other = ntk_operator(module, x1, x2).to_scipy()
    singular = svds(other, k=2, return_singular_vectors=False)
    np.testing.assert_allclose(
        np.sort(singular), np.sort(np.linalg.svd(between)[1])[-2:], rtol=1e-10
    )
    U, W = normal(9, 2).numpy(), normal(12, 2).numpy()
    # A view with negative strides.
    np.testing.assert_allclose(other @ U[::-1], between @ U[::-1], rtol=1e-10)
    np.testing.assert_allclose(other.H @ W, between.T @ W, rtol=1e-10)
    np.testing.assert_allclose(other @ U[:, 0], between @ U[:, 0], rtol=1e-10)


def test_the_dtype_of_a_scipy_operator() -> None:
    module, x, _ = made("perceptron", torch.float32)
    operator = ntk_operator(module, x)
    assert operator.to_scipy().dtype == np.float64
    assert operator.to_scipy(np.float32).dtype == np.float32
    u = np.ones(12)
    # As in curvlinops, the products are in the kernel's dtype, and the result is in that of the array.
    assert (operator.to_scipy() @ u).dtype == np.float64
    assert (operator.to_scipy() @ u.astype(np.float32)).dtype == np.float32
    expected = operator.matvec(torch.ones(12)).double().numpy()
    assert np.array_equal(operator.to_scipy() @ u, expected)


@pytest.mark.parametrize("name", ["perceptron", "encoder", "GRU cell"])
def test_fp32(name: str) -> None:
    module, x, _ = made(name, torch.float32)
    K = ntk(copy.deepcopy(module).double(), x.double())
    operator = ntk_operator(module, x)
    u = normal(len(K))
    assert operator.dtype == torch.float32
    assert_close(operator @ u.float(), K @ u, 1e-5)
    values, vectors = operator.leading_eigenvectors(2)
    assert values.dtype == vectors.dtype == torch.float32
    assert_close(values, torch.linalg.eigvalsh(K).flip(0)[:2], 1e-5)
    assert_close(K @ vectors.double(), (vectors * values).double(), 1e-4)


def told(done: list[tuple[int, int | None]], total: int | None) -> None:
    """The calls count up, and the last one says that all is done."""
    counts = [one for one, _ in done]
    assert len(done) > 2
    assert counts == sorted(counts)
    assert done[-1][0] == done[-1][1]
    assert all(of == total for _, of in done[:-1])


def test_progress() -> None:
    module, x1, x2 = made("perceptron")
    calls: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        calls.append((done, total))

    operator = ntk_operator(module, x1, x2, memory_budget=1)
    operator.matvec(normal(9), progress=progress)
    told(calls, 7)
    assert [one for one, _ in calls] == list(range(1, 8))
    calls.clear()
    operator.rmatvec(normal(12, 3), progress=progress)
    told(calls, 21)
    calls.clear()
    ntk_operator(module, x1, memory_budget=1000).trace(progress=progress)
    told(calls, 4)
    symmetric = ntk_operator(module, x1)
    for method in (symmetric.leading_eigenvalues, symmetric.leading_eigenvectors):
        calls.clear()
        method(2, progress=progress)
        told(calls, None)


X = torch.ones(3, 4)
VECTORS: dict[str, tuple[Any, str]] = {
    "NumPy": (np.ones(9, np.float32), "vector: expected a torch.Tensor, got ndarray"),
    "NaN": (torch.full((9,), torch.nan), "vector: expected finite numbers, got 9 NaN or infinite"),
    "infinite": (torch.ones(9, 2) / 0, "vector: expected finite numbers, got 18 NaN or infinite"),
    "another dtype": (torch.ones(9, dtype=F64), "vector: expected torch.float32 on cpu, got torch.float64"),
    "half": (torch.ones(9).half(), "vector: expected a dtype of float32 or float64, got torch.float16"),
    "another size": (torch.ones(8), r"vector: expected shape \[M2\] = \[9\], got \[8\]"),
    "other rows": (torch.ones(8, 9), r"vector: expected shape \[M2, k\] = \[9, any\], got \[8, 9\]"),
    "no column": (torch.ones(9, 0), r"vector: expected no empty axis, got \[9, 0\]"),
    "no axis": (torch.ones(()), r"vector: expected 1 or 2 axes, got shape \(\)"),
    "three axes": (torch.ones(9, 1, 1), "vector: expected 1 or 2 axes, got shape"),
}  # fmt: skip


@pytest.mark.parametrize(("vector", "message"), VECTORS.values(), ids=VECTORS)
def test_bad_vectors_are_named(vector: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}") as caught:
        ntk_operator(nn.Linear(4, 3), X).matvec(vector)
    assert "\n" not in str(caught.value)


CALLS: dict[str, tuple[Callable[[NTKOperator], Any], str]] = {
    "no eigenvalue": (lambda K: K.leading_eigenvalues(0), "count: expected 1 … M - 1 = 8, got 0"),
    "all eigenvalues": (lambda K: K.leading_eigenvectors(9), "count: expected 1 … M - 1 = 8, got 9"),
    "no function": (
        lambda K: K.matvec(torch.ones(9), progress=3),  # type: ignore[arg-type]
        "progress: expected a function of two numbers, got int"),
    "transposed": (lambda K: K.rmatvec(torch.ones(8)), r"vector: expected shape \[M1\] = \[9\], got \[8\]"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_bad_calls_are_named(call: Callable[[NTKOperator], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        call(ntk_operator(nn.Linear(4, 3), X))


@pytest.mark.parametrize("method", ["trace", "leading_eigenvalues", "leading_eigenvectors"])
def test_a_kernel_of_two_inputs_has_no_eigenvalues(method: str) -> None:
    operator = ntk_operator(nn.Linear(4, 3), X, X[:2])
    with pytest.raises(
        ValueError, match=r"^x2: expected None, for a symmetric kernel, got a kernel"
    ):
        getattr(operator, method)()


def test_products_that_overflow_are_named() -> None:
    operator = ntk_operator(nn.Linear(4, 3), 1e15 * X)
    with pytest.raises(ValueError, match=r"^product: expected finite numbers, got 9"):
        operator.matvec(1e20 * torch.ones(9))


def test_later_changes_of_the_module_do_not_matter() -> None:
    module, x, _ = made("perceptron")
    operator, u = ntk_operator(module, x), normal(12)
    expected = operator @ u
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(operator @ u, expected)
    u.requires_grad_()
    assert not (operator @ u).requires_grad
