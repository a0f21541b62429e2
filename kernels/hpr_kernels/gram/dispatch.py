"""Gram matrices of checked factors, by the backend that serves them: `triton`, `native` (C), or `eager` (torch)."""

from __future__ import annotations

import sys
from itertools import repeat

import torch
from torch import Tensor

from hpr_kernels.backend import uses_native, uses_triton
from hpr_kernels.checks import Order, Precision, Reduction
from hpr_kernels.gram import eager, native
from hpr_kernels.gram.contraction_plan import (
    ContractionPlan,
    ContractionShape,
    least_workspace,
    make_plan,
)
from hpr_kernels.gram.factors import Factors
from hpr_kernels.memory import on_huge_pages
from hpr_kernels.workers import threads


def gram(
    left: Factors,
    right: Factors | None,
    *,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
    precision: Precision,
) -> Tensor:
    """J J'ᵀ of `left` and `right`, None for `left` itself; P = 1 in both.

    Returns:
        "full": [R, B O, B' O']; "diagonal": [R, B, B', O]; "trace": [R, B, B'].
    """
    if _by_triton(left.g, order):
        from hpr_kernels.gram import triton

        K = triton.gram(
            left, right, reduce=reduce, order=order, precision=precision, memory_budget=memory_budget
        )  # fmt: skip
    else:
        K = _gram_by_torch(left, right, reduce, order, memory_budget)
    return K.unflatten(0, (len(left.z), -1)).movedim(1, -1) if reduce == "diagonal" else K


def add_gram(
    K: Tensor,
    left: Factors,
    right: Factors | None,
    *,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
) -> None:
    """Add J J'ᵀ of two packs of one to K [P, B, O', B', O''], with P, O' and O'' as in `Factors.reduced`.

    If `right` is None, only the pairs of examples b ≤ b' are added, until `gram.eager.mirror` writes the others.
    """
    if _by_triton(left.g, order):
        from hpr_kernels.gram import triton

        K += triton.gram(
            left, right, reduce=reduce, order=order, precision="ieee", memory_budget=memory_budget
        ).view(K.shape)
    else:
        _contract(K, left, right, reduce, order, memory_budget, add=True)


def mirror(K: Tensor) -> None:
    """Make K [B, O, B, O] exactly symmetric from its pairs of examples b ≤ b'."""
    (native if uses_native(K) and K.stride(-1) == 1 else eager).mirror(K)


def contraction_plan(
    left: Factors, right: Factors | None, reduce: Reduction, order: Order, memory_budget: int
) -> ContractionPlan:
    """The plan of `gram` by torch, for the first part where the outputs are contracted in parts."""
    outputs = _parts(left, right, reduce, memory_budget)[0]
    return _plan(left, right, reduce, order, memory_budget, outputs)


def least_bytes(
    examples: int, outputs: int, T: int, N: int, F: int, like: Tensor, reduce: Reduction, order: Order
) -> int:  # fmt: skip
    """Bytes that `gram` needs at the least, beside its result, for two different packs of one of these sizes.

    `like` has the dtype and device of the factors.
    """
    element = like.element_size()
    if _by_triton(like, order):
        # Copies for the kernels, which pad examples to fours, and the buffers of one step.
        rows = 4 * (-(-examples // 4))
        return 2 * element * rows * T * (2 * outputs * (N + 4) + 4 * (F + 4)) + 4 * rows * rows * T
    return least_workspace(_shape(examples, outputs, T, N, F, like, reduce, symmetric=False), order)


def full_speed_bytes(
    examples: int,
    outputs: int,
    T: int,
    N: int,
    F: int,
    like: Tensor,
    reduce: Reduction,
    order: Order,
    *,
    symmetric: bool,
) -> int:
    """Bytes beside its result with which `gram` has its full speed, for packs as in `least_bytes`.

    With Triton no number is too large.
    """
    plan = plan_of(
        examples, outputs, T, N, F, like, reduce, order, sys.maxsize, symmetric=symmetric
    )
    if plan is None:
        return sys.maxsize
    if reduce != "trace" or outputs == 1:
        return plan.workspace
    # The copy of `_joined_bytes`, which may take half of what there is.
    joined = (1 if symmetric else 2) * examples * outputs * T * N * like.element_size()
    return max(2 * joined, plan.workspace + joined)


def plan_of(
    examples: int,
    outputs: int,
    T: int,
    N: int,
    F: int,
    like: Tensor,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
    *,
    symmetric: bool,
) -> ContractionPlan | None:
    """The plan of `gram` by torch for packs of one of these sizes whose outputs reach all steps; None with Triton."""
    if _by_triton(like, order):
        return None
    shape = _shape(examples, outputs, T, N, F, like, reduce, symmetric=symmetric)
    return make_plan(shape, order, memory_budget)


def _shape(
    examples: int, outputs: int, T: int, N: int, F: int, like: Tensor, reduce: Reduction, *, symmetric: bool
) -> ContractionShape:  # fmt: skip
    reach = (T - 1,) * (outputs if reduce == "full" else 1)
    return ContractionShape(
        examples, examples, reach, reach, T, T, N * outputs if reduce == "trace" else N, F,
        like.element_size(), symmetric=symmetric, threads=threads(like.device), native=uses_native(like),
    )  # fmt: skip


def _by_triton(like: Tensor, order: Order) -> bool:
    # No Triton kernel serves "propagate".
    return order != "propagate" and uses_triton(like)


def _gram_by_torch(
    left: Factors, right: Factors | None, reduce: Reduction, order: Order, memory_budget: int
) -> Tensor:
    """K [R P, B O', B' O''], with P, O' and O'' as in `Factors.reduced`."""
    (R, B, O), (C, O2) = left.g.shape[:3], (right or left).g.shape[1:3]
    count = R * O if reduce == "diagonal" else R
    if reduce != "full":
        O = O2 = 1
    with torch.no_grad():
        K = on_huge_pages(left.z.new_empty(count, B, O, C, O2))
        _contract(K, left, right, reduce, order, memory_budget, add=False)
        if right is None:
            for target in K:
                mirror(target)
    return K.view(-1, B * O, C * O2)


def _contract(
    K: Tensor,
    left: Factors,
    right: Factors | None,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
    *,
    add: bool,
) -> None:
    """Write to K [R P, B, O', B', O''] by torch or C, or add; of a symmetric K only the pairs of examples b ≤ b'."""
    with torch.no_grad():
        for outputs in _parts(left, right, reduce, memory_budget):
            made = _plan(left, right, reduce, order, memory_budget, outputs)
            contract = native.contract if made.native else eager.contract
            for r, target in enumerate(K.view(len(left.z), -1, *K.shape[1:])):
                # `reduced` copies the adjoints of one network at a time.
                lefts = left.network(r).outputs(outputs).reduced(reduce)
                rights = right and right.network(r).outputs(outputs).reduced(reduce)
                others = rights.each() if rights else repeat(None, len(target))
                for one, first, second in zip(target, lefts.each(), others, strict=True):
                    contract(one, first, second, made, add=add or outputs.start > 0)


def _plan(
    left: Factors,
    right: Factors | None,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
    outputs: slice,
) -> ContractionPlan:
    """The plan of some outputs of each example."""
    other = right or left
    (_, B1, _, S1, N), (_, B2, _, S2, _) = left.g.shape, other.g.shape
    reach1, reach2 = left.reach[0][outputs], other.reach[0][outputs]
    if reduce == "trace":
        N *= len(reach1)
        memory_budget -= _joined_bytes(left, right, len(reach1))
    if reduce != "full":
        # An example has one row, of all outputs' adjoints end to end or of one output's.
        reach1, reach2 = reach1[-1:], reach2[-1:]
    shape = ContractionShape(
        B1, B2, reach1, reach2, S1, S2, N, left.z.shape[-1], left.g.element_size(),
        symmetric=right is None, threads=threads(left.g.device), native=uses_native(left.g),
    )  # fmt: skip
    return make_plan(shape, order, memory_budget)


def _joined_bytes(left: Factors, right: Factors | None, outputs: int) -> int:
    """Bytes of the copy that puts the adjoints of some outputs of one network end to end; one output needs no copy."""
    sides = [left] if right is None else [left, right]
    numbers = sum(side.g[0, :, 0].numel() for side in sides)
    return 0 if outputs == 1 else outputs * numbers * left.g.element_size()


def _parts(
    left: Factors, right: Factors | None, reduce: Reduction, memory_budget: int
) -> list[slice]:
    """All outputs at once, except that for "trace" their adjoints end to end may take half of the budget."""
    O = max(left.g.shape[2], (right or left).g.shape[2])
    size = O
    if reduce == "trace":
        while size > 1 and _joined_bytes(left, right, size) > memory_budget // 2:
            size = -(-size // 2)
    return [slice(start, start + size) for start in range(0, O, size)]
