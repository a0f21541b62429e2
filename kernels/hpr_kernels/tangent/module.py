"""Exact neural tangent kernel of any module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.progress import Progress, Steps
from hpr_kernels.tangent.pieces import module_kernel
from hpr_kernels.tangent.prepared import prepared, sides
from hpr_kernels.tangent.sizes import piece_sizes


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
    progress: Progress | None = None,
) -> Tensor:
    """Exact NTK of any module, K_ij = Σ_p ⟨∂y_i/∂p, ∂y_j/∂p⟩ over the parameters p (Jacot et al. 2018).

    The gradient by the weight of a linear layer, a convolution or an embedding is a sum of outer products of adjoints
    and inputs over the calls and positions. Only these factors are computed, if all uses of the weight are calls of
    `torch.nn.functional` that take the parameter itself; biases likewise. The Jacobians by all other parameters are
    written out, by `torch.func`, or by a loop of `torch.autograd.grad` where vmap does not go through the module.

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
            necessary, and of some parameters after others. The copy of the module and its intermediate results need
            further memory, and so do two rows of the gradients by a parameter whose Jacobian is written out.
        progress: called as progress(done, total) after each pair of pieces.

    Returns:
        With O outputs of an example, flattened: "full" [B1 O, B2 O], rows example-major; "diagonal" [B1, B2, O];
        "trace" [B1, B2].

    Raises:
        ValueError, TypeError: naming the argument or the submodule that does not fit, or that holds NaN or infinity.
    """
    checks.choice("reduce", reduce, checks.REDUCTIONS)
    checks.choice("order", order, checks.ORDERS)
    memory_budget = checks.budget(memory_budget)
    Steps(progress, None)
    with prepared(module, x1, x2, parameters) as found:
        left, right = sides(found, reduce)
        sizes = piece_sizes(left, right, reduce, order, memory_budget)
        K = module_kernel(left, right, sizes, reduce=reduce, order=order, progress=progress)
    checks.finite("kernel", K)
    return K
