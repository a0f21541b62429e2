"""`FactoredJacobian`: a Jacobian kept as a sum of outer products, and its exact Gram."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.gram import cpu, reference


@dataclass(frozen=True, eq=False)
class FactoredJacobian:
    """Jacobian of a linear layer that is shared over steps (or tokens): row (b, o) is Σ_s g_s^{b,o} ⊗ z_s^b.

    `z_s` is what the layer was given at step s, `g_s` = ∂(output o)/∂(layer's result at step s) the adjoint. For a
    recurrent network z_s = [a_s, x_s] and g comes from `leaky_rnn_adjoints`, times 1 - rho. The N F entries of a row
    are never written out, except by `dense`.

    Attributes:
        adjoints: g, [R, B, O, S, N], or [B, O, S, N] for a plain network.
        inputs: z, [R, B, S, F], or [B, S, F].
        reach: for each of the O outputs, ascending, the last step at which its adjoint may be non-zero, as causality
            gives it; an order may skip what lies beyond. None: every output reaches every step.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, or that holds NaN or infinity.
    """

    adjoints: Tensor
    inputs: Tensor
    reach: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        checks.tensor("adjoints", self.adjoints, (4, 5))
        checks.tensor("inputs", self.inputs, (self.adjoints.dim() - 1,), like=self.adjoints)
        *pack, B, O, S, _ = self.adjoints.shape
        symbol = "[R, B, S, F]" if pack else "[B, S, F]"
        checks.shape("inputs", self.inputs, (*pack, B, S, None), symbol)
        if self.adjoints.numel() == 0 or self.inputs.numel() == 0:
            raise ValueError(f"adjoints: expected no empty axis, got {list(self.adjoints.shape)}")
        checks.finite("adjoints", self.adjoints)
        checks.finite("inputs", self.inputs)
        if self.reach is not None:
            ascending = list(self.reach) == sorted(self.reach)
            if (
                len(self.reach) != O
                or not ascending
                or not 0 <= self.reach[0] <= self.reach[-1] < S
            ):
                raise ValueError(
                    f"reach: expected {O} ascending steps in 0 … {S - 1}, got {self.reach!r}"
                )

    @property
    def packed(self) -> bool:
        """Whether there is a leading pack axis."""
        return self.adjoints.dim() == 5

    def dense(self) -> Tensor:
        """The Jacobian itself, [R, B O, N F] or [B O, N F]: for small cases and for tests."""
        if self.packed:
            return reference.jacobian(self.adjoints, self.inputs)
        return reference.jacobian(self.adjoints[None], self.inputs[None])[0]

    def gram(self, other: FactoredJacobian | None = None, *, order: str = "auto") -> Tensor:
        """J J'ᵀ, exact: K_ij = Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ ⟨z_s^b, z_s'^b'⟩.

        Args:
            other: the second Jacobian, of the same N, F, dtype and device (its R, too); None for this one, which
                costs half and gives an exactly symmetric result.
            order: "hadamard", "propagate" or "dense" fixes what is formed on the way (see kernels/README.md); "auto"
                takes the one with the fewest multiply-adds. All are exact.

        Returns:
            [R, B O, B' O'], or [B O, B' O'] for a plain network; rows example-major.
        """
        checks.choice("order", order, ("auto", *cpu.ORDERS))
        if other is not None:
            self._check_other(other)
        right = self if other is None else other
        if order == "auto":
            (B1, O1, S, N), (B2, O2) = self.adjoints.shape[-4:], right.adjoints.shape[-4:-2]
            F = self.inputs.shape[-1]
            S2 = right.adjoints.shape[-2]
            order = min(
                cpu.ORDERS, key=lambda o: cpu.multiply_adds(o, B1, B2, O1, O2, max(S, S2), N, F)
            )
        lefts = self._factors()
        rights = [None] * len(lefts) if other is None else other._factors()
        kernels = [
            cpu.gram(left, right, order).flatten(2).flatten(0, 1)
            for left, right in zip(lefts, rights, strict=True)
        ]
        return torch.stack(kernels) if self.packed else kernels[0]

    def _factors(self) -> list[cpu.Factor]:
        O, S = self.adjoints.shape[-3:-1]
        reach = self.reach or (S - 1,) * O
        if not self.packed:
            return [cpu.Factor(self.adjoints, self.inputs, reach)]
        pairs = zip(self.adjoints.unbind(), self.inputs.unbind(), strict=True)
        return [cpu.Factor(g, z, reach) for g, z in pairs]

    def _check_other(self, other: FactoredJacobian) -> None:
        if not isinstance(other, FactoredJacobian):
            raise TypeError(f"other: expected a FactoredJacobian, got {type(other).__name__}")
        checks.tensor("other.adjoints", other.adjoints, (self.adjoints.dim(),), like=self.adjoints)
        *pack, _, _, _, N = self.adjoints.shape
        symbol = "[R, B', O', S', N]" if pack else "[B', O', S', N]"
        checks.shape("other.adjoints", other.adjoints, (*pack, None, None, None, N), symbol)
        if other.inputs.shape[-1] != self.inputs.shape[-1]:
            raise ValueError(
                f"other.inputs: expected {self.inputs.shape[-1]} features, "
                f"got {other.inputs.shape[-1]}"
            )
