"""How the kernel of a module is computed: what is done for which parameter, and in which pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.tangent.layers import Layer
from hpr_kernels.tangent.pieces import Side, Sizes
from hpr_kernels.tangent.prepared import prepared, sides
from hpr_kernels.tangent.sizes import contraction, piece_sizes


@dataclass(frozen=True)
class ParameterPlan:
    """What `ntk` does for one parameter.

    Attributes:
        kind: "linear", "convolution" or "embedding" for a weight whose gradients are kept as factors; "bias", and
            "scale" of a norm, for sums over positions, where a bias of one weight alone is kept as one more input of
            that weight; "direct" for a parameter that torch differentiates by.
        positions: S, the number of outer products of one row of the Jacobian, over all calls; 0 where no factors are
            kept.
        order: how the factors are contracted, as in `FactoredJacobian.gram`; None where there are none. The Triton
            kernels of a card choose by themselves, which "auto" stands for.
    """

    kind: str
    positions: int
    order: Order | None


@dataclass(frozen=True)
class NTKPlan:
    """How `ntk` computes a kernel; as a string a table.

    Attributes:
        parameters: what is done for each, by name.
        examples, outputs: the largest size of a piece: some examples, and some outputs of each.
        at_once: the examples that are differentiated at once.
        groups: the parameters, in groups that are taken one after another.
        differentiations: how often rows of a piece are made, over all groups and pairs of pieces.
        by: "vmap" where examples and outputs are differentiated at once, "loop" where each is differentiated alone.
    """

    parameters: dict[str, ParameterPlan]
    examples: int
    outputs: int
    at_once: int
    groups: tuple[tuple[str, ...], ...]
    differentiations: int
    by: Literal["vmap", "loop"]

    def __str__(self) -> str:
        width = max(len(name) for name in self.parameters)
        rows = [
            f"{name:{width}}  {one.kind:11}  "
            + (f"{one.positions} positions, {one.order}" if one.order else "written out")
            for name, one in self.parameters.items()
        ]
        sizes = (
            f"pieces of {self.examples} examples and {self.outputs} outputs, "
            f"{self.at_once} examples at once by {self.by}, {len(self.groups)} groups of parameters, "
            f"{self.differentiations} differentiations"
        )
        return "\n".join([*rows, sizes])


@outside_autocast
def ntk_plan(
    module: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    parameters: Sequence[str] | None = None,
    reduce: Reduction = "full",
    order: Order = "auto",
    memory_budget: int = MEMORY_BUDGET,
) -> NTKPlan:
    """How `ntk` computes the kernel of the same arguments, without computing it.

    Returns:
        An `NTKPlan`: for each parameter whether its gradients are kept as factors, summed or written out, and the
        pieces in which the kernel fits the memory budget.

    Raises:
        ValueError, TypeError: as `ntk`, before it computes the kernel.
    """
    checks.choice("reduce", reduce, checks.REDUCTIONS)
    checks.choice("order", order, checks.ORDERS)
    memory_budget = checks.budget(memory_budget)
    with prepared(module, x1, x2, parameters) as found:
        left, right = sides(found, reduce)
        for side in (left, right or left):
            side.check()
        sizes = piece_sizes(left, right, reduce, order, memory_budget)
    pairs = sizes.pairs(left, right, reduce)
    firsts = len(left.pieces(sizes.examples, sizes.outputs))
    made = firsts + sum(right is not None or first != second for first, second in pairs)
    ways, by_parameter = left.split.ways, {}
    for name in found.names:
        owner = next((weight for weight, bias in ways.joined.items() if bias == name), name)
        layers = [layer for layer in left.split.layers.values() if layer.name == owner]
        orders = [_order(layer, left, right, sizes, reduce, order) for layer in layers]
        by_parameter[name] = ParameterPlan(
            ways.kinds.get(name, "direct"),
            sum(layer.S for layer in layers),
            orders[0] if orders else None,
        )
    return NTKPlan(
        by_parameter, sizes.examples, sizes.outputs, sizes.few, tuple(sizes.groups),
        made * len(sizes.groups), "vmap" if left.split.by_vmap else "loop",
    )  # fmt: skip


def _order(
    layer: Layer, left: Side, right: Side | None, sizes: Sizes, reduce: Reduction, order: Order
) -> Order:
    plan = contraction(
        layer, left.like, sizes.examples, sizes.outputs, reduce, order, sizes.workspace,
        symmetric=right is None,
    )  # fmt: skip
    return order if plan is None else plan.order
