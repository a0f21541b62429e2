"""Exact neural tangent kernel of any module, through `torch.func`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpr_kernels.gram import MEMORY_BUDGET


def ntk(
    module: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    parameters: Sequence[str] | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """Exact NTK of any module through `torch.func`: per-example Jacobians, contracted parameter by parameter.

    Args:
        module: maps [B, …] to [B, …], each example on its own. Modules that mix examples or draw random numbers
            (batch normalisation and dropout in training mode) are refused. Tied weights count once.
        x1: [B1, …], each example a row of the batch.
        x2: second inputs; None for K(x1, x1).
        parameters: names as in `module.named_parameters()`; None for all that require a gradient.
        memory_budget: bytes of the Jacobians that are formed at once, of some examples on either side.

    Returns:
        K [M1, M2], M = B · (outputs of an example, flattened), rows example-major.

    Raises:
        ValueError, TypeError: naming the argument or the submodule that does not fit.
    """
    # Every place that holds a parameter, places of tied weights each: torch's own tying leaves a module that is used
    # under two names with the traced tensors in it.
    slots = {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, part in module.named_modules()
        for name, parameter in part.named_parameters(recurse=False)
    }
    available = dict(module.named_parameters())
    canonical = {id(parameter): name for name, parameter in available.items()}
    if parameters is None:
        parameters = [name for name, parameter in available.items() if parameter.requires_grad]
    names = list(dict.fromkeys(parameters))
    unknown = sorted(set(names) - set(available))
    if unknown or not names:
        raise ValueError(f"parameters: expected some of {list(available)}, got {names}")
    for name, part in module.named_modules():
        mixes = isinstance(part, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
        if mixes and part.training:
            raise ValueError(
                f"module: expected each example on its own, got {type(part).__name__} "
                f"{name!r} in training mode; call module.eval()"
            )
    chosen = {name: available[name].detach() for name in names}

    def example(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        held = {
            slot: weights.get(canonical[id(parameter)], parameter.detach())
            for slot, parameter in slots.items()
        }
        y = torch.func.functional_call(module, held, (x[None],), tie_weights=False)
        if not isinstance(y, Tensor):
            raise TypeError(f"module: expected a tensor as its result, got {type(y).__name__}")
        return y.flatten()

    with torch.no_grad():
        few = module(x1[:2])
        alone = torch.stack([example(chosen, x) for x in x1[:2]])
    if few.flatten(1).shape != alone.shape or not torch.allclose(few.flatten(1), alone, 1e-3, 1e-5):
        raise ValueError(
            "module: expected each example on its own, got other outputs in a batch of two"
        )
    rows = torch.func.vmap(torch.func.jacrev(example), in_dims=(None, 0))
    with torch.no_grad():
        outputs = example(chosen, x1[0]).numel()
    # jacrev holds a row's gradients and their copy, on the left and on the right.
    row = 4 * sum(value.nbytes for value in chosen.values())
    size = memory_budget // (outputs * row)
    if size < 1:
        raise ValueError(
            f"memory_budget: expected at least {outputs * row} bytes, one example's, got {memory_budget}"
        )
    lefts = x1.split(size)
    rights = lefts if x2 is None else x2.split(size)
    blocks = []
    for left in lefts:
        J = rows(chosen, left)
        blocks.append(torch.cat([_contract(J, rows(chosen, right)) for right in rights], dim=1))
    return torch.cat(blocks)


def _contract(left: dict[str, Tensor], right: dict[str, Tensor]) -> Tensor:
    rows, columns = (next(iter(J.values())).shape[:2].numel() for J in (left, right))
    K = next(iter(left.values())).new_zeros(rows, columns)
    for name, J in left.items():
        K.addmm_(J.flatten(2).flatten(0, 1), right[name].flatten(2).flatten(0, 1).mT)
    return K
