"""What the kernels of a module must be: its Jacobian by a loop of autograd, contracted as the definition says."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hpr_kernels import ntk
from hpr_kernels.checks import REDUCTIONS, BudgetTooSmallError, Reduction
from hpr_kernels.testing import assert_close

# Whether a call has x2, and its reduction.
CALLS: tuple[tuple[bool, Reduction], ...] = tuple(
    (second, reduce) for second in (False, True) for reduce in REDUCTIONS
)


def jacobians(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """By each parameter, [B, O, size], by a loop of autograd over the outputs."""
    held = dict(module.named_parameters())
    y = module(x)
    y = y.flatten(1) if y.dim() > 1 else y[:, None]
    rows = [
        torch.autograd.grad(one, list(held.values()), retain_graph=True, materialize_grads=True)
        for one in y.flatten()
    ]
    return {
        name: torch.stack([row[i].flatten() for row in rows]).view(*y.shape, -1)
        for i, name in enumerate(held)
    }


def reduced(J: Tensor, H: Tensor, reduce: str) -> Tensor:
    if reduce == "full":
        return J.flatten(0, 1) @ H.flatten(0, 1).mT
    K = torch.einsum("bof,cof->bco", J, H)
    return K if reduce == "diagonal" else K.sum(-1)


def check_calls(
    module: nn.Module,
    x1: Tensor,
    x2: Tensor,
    budget: int | None = None,
    calls: Iterable[tuple[bool, Reduction]] = CALLS,
) -> None:
    """Compare `ntk` with the contracted Jacobians in some of `CALLS`; without a budget by the least one of each."""
    J, H = (torch.cat(list(jacobians(module, x).values()), -1) for x in (x1, x2))
    for second, reduce in calls:
        others = x2 if second else None
        given = least_budget(module, x1, others, reduce) if budget is None else budget
        K = ntk(module, x1, others, reduce=reduce, memory_budget=given)
        assert_close(K, reduced(J, H if second else J, reduce))
        if not second:
            assert torch.equal(K, K.transpose(0, 1))


def least_budget(module: nn.Module, x1: Tensor, x2: Tensor | None, reduce: Reduction) -> int:
    """The smallest budget that suffices; parameters that are differentiated directly need none."""
    try:
        ntk(module, x1, x2, reduce=reduce, memory_budget=1)
    except BudgetTooSmallError as error:
        return error.least
    return 1
