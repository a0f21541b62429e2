"""FactoredJacobian: every order against the written-out Jacobian, also for a layer that is not recurrent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hpr_kernels import FactoredJacobian, checks
from hpr_kernels.gram import dispatch, eager
from hpr_kernels.gram.factors import Factors
from hpr_kernels.testing import assert_close

ORDERS = ("auto", "hadamard", "propagate", "dense")


def random_jacobian(
    rng: torch.Generator, B: int, O: int, S: int, N: int, F: int, *pack: int
) -> FactoredJacobian:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*pack, *shape, generator=rng, dtype=torch.float64)

    return FactoredJacobian(normal(B, O, S, N), normal(B, S, F))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("pack", [(), (3,)], ids=["plain", "pack"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (5, 3, 7, 33, 4), (40, 2, 3, 5, 300)], ids=str)
def test_gram(
    rng: torch.Generator, shape: tuple[int, ...], pack: tuple[int, ...], order: str
) -> None:
    J = random_jacobian(rng, *shape, *pack)
    K = J.gram(order=order)
    assert_close(K, J.dense() @ J.dense().mT)
    assert torch.equal(K, K.mT)
    B, O, S, N, F = shape
    other = random_jacobian(rng, B + 2, O + 1, S + 3, N, F, *pack)
    assert_close(J.gram(other, order=order), J.dense() @ other.dense().mT)


@settings(max_examples=40)
@given(data=st.data(), order=st.sampled_from(ORDERS))
def test_what_makes_it_a_gram(data: st.DataObject, order: str) -> None:
    """K is symmetric, positive semi-definite, additive over inputs, independent of the budget and of example order."""
    sizes = {name: data.draw(st.integers(1, 7), name) for name in "BOSNF"}
    B, O, S, N, F = sizes.values()
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32 - 1), "seed"))
    J = random_jacobian(rng, B, O, S, N, F)
    K = J.gram(order=order)
    plan = J.plan(order=order)
    times = data.draw(st.floats(1, 50), "budget in units of the smallest")
    budget = int(plan.costs[plan.order].least_bytes * times)
    assert_close(J.gram(order=plan.order, memory_budget=budget), K)
    assert torch.equal(K, K.mT)
    assert torch.linalg.eigvalsh(K)[0] >= -1e-12 * K.trace()
    permutation = torch.randperm(B, generator=rng)
    permuted = FactoredJacobian(J.adjoints[permutation], J.inputs[permutation]).gram(order=order)
    rows = K.unflatten(0, (B, O)).unflatten(2, (B, O))
    assert_close(permuted, rows[permutation][:, :, permutation].flatten(2).flatten(0, 1))
    extra = torch.randn(B, S, 3, generator=rng, dtype=torch.float64)
    both = FactoredJacobian(J.adjoints, torch.cat([J.inputs, extra], dim=-1)).gram(order=order)
    assert_close(both, K + FactoredJacobian(J.adjoints, extra).gram(order=order))


@pytest.mark.parametrize("order", ORDERS)
def test_reach_skips_only_zeros(rng: torch.Generator, order: str) -> None:
    J = random_jacobian(rng, 4, 5, 6, 7, 3)
    reach = (0, 2, 2, 3, 5)
    adjoints = J.adjoints.clone()
    for o, last in enumerate(reach):
        adjoints[:, o, last + 1 :] = 0
    causal = FactoredJacobian(adjoints, J.inputs, reach)
    assert_close(causal.gram(order=order), causal.dense() @ causal.dense().mT)
    assert_close(causal.gram(J, order=order), causal.dense() @ J.dense().mT)


@pytest.mark.parametrize("order", ORDERS[1:])
@pytest.mark.parametrize("causal", [False, True], ids=["all reach", "causal"])
def test_every_block_size_gives_the_same(
    rng: torch.Generator, order: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The C kernel has no blocks that a budget makes smaller.
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    J = random_jacobian(rng, 7, 6, 3, 5, 4)
    if causal:
        reach = (0, 0, 1, 1, 2, 2)
        adjoints = J.adjoints.clone()
        for o, last in enumerate(reach):
            adjoints[:, o, last + 1 :] = 0
        J = FactoredJacobian(adjoints, J.inputs, reach)
    other = random_jacobian(rng, 4, 2, 5, 5, 4)
    blocks = set()
    least = J.plan().costs[order].least_bytes
    for budget in (*range(least, 40 * least, least // 4), 1 << 30):
        plan = J.plan(order=order, memory_budget=budget)
        blocks.add(plan.block)
        K = J.gram(order=order, memory_budget=budget)
        assert_close(K, J.dense() @ J.dense().mT)
        assert torch.equal(K, K.mT)
        assert_close(
            J.gram(other, order=order, memory_budget=4 * budget), J.dense() @ other.dense().mT
        )
    # The budgets give blocks from the smallest to one that holds all, some of which do not divide the whole.
    largest = {"hadamard": 7, "propagate": 42, "dense": 5}[order]
    assert min(blocks) == 1
    assert max(blocks) == largest
    assert any(largest % block for block in blocks)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("S", [1, 6])
def test_a_gram_is_added_also_with_the_steps_last_in_memory(
    rng: torch.Generator, S: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    # With 64 outputs a block of "hadamard" has 3 examples, or 4 where there is one step.
    jacobians = [random_jacobian(rng, B, 64, S, 4, 3) for B in (9, 7)]
    left, right = (
        Factors(
            *(value.mT.contiguous().mT[None] for value in (J.adjoints, J.inputs)), ((S - 1,) * 64,)
        )
        for J in jacobians
    )
    for factors, J in zip((None, right), jacobians, strict=True):
        before = torch.randn(1, 9, 64, len(J.inputs), 64, generator=rng, dtype=torch.float64)
        K = before.clone()
        dispatch.add_gram(K, left, factors, reduce="full", order=order, memory_budget=1 << 28)
        (added,) = K - before
        if factors is None:
            eager.mirror(added)
        assert_close(added.flatten(2).flatten(0, 1), jacobians[0].dense() @ J.dense().mT)


@pytest.mark.parametrize("order", ORDERS[1:])
def test_a_budget_too_small_is_refused_with_the_bytes_that_would_do(
    rng: torch.Generator, order: str
) -> None:
    J = random_jacobian(rng, 7, 6, 3, 5, 4)
    least = J.plan().costs[order].least_bytes
    with pytest.raises(
        ValueError, match=f"memory_budget: expected at least {least} bytes, got 100"
    ):
        J.gram(order=order, memory_budget=100)
    J.gram(order=order, memory_budget=least)


@pytest.mark.parametrize("pack", [(), (2,)], ids=["plain", "pack"])
def test_reductions(rng: torch.Generator, pack: tuple[int, ...]) -> None:
    J, other = (random_jacobian(rng, B, 3, 4, 5, 6, *pack) for B in (4, 2))
    for right in (None, other):
        to = right or J
        full = (J.dense() @ to.dense().mT).unflatten(-1, (-1, 3)).unflatten(-3, (-1, 3))
        diagonal = full.diagonal(dim1=-3, dim2=-1)
        for order in ORDERS:
            assert_close(J.gram(right, reduce="diagonal", order=order), diagonal)
            assert_close(J.gram(right, reduce="trace", order=order), diagonal.sum(-1))


@pytest.mark.parametrize("pack", [(), (2,)], ids=["plain", "pack"])
def test_products_without_the_gram(rng: torch.Generator, pack: tuple[int, ...]) -> None:
    J = random_jacobian(rng, 4, 3, 7, 5, 6, *pack)
    dense = J.dense()
    v = torch.randn(*pack, 30, generator=rng, dtype=torch.float64)
    u = torch.randn(*pack, 12, generator=rng, dtype=torch.float64)
    assert_close(J.matvec(v), (dense @ v[..., None])[..., 0])
    assert_close(J.rmatvec(u), (dense.mT @ u[..., None])[..., 0])
    assert_close(J.gram_matvec(u), (dense @ (dense.mT @ u[..., None]))[..., 0])
    assert_close(J.trace(), dense.square().sum((-2, -1)))
    values = torch.linalg.eigvalsh(dense @ dense.mT).flip(-1)
    assert_close(J.leading_eigenvalues(3), values[..., :3], 1e-9)


def test_plan_says_what_it_chose_and_why(rng: torch.Generator) -> None:
    J = random_jacobian(rng, 4, 3, 7, 5, 6)
    plan = J.plan()
    assert plan.costs[plan.order].weighted == min(c.weighted for c in plan.costs.values())
    assert all(order in plan.reason for order in ORDERS[1:])
    forced = J.plan(order="dense")
    assert forced.order == "dense"
    assert forced.reason.startswith("asked for")


def test_layer_over_tokens_against_torch_func(rng: torch.Generator) -> None:
    """A linear layer shared over the tokens of an attention-like readout, without any recurrence."""
    B, S, F, N, O = 3, 6, 4, 5, 2
    tokens = torch.randn(B, S, F, generator=rng, dtype=torch.float64)
    weight = torch.randn(N, F, generator=rng, dtype=torch.float64)
    query = torch.randn(O, N, generator=rng, dtype=torch.float64)

    def head(values: Tensor) -> Tensor:  # [S, N] -> [O]
        scores = torch.softmax(values @ query.mT, dim=0)  # [S, O]
        return (scores * values.tanh().sum(-1, keepdim=True)).sum(0)

    def model(weight: Tensor, tokens: Tensor) -> Tensor:
        return head(tokens @ weight.mT)

    values = tokens @ weight.mT
    adjoints = torch.func.vmap(torch.func.jacrev(head))(values)  # [B, O, S, N]
    J = torch.func.vmap(torch.func.jacrev(model), in_dims=(None, 0))(weight, tokens)
    factored = FactoredJacobian(adjoints, tokens)
    assert_close(factored.dense(), J.flatten(2).flatten(0, 1))
    assert_close(factored.gram(), factored.dense() @ factored.dense().mT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adjoints": torch.zeros(2, 3)}, "adjoints: expected 4 or 5 axes"),
        (
            {"inputs": torch.zeros(2, 9, 5)},
            r"inputs: .*\[B, S, F\] = \[2, 4, any\], got \[2, 9, 5\]",
        ),
        ({"inputs": torch.full((2, 4, 5), torch.nan)}, "inputs: expected finite numbers, got 40"),
        ({"reach": (0, 1)}, "reach: expected 3 ascending steps in 0 … 3"),
        ({"reach": (2, 1, 3)}, "reach: expected 3 ascending"),
        ({"reach": (0.5, 1, 3)}, "reach: expected 3 ascending"),
        ({"reach": (0, 1, True)}, "reach: expected 3 ascending"),
        (
            {"adjoints": torch.ones(2, 3, 4, 6), "reach": (1, 3, 3)},
            "reach: expected zero adjoints of output 0 after step 1, got others",
        ),
        ({"adjoints": torch.zeros(2, 0, 4, 6)}, "adjoints: expected no empty axis"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "adjoints": torch.zeros(2, 3, 4, 6),
        "inputs": torch.zeros(2, 4, 5),
    }
    with pytest.raises((ValueError, TypeError), match=message):
        FactoredJacobian(**{**arguments, **change})  # type: ignore[arg-type]


def test_numbers_of_numpy_are_steps(rng: torch.Generator) -> None:
    J = random_jacobian(rng, 2, 3, 4, 5, 2)
    given = FactoredJacobian(J.adjoints, J.inputs, np.array([3, 3, 3]))  # type: ignore[arg-type]
    assert given.reach == (3, 3, 3)
    assert torch.equal(given.gram(), J.gram())


def test_bad_other_and_order_are_named(rng: torch.Generator) -> None:
    J = random_jacobian(rng, 2, 2, 2, 3, 4)
    with pytest.raises(ValueError, match="order: expected one of"):
        J.gram(order="fast")
    with pytest.raises(ValueError, match="reduce: expected one of"):
        J.gram(reduce="mean")
    with pytest.raises(ValueError, match=r"vector: expected shape \[N F\] = \[12\], got \[13\]"):
        J.matvec(torch.zeros(13, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"vector: expected shape \[B O\] = \[4\], got \[12\]"):
        J.rmatvec(torch.zeros(12, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"count: expected 1 … B O - 1 = 3, got 4"):
        J.leading_eigenvalues(4)
    with pytest.raises(ValueError, match=r"other.inputs: expected 4 features, got 5"):
        J.gram(random_jacobian(rng, 2, 2, 2, 3, 5))
    with pytest.raises(ValueError, match=r"other.adjoints: expected shape"):
        J.gram(random_jacobian(rng, 2, 2, 2, 9, 4))


@pytest.mark.parametrize("pack", [(), (2,)], ids=["plain", "pack"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_eigenvectors(rng: torch.Generator, dtype: torch.dtype, pack: tuple[int, ...]) -> None:
    drawn = random_jacobian(rng, 4, 3, 7, 5, 6, *pack)
    J = FactoredJacobian(drawn.adjoints.to(dtype), drawn.inputs.to(dtype))
    K = drawn.gram()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    values, vectors = J.leading_eigenvectors(3)
    assert values.dtype == vectors.dtype == dtype
    assert list(values.shape) == [*pack, 3]
    assert list(vectors.shape) == [*pack, 12, 3]
    assert torch.equal(J.leading_eigenvalues(3), values)
    assert_close(values, torch.linalg.eigvalsh(K).flip(-1)[..., :3], tolerance)
    vectors = vectors.double()
    assert_close(K @ vectors, vectors * values.double()[..., None, :], 10 * tolerance)
    assert_close(vectors.mT @ vectors, torch.eye(3).expand(*pack, 3, 3), tolerance)


def test_scipy_solves_with_the_gram(rng: torch.Generator) -> None:
    from scipy.sparse.linalg import eigsh

    J = random_jacobian(rng, 4, 3, 7, 5, 6)
    K, operator = J.gram().numpy(), J.to_scipy()
    u = torch.randn(12, 2, generator=rng, dtype=torch.float64).numpy()
    assert (operator.shape, operator.dtype) == ((12, 12), np.float64)
    np.testing.assert_allclose(operator @ u, K @ u, rtol=1e-10)
    np.testing.assert_allclose(operator.H @ u[:, 0], K @ u[:, 0], rtol=1e-10)
    values = eigsh(operator, k=2, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(K)[-2:], rtol=1e-10)
    with pytest.raises(
        ValueError, match=r"^to_scipy: expected the factors of one network, got a pack of 2$"
    ):
        random_jacobian(rng, 4, 3, 7, 5, 6, 2).to_scipy()


def test_scipy_is_given_numbers_of_factors_with_a_graph(rng: torch.Generator) -> None:
    J = random_jacobian(rng, 2, 2, 3, 4, 5)
    traced = FactoredJacobian(J.adjoints.clone().requires_grad_(), J.inputs)
    assert_close(traced.leading_eigenvalues(), J.leading_eigenvalues())
    np.testing.assert_allclose(traced.to_scipy() @ np.ones(4), J.to_scipy() @ np.ones(4), 1e-12)


def conjugate_imaginary(value: torch.Tensor) -> torch.Tensor:
    """Equal to `value`, as a view whose memory has the opposite sign."""
    view = torch.complex(torch.zeros_like(value), -value).conj().imag
    assert view.is_neg()
    return view


@pytest.mark.parametrize("order", ["hadamard", "propagate", "dense"])
def test_views_of_opposite_sign_in_memory(rng: torch.Generator, order: checks.Order) -> None:
    J, H = (random_jacobian(rng, 2, 3, 4, 5, 6) for _ in range(2))
    expected = J.gram(H, order=order)
    adjoints, inputs = conjugate_imaginary(J.adjoints), conjugate_imaginary(J.inputs)
    assert_close(FactoredJacobian(adjoints, J.inputs).gram(H, order=order), expected)
    assert_close(FactoredJacobian(J.adjoints, inputs).gram(H, order=order), expected)
    assert_close(H.gram(FactoredJacobian(adjoints, J.inputs), order=order), expected.mT)
    assert_close(H.gram(FactoredJacobian(J.adjoints, inputs), order=order), expected.mT)
