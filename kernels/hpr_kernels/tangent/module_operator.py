"""The tangent kernel of any module as a linear operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.progress import Steps
from hpr_kernels.tangent import probe
from hpr_kernels.tangent.layer_factors import sum_of_squares
from hpr_kernels.tangent.linear_operator import Gradients, NTKOperator
from hpr_kernels.tangent.prepared import (
    Prepared,
    prepared,
    sides,
    through_transforms,
    undisturbed,
)
from hpr_kernels.tangent.sizes import piece_sizes
from hpr_kernels.tangent.tangents import WAYS, AllocatedBytes
from hpr_kernels.tangent.uses import Substituted, substituted


@outside_autocast
def ntk_operator(
    module: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    parameters: Sequence[str] | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> NTKOperator:
    """The exact NTK of any module as a linear operator, K = J(x1) J(x2)ᵀ: its products with vectors, but not K itself.

    The kernel is that of `ntk`, for the same modules and beyond: vmap and factors are not needed, so a product does not
    refuse what torch.func's vmap cannot differentiate. Jᵀ u is by reverse mode. J v is by forward mode, where the
    module has it and does not turn gradients off; else by reverse mode twice; else by the gradient of every output.

    Args:
        module: as in `ntk`; copied here, so that a later change of its weights does not change the operator.
        x1: [B1, …], as in `ntk`; not copied.
        x2: second inputs [B2, …] of the same dtype and device; None for the symmetric kernel K(x1, x1).
        parameters: names or patterns, as in `ntk`; None for all that require a gradient.
        memory_budget: bytes for the vectors over the parameters and for the results of the module's operations. It sets
            how many vectors, and how many examples, a product takes at a time. One of each always goes, however large.

    Returns:
        An operator of shape [M1, M2], M = B · O for O outputs per example, with rows example-major as in `ntk`.

    Raises:
        ValueError, TypeError: as `ntk`.
    """
    memory_budget = checks.budget(memory_budget)
    with prepared(module, x1, x2, parameters) as found:
        weights = found.weights
        left, right = (
            None if x is None else ModuleJacobian(found.twin, weights, x, memory_budget)
            for x in (found.x1, found.x2)
        )
    assert left is not None
    return NTKOperator(left, right)


@dataclass(eq=False)
class ModuleJacobian:
    """The `Jacobian` of a module by `weights` at the examples x [B, …].

    The first example shows the number of outputs, the memory, and whether forward mode goes through the module.
    """

    twin: nn.Module
    weights: dict[str, Tensor]
    x: Tensor
    memory_budget: int
    call: Substituted = field(init=False)
    outputs: int = field(init=False)
    chunk: int = field(init=False)
    way: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.call = substituted(self.twin)
        first = self.x[:1]
        held = {name: value.requires_grad_() for name, value in self._constants().items()}
        counter = AllocatedBytes()
        # Without gradients a module may use fused operations, which show no intermediate results.
        with torch.enable_grad(), counter:
            self.outputs = self.call(held, first).numel()
        # Forward mode and reverse mode hold a second number for each.
        self.chunk = max(1, self.memory_budget // 2 // max(1, 2 * counter.total))
        witness = probe.Witness(self.twin, self.x[0])
        witness.check(self._gradient(self.x[0], witness.along))
        self._choose_way(first)

    @property
    def packed(self) -> bool:
        """Modules have no packs."""
        return False

    @property
    def networks(self) -> int:
        """One."""
        return 1

    @property
    def rows(self) -> int:
        """B times the outputs of an example."""
        return len(self.x) * self.outputs

    @property
    def examples(self) -> int:
        """B."""
        return len(self.x)

    @property
    def columns(self) -> int:
        """How many vectors over the parameters fit in half of the memory budget."""
        size = sum(value.numel() * value.element_size() for value in self.weights.values())
        return max(1, self.memory_budget // 2 // size)

    @property
    def like(self) -> Tensor:
        """A parameter."""
        return next(iter(self.weights.values()))

    def pull(self, vectors: Tensor, steps: Steps) -> Gradients:
        """Jᵀ u, by reverse mode: a forward pass for each chunk of examples, and a backward pass for each column."""
        k = vectors.shape[-1]
        total = {name: value.new_zeros(k, *value.shape) for name, value in self.weights.items()}
        along = vectors[0].unflatten(0, (len(self.x), -1))  # [B, O, k]
        with undisturbed(), torch.enable_grad():
            for some in self._chunks():
                self._add_pulled(total, self.x[some], along[some])
                steps.step(some.stop - some.start)
        return total

    def push(self, gradients: Gradients, steps: Steps) -> Tensor:
        """J v, a chunk of examples and a column at a time."""
        k = len(next(iter(gradients.values())))
        found = self.like.new_zeros(len(self.x), self.outputs, k)
        with undisturbed():
            for some in self._chunks():
                for j in range(k):
                    v = {name: value[j] for name, value in gradients.items()}
                    found[some, :, j] = self._tangent(self.x[some], v).reshape(-1, self.outputs)
                steps.step(some.stop - some.start)
        return found.reshape(1, -1, k)

    def trace(self, steps: Steps) -> Tensor:
        """Tr J Jᵀ, from the factors of one example at a time."""
        with undisturbed(), through_transforms():
            found = Prepared(self.twin, list(self.weights), self.x, None)
            side, _ = sides(found, "trace")
            sizes = piece_sizes(side, None, "trace", "auto", self.memory_budget)
            total = self.like.new_zeros(1)
            for piece in side.pieces(sizes.examples, sizes.outputs):
                for names in sizes.groups:
                    part = side.part(names)
                    total += sum_of_squares(part.split, part.rows(piece, sizes.few))
                if piece.outputs.stop == side.split.outputs:
                    steps.step(piece.examples.stop - piece.examples.start)
        return total

    def each(self) -> Iterator[ModuleJacobian]:
        """This one."""
        yield self

    def _chunks(self) -> Iterator[slice]:
        B = len(self.x)
        for start in range(0, B, self.chunk):
            yield slice(start, min(start + self.chunk, B))

    def _constants(self) -> dict[str, Tensor]:
        """The weights as new tensors on the same memory, without a graph."""
        return {name: value.detach() for name, value in self.weights.items()}

    def _tangent(self, x: Tensor, v: dict[str, Tensor]) -> Tensor:
        """J v of the examples x, by the first way that goes through the module; the later ones are kept to."""
        while self.way < len(WAYS) - 1:
            try:
                return WAYS[self.way](self.call, self._constants(), x, v)
            except torch.OutOfMemoryError:
                raise
            # A module may fail in any way in a mode of differentiation that it was not written for.
            except Exception:
                self.way += 1
        return WAYS[-1](self.call, self._constants(), x, v)

    def _choose_way(self, example: Tensor) -> None:
        """Leave out the ways whose J v differs from the gradient at one example, as of a module's own wrong rule."""
        direction = torch.arange(
            1, self.outputs + 1, dtype=self.like.dtype, device=self.like.device
        ).cos()
        v = self._gradient(example[0], direction)
        size = sum(float(value.square().sum()) for value in v.values())
        # With v = Jᵀ u, ⟨u, J v⟩ is |v|². A NaN passes here; the check of the product names it.
        while self.way < len(WAYS) - 1:
            tangent = self._tangent(example, v).flatten()
            if not abs(float(tangent @ direction.to(tangent.dtype)) - size) > 1e-3 * size:
                break
            self.way += 1

    def _add_pulled(self, total: Gradients, x: Tensor, along: Tensor) -> None:
        """Add Jᵀ u of the examples x [b, …] and u [b, O, k] to `total`."""
        k = along.shape[-1]
        held = {name: value.requires_grad_() for name, value in self._constants().items()}
        y = self.call(held, x)
        for j in range(k if y.requires_grad else 0):
            direction = along[..., j].reshape(y.shape).to(y.dtype)
            gradients = torch.autograd.grad(
                y, list(held.values()), direction, retain_graph=j < k - 1, allow_unused=True
            )
            for name, value in zip(held, gradients, strict=True):
                if value is not None:
                    total[name][j] += value

    def _gradient(self, x: Tensor, along: Tensor) -> dict[str, Tensor]:
        """The gradients of one example x of its outputs along one direction [O]."""
        total = {name: torch.zeros_like(value)[None] for name, value in self.weights.items()}
        with torch.enable_grad():
            self._add_pulled(total, x[None], along[None, :, None])
        return {name: value[0] for name, value in total.items()}
