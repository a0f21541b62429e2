"""Exact neural tangent kernel of any module."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.tangent import probe
from hpr_kernels.tangent.layers import splits
from hpr_kernels.tangent.pieces import Side, module_kernel


# Longer than 60 lines: the docstring is the public reference of all arguments.
@outside_autocast
def ntk(
    module: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    parameters: Sequence[str] | None = None,
    reduce: Reduction = "full",
    order: Order = "auto",
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """Exact NTK of any module, K_ij = Σ_p ⟨∂y_i/∂p, ∂y_j/∂p⟩ over the parameters p (Jacot et al. 2018).

    The gradient by the weight of a linear layer, a convolution or an embedding is a sum of outer products of adjoints
    and inputs over the calls and positions. Only these factors are computed, if all uses of the weight are calls of
    `torch.nn.functional` that take the parameter itself; biases likewise. The Jacobians by all other parameters are
    written out, by `torch.func`.

    A copy of the module computes everything, outside of autocast. The module itself stays unchanged, whatever its
    forward pass writes, and so do the random number generators of torch, Python and NumPy.

    Args:
        module: maps [B, …] to [B, …], fp32 or fp64, each example on its own. Modules that mix examples, draw random
            numbers or change their buffers (as batch normalisation and dropout do in training mode) are refused. Tied
            weights count once.
        x1: [B1, …], each example a row of the batch, of any dtype that the module takes.
        x2: second inputs [B2, …] of the same dtype and device; None for K(x1, x1).
        parameters: names as in `module.named_parameters()`, or patterns such as "encoder.*" and "*.bias", which stand
            for all parameters that match; None for all that require a gradient.
        reduce: "full" for all pairs of rows; "diagonal" for pairs of one output of two examples; "trace" for the sum
            (not the mean) of those over the outputs.
        order: how the factors are contracted, as in `FactoredJacobian.gram`.
        memory_budget: bytes beside the result, of gradients and contractions, with the freed memory that the allocator
            keeps. The kernel is computed in pieces of some examples, and of some outputs of one example where
            necessary. The copy of the module and its intermediate results need further memory.

    Returns:
        With O outputs of an example, flattened: "full" [B1 O, B2 O], rows example-major; "diagonal" [B1, B2, O];
        "trace" [B1, B2].

    Raises:
        ValueError, TypeError: naming the argument or the submodule that does not fit, or that holds NaN or infinity.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module: expected a torch.nn.Module, got {type(module).__name__}; "
            "a function becomes one as the forward of a module that holds its parameters"
        )
    checks.choice("reduce", reduce, checks.REDUCTIONS)
    checks.choice("order", order, checks.ORDERS)
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
                probe.run_module(twin, "x2", x2[:1])
        try:
            with warnings.catch_warnings():
                # Vmap warns of operations that it runs one example at a time, which are slower but exact.
                warnings.filterwarnings("ignore", message="There is a performance drop")
                K = _kernel(
                    twin, names, x1, x2, reduce=reduce, order=order, memory_budget=memory_budget
                )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"module: expected one that torch.func's vmap and jacrev go through, got {probe.told(error)}"
            ) from error
    checks.finite("kernel", K)
    return K


def _names(module: nn.Module, parameters: Sequence[str] | None) -> list[str]:
    """The parameters asked for by name or by pattern, each once."""
    available = dict(module.named_parameters())
    if not available:
        raise ValueError(f"module: expected one with parameters, got {type(module).__name__}")
    if parameters is None:
        parameters = [name for name, parameter in available.items() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                "parameters: expected names where no parameter requires a gradient, got None"
            )
    listed = isinstance(parameters, Iterable) and not isinstance(parameters, str)
    patterns = list(parameters) if listed else [parameters]
    found = [_matching(pattern, available) for pattern in patterns]
    if not found or not all(found):
        raise ValueError(f"parameters: expected some of {tuple(available)}, got {parameters!r}")
    return list(dict.fromkeys(name for names in found for name in names))


def _matching(pattern: object, available: Iterable[str]) -> list[str]:
    """The parameters that a name or a pattern of the shell stands for."""
    if not isinstance(pattern, str):
        return []
    # A name may have the characters of a pattern itself, as in a `ParameterDict`.
    exact = [name for name in available if name == pattern]
    return exact or [name for name in available if fnmatchcase(name, pattern)]


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
    module: nn.Module,
    names: list[str],
    x1: Tensor,
    x2: Tensor | None,
    *,
    reduce: Reduction,
    order: Order,
    memory_budget: int,
) -> Tensor:
    available = dict(module.named_parameters())
    weights = {name: available[name].detach() for name in names}
    inputs = [x1] if x2 is None else [x1, x2]
    sides = [
        Side(split, x)
        for split, x in zip(splits(module, weights, [x[:1] for x in inputs]), inputs, strict=True)
    ]
    for side in sides:
        probe.check_gradient(module, side.split.gradient, names, side.x[0])
    outputs = [side.split.outputs for side in sides]
    if reduce != "full" and outputs[0] != outputs[-1]:
        raise ValueError(
            f"x2: expected {outputs[0]} outputs per example as of x1 for reduce={reduce!r}, got {outputs[1]}"
        )
    return module_kernel(
        sides[0], None if x2 is None else sides[1], dtype=weights[names[0]].dtype,
        reduce=reduce, order=order, memory_budget=memory_budget,
    )  # fmt: skip
