"""The factors of a module's layers as the contraction takes them, of one piece of rows or of two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hpr_kernels.checks import Order, Reduction
from hpr_kernels.gram import dispatch, products
from hpr_kernels.gram.factors import Factors
from hpr_kernels.tangent.layers import Layer
from hpr_kernels.tangent.split import JacobianRows, Split

Pair = tuple[Tensor, Tensor]


class _Contraction(NamedTuple):
    """A layer with its adjoints and inputs on both sides, None for the left side again, and the bytes for its Gram."""

    layer: Layer
    rows: Pair
    columns: Pair | None
    workspace: int

    @property
    def sides(self) -> list[Pair]:
        return [self.rows] if self.columns is None else [self.rows, self.columns]


def factors_by_layer(
    left: Split,
    rows: JacobianRows,
    right: Split,
    columns: JacobianRows | None,
    reduce: Reduction,
    order: Order,
    workspace: int,
) -> Iterator[tuple[Factors, Factors | None, int]]:
    """The factors of each layer and group on both sides, and the bytes that their contraction may allocate.

    The results of layers that are added have equal adjoints, as those of the input and of the state in a recurrent
    network. Their factors come as those of one layer, which has the inputs of all.
    """
    found: list[_Contraction] = []
    for name, layer in left.layers.items():
        if name not in right.layers:
            continue
        others = None if columns is None else columns.factors[name]
        one = _Contraction(layer, rows.factors[name], others, workspace)
        for place, other in enumerate(found):
            joined = _joined(other, one, reduce, order) if _equal(other, one) else None
            if joined is not None:
                found[place] = joined
                break
        else:
            found.append(one)
    for one in found:
        for first, second in _factors(one.layer, one.rows, one.columns):
            yield first, second, one.workspace


def _equal(one: _Contraction, other: _Contraction) -> bool:
    """Whether the adjoints of two layers are equal on both sides."""
    if any(of.layer.tokens or of.layer.groups > 1 for of in (one, other)):
        return False
    # The first numbers of most layers differ, so that few are compared as a whole.
    return all(
        g.shape == h.shape and torch.equal(g[0, 0, 0], h[0, 0, 0]) and torch.equal(g, h)
        for (g, _), (h, _) in zip(one.sides, other.sides, strict=True)
    )


def _joined(
    one: _Contraction, other: _Contraction, reduce: Reduction, order: Order
) -> _Contraction | None:
    """Two layers of equal adjoints as one; None if there is no memory for it."""
    layer = one.layer._replace(F=one.layer.F + other.layer.F)
    numbers = sum(len(z) * layer.S * layer.F for _, z in one.sides)
    g = one.rows[0]
    room = min(one.workspace, other.workspace) - numbers * g.element_size()
    b, o = max(len(side) for side, _ in one.sides), max(side.shape[1] for side, _ in one.sides)
    if room < dispatch.least_bytes(b, o, layer.S, layer.N, layer.F, g, reduce, order):
        return None
    sides = [
        (g, torch.cat([z, y], -1)) for (g, z), (_, y) in zip(one.sides, other.sides, strict=True)
    ]
    return _Contraction(layer, sides[0], sides[1] if len(sides) > 1 else None, room)


def sum_of_squares(split: Split, rows: JacobianRows) -> Tensor:
    """The sum of the squares of all entries of rows, []."""
    total = rows.written.square().sum()
    for name, layer in split.layers.items():
        for factors, _ in _factors(layer, rows.factors[name], None):
            total += products.trace(factors.g[0], factors.z[0])
    return total


def _factors(
    layer: Layer, rows: Pair, columns: Pair | None
) -> Iterator[tuple[Factors, Factors | None]]:
    """The factors of each group of a weight on both sides."""
    z, y = rows[1], None if columns is None else columns[1]
    if layer.tokens:
        z, y = _one_hot(z, y, rows[0].dtype)
    sides = [(rows[0], z)] if columns is None or y is None else [(rows[0], z), (columns[0], y)]
    reaches = [_reach(g) for g, _ in sides]
    for group in range(layer.groups):
        units = slice(group * layer.N, (group + 1) * layer.N)
        found = [
            Factors(g[None, ..., units], x[None, :, :, group], (reach,))
            for (g, x), reach in zip(sides, reaches, strict=True)
        ]
        yield found[0], found[1] if len(found) > 1 else None


def _reach(g: Tensor) -> tuple[int, ...]:
    """The last position with an adjoint of each output or an earlier one, of g [b, o, S, units]: causality, if any."""
    o, S = g.shape[1:3]
    # As a rule there is none, which the first output shows.
    if S == 1 or bool(g[:, 0, -1].any()):
        return (S - 1,) * o
    active = torch.linalg.vector_norm(g, ord=torch.inf, dim=(0, 3)) != 0  # [o, S]
    last = (active * torch.arange(S, device=g.device)).amax(1).cummax(0).values
    return tuple(last.tolist())


def _one_hot(
    tokens: Tensor, others: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Inputs [b, S, 1, F] of an embedding, one-hot over the F tokens that occur on either side; token -1 is zero."""
    seen = tokens if others is None else torch.cat([tokens.flatten(), others.flatten()])
    vocabulary = seen.clamp(min=0).unique()
    found = [
        None if side is None else (side[..., None, None] == vocabulary).to(dtype)
        for side in (tokens, others)
    ]
    assert found[0] is not None
    return found[0], found[1]
