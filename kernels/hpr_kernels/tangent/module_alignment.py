"""The alignment of the tangent kernels of two modules, computed block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.checks import Order
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.progress import Progress, Steps
from hpr_kernels.tangent.pieces import Kernel, Piece, Side, Sizes
from hpr_kernels.tangent.prepared import Prepared, prepared, sides
from hpr_kernels.tangent.sizes import piece_sizes

# Rows of a block that are in fp64 at a time.
ROWS = 256


@outside_autocast
def ntk_alignment(
    before: nn.Module,
    after: nn.Module,
    x: Tensor,
    *,
    parameters: Sequence[str] | None = None,
    order: Order = "auto",
    memory_budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
) -> Tensor:
    """Tangent kernel alignment Tr(K_f K_0) / (‖K_f‖ ‖K_0‖) of two modules (Liu et al. 2024, Eq. 6).

    K_0 is `ntk(before, x)` and K_f `ntk(after, x)`. Only blocks of
    them are in memory.

    Args:
        before: the module of K_0, as in `ntk`.
        after: the module of K_f, of the same architecture: its parameters have the names and shapes of those of before.
        x: [B, …], as in `ntk`.
        parameters: names or patterns, as in `ntk`; None for all that require a gradient in `before`.
        order: as in `ntk`.
        memory_budget: bytes of gradients, blocks and contractions, whatever the number of rows; the copies of the
            modules and their intermediate results need further memory.
        progress: called as progress(done, total) after each pair of blocks.

    Returns:
        The alignment, [], fp64; sums accumulate in fp64. NaN where a kernel is zero.

    Raises:
        ValueError, TypeError: as `ntk`, with "before", "after" and "x" in place of "module" and "x1".
    """
    checks.choice("order", order, checks.ORDERS)
    memory_budget = checks.budget(memory_budget)
    Steps(progress, None)
    with _checked("before", before, x, parameters) as old:
        _check_alike(old.twin, after)
        with _checked("after", after, x, old.names) as new:
            (left, _), (right, _) = sides(old, "full"), sides(new, "full")
            if left.split.outputs != right.split.outputs:
                raise ValueError(
                    f"after: expected {left.split.outputs} outputs per example as before, "
                    f"got {right.split.outputs}"
                )
            sums = _alignment_sums(left, right, order, memory_budget, progress)
    checks.finite("kernel", sums)
    return sums[0] / (sums[1] * sums[2]).sqrt()


@contextmanager
def _checked(
    name: str, module: nn.Module, x: Tensor, parameters: Sequence[str] | None
) -> Iterator[Prepared]:
    """`prepared`, with errors that say which of the two modules does not fit."""
    try:
        with prepared(module, x, None, parameters) as found:
            yield found
    except (TypeError, ValueError) as error:
        told = str(error)
        if told.startswith("module:"):
            told = name + told.removeprefix("module").replace(" x1 of shape", " x of shape")
        elif told.startswith("x1:"):
            told = told.replace("x1", "x", 1)
        elif told.startswith(("parameter ", "outputs of the module")):
            told = f"{name}, {told}"
        else:
            raise
        raise type(error)(told) from error


def _check_alike(before: nn.Module, after: nn.Module) -> None:
    """Check that two modules have parameters of the same names, shapes and dtypes."""
    if not isinstance(after, nn.Module):
        return
    one, other = (
        {name: (value.dtype, list(value.shape)) for name, value in module.named_parameters()}
        for module in (before, after)
    )
    for name in [*one, *other]:
        if one.get(name) != other.get(name):
            wanted, got = (
                f"{of[name][1]} of {of[name][0]}" if name in of else "none" for of in (one, other)
            )
            raise ValueError(
                f"after: expected the parameters of before, whose {name} is {wanted}, got {got}"
            )


def _alignment_sums(
    before: Side, after: Side, order: Order, memory_budget: int, progress: Progress | None
) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0², [3] in fp64."""
    try:
        # The blocks of both kernels take memory beside the rows of one module on two sides.
        sizes = piece_sizes(before, after, "full", order, memory_budget // 2)
    except checks.BudgetTooSmallError as error:
        raise checks.BudgetTooSmallError(2 * error.least, memory_budget) from None
    pairs = sizes.pairs(before, None, "full")
    steps = Steps(progress, len(pairs))
    sums = torch.zeros(3, dtype=torch.float64, device=before.x.device)
    for first, second in pairs:
        K_0, K_f = (_block(side, first, second, sizes, order) for side in (before, after))
        # A block off the diagonal counts for its transpose, too.
        times = 1 if first == second else 2
        for one, other in zip(K_0.split(ROWS), K_f.split(ROWS), strict=True):
            one, other = one.double(), other.double()
            products = (other * one, other.square(), one.square())
            sums += times * torch.stack([product.sum() for product in products])
        steps.step()
    return sums


def _block(side: Side, first: Piece, second: Piece, sizes: Sizes, order: Order) -> Tensor:
    """The kernel of a module between two pieces."""
    K = Kernel.between(first, second, "full", side.like)
    for names in sizes.groups:
        part = side.part(names)
        rows = part.rows(first, sizes.few)
        columns = None if first == second else part.rows(second, sizes.few)
        K.add(part.split, rows, part.split, columns, order, sizes.workspace)
        del rows, columns
    if first == second:
        K.mirror()
    return K.shown
