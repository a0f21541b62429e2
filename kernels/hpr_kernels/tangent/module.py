"""Exact neural tangent kernel of any module, through `torch.func`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.memory import give_back
from hpr_kernels.tangent import probe


# Over 60 lines because of its docstring.
@outside_autocast
def ntk(
    module: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    parameters: Sequence[str] | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """Exact NTK of any module through `torch.func`: per-example Jacobians, contracted parameter by parameter.

    K_ij = Σ_p ⟨∂y_i/∂p, ∂y_j/∂p⟩ over the parameters p (Jacot et al. 2018).

    A copy of the module computes everything, outside of autocast. The module itself stays unchanged, whatever its
    forward pass writes, and so do the random number generators of torch, Python and NumPy.

    Args:
        module: maps [B, …] to [B, …], fp32 or fp64, each example on its own. Modules that mix examples, draw random
            numbers or change their buffers (as batch normalisation and dropout do in training mode) are refused. Tied
            weights count once.
        x1: [B1, …], each example a row of the batch, of any dtype that the module takes.
        x2: second inputs [B2, …] of the same dtype and device; None for K(x1, x1).
        parameters: names as in `module.named_parameters()`; None for all that require a gradient.
        memory_budget: bytes of the Jacobians held at once, of some examples on either side, with the freed memory that
            the allocator keeps. The copy of the module and its intermediate results need further memory.

    Returns:
        K [M1, M2], M = B · (outputs of an example, flattened), rows example-major.

    Raises:
        ValueError, TypeError: naming the argument or the submodule that does not fit, or that holds NaN or infinity.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module: expected a torch.nn.Module, got {type(module).__name__}; "
            "a function becomes one as the forward of a module that holds its parameters"
        )
    memory_budget = checks.budget(memory_budget)
    names = _names(module, parameters)
    _check_batch("x1", x1, None)
    if x2 is not None:
        _check_batch("x2", x2, x1)
    for name, parameter in module.named_parameters():
        checks.finite(f"parameter {name}", parameter.detach())
    # Autograd could not use tensors that were made in inference mode.
    with probe.random_numbers_kept(), torch.inference_mode(False):
        x1, x2 = probe.plain(x1), None if x2 is None else probe.plain(x2)
        with torch.no_grad():
            twin = probe.twin(module)
            probe.check(twin, x1)
            if x2 is not None:
                probe.run(twin, "x2", x2[:1])
        try:
            with warnings.catch_warnings():
                # Vmap warns of operations that it runs one example at a time, which are slower but exact.
                warnings.filterwarnings("ignore", message="There is a performance drop")
                K = _kernel(twin, names, x1, x2, memory_budget)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"module: expected one that torch.func's vmap and jacrev go through, got {probe.told(error)}"
            ) from error
    checks.finite("kernel", K)
    return K


def _names(module: nn.Module, parameters: Sequence[str] | None) -> list[str]:
    """The parameters asked for, each once."""
    available = dict(module.named_parameters())
    if not available:
        raise ValueError(f"module: expected one with parameters, got {type(module).__name__}")
    if parameters is None:
        parameters = [name for name, parameter in available.items() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                "parameters: expected names where no parameter requires a gradient, got None"
            )
    return list(dict.fromkeys(checks.groups(parameters, tuple(available))))


def _check_batch(name: str, x: Tensor, like: Tensor | None) -> None:
    if not isinstance(x, Tensor):
        hint = "; torch.as_tensor makes one of it" if hasattr(x, "__array__") else ""
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}{hint}")
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"{name}: expected a batch [B, …], none of it empty, got {list(x.shape)}")
    if like is not None and (x.dtype, x.device, x.dim()) != (like.dtype, like.device, like.dim()):
        raise TypeError(
            f"{name}: expected {like.dtype} on {like.device} with {like.dim()} axes, as x1, "
            f"got {x.dtype} on {x.device} with {x.dim()}"
        )
    if x.is_floating_point():
        checks.finite(name, x.detach())


def _kernel(
    module: nn.Module, names: list[str], x1: Tensor, x2: Tensor | None, memory_budget: int
) -> Tensor:
    # Every place that holds a parameter; tied weights have several. Torch's own handling of ties is not used, because
    # it leaves the traced tensors in a module that is registered under two names.
    slots = {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, part in module.named_modules()
        for name, parameter in part.named_parameters(recurse=False)
    }
    available = dict(module.named_parameters())
    canonical = {id(parameter): name for name, parameter in available.items()}
    chosen = {name: available[name].detach() for name in names}

    def example(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        held = {
            slot: weights.get(canonical[id(parameter)], parameter.detach())
            for slot, parameter in slots.items()
        }
        y: Tensor = torch.func.functional_call(module, held, (x[None],), tie_weights=False)
        return y.flatten()

    differentiated = torch.func.vmap(torch.func.jacrev(example), in_dims=(None, 0))

    def rows(x: Tensor) -> dict[str, Tensor]:
        give_back(x.device)
        return differentiated(chosen, x)

    outputs = probe.check_gradient(module, example, chosen, x1[0])
    # Both sides hold the gradients of a row and a copy, which jacrev makes. In measurements, freed blocks of sizes that
    # do not recur took as much again.
    row = 8 * sum(value.nbytes for value in chosen.values())
    size = memory_budget // (outputs * row)
    if size < 1:
        raise checks.BudgetTooSmallError(outputs * row, memory_budget)
    lefts = x1.split(size)
    rights = lefts if x2 is None else x2.split(size)
    blocks = []
    for left in lefts:
        J = rows(left)
        blocks.append(torch.cat([_contract(J, rows(right)) for right in rights], dim=1))
        del J
    return torch.cat(blocks)


def _contract(left: dict[str, Tensor], right: dict[str, Tensor]) -> Tensor:
    rows, columns = (next(iter(J.values())).shape[:2].numel() for J in (left, right))
    K = next(iter(left.values())).new_zeros(rows, columns)
    for name, J in left.items():
        K.addmm_(J.flatten(2).flatten(0, 1), right[name].flatten(2).flatten(0, 1).mT)
    return K
