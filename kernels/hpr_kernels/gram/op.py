"""`FactoredJacobian`: a Jacobian kept as a sum of outer products, and what follows from it without writing it out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hpr_kernels import checks, lanczos
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision
from hpr_kernels.gram import dispatch, products, reference
from hpr_kernels.gram.contraction_plan import MEMORY_BUDGET, ContractionPlan
from hpr_kernels.gram.factors import Factors


@dataclass(frozen=True, eq=False)
class FactoredJacobian:
    """Jacobian of a linear layer that is shared over steps (or tokens): row (b, o) is Σ_s g_s^{b,o} ⊗ z_s^b.

    `z_s` is the input of the layer at step s, and the adjoint `g_s` = ∂(output o)/∂(result of the layer at step s). For
    a recurrent network z_s = [a_s, x_s], and g is `leaky_rnn_adjoints` times 1 - rho. Only `dense` writes out the N F
    entries of a row.

    Attributes:
        adjoints: g, [R, B, O, S, N], or [B, O, S, N] for a plain network.
        inputs: z, [R, B, S, F], or [B, S, F].
        reach: for each of the O outputs, ascending, the last step at which its adjoint may be non-zero, as causality
            gives it; a contraction may skip the later steps. None: every output reaches every step.

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
            reach = [checks.as_int(last) for last in self.reach]
            steps = [last for last in reach if last is not None and 0 <= last < S]
            if len(reach) != O or len(steps) != O or steps != sorted(steps):
                raise ValueError(
                    f"reach: expected {O} ascending steps in 0 … {S - 1}, got {self.reach!r}"
                )
            for o, last in enumerate(steps):
                if bool(self.adjoints[..., o, last + 1 :, :].any()):
                    raise ValueError(
                        f"reach: expected zero adjoints of output {o} after step {last}, got others"
                    )
            object.__setattr__(self, "reach", tuple(steps))

    @property
    def packed(self) -> bool:
        """Whether there is a leading pack axis."""
        return self.adjoints.dim() == 5

    @outside_autocast
    def dense(self) -> Tensor:
        """The Jacobian itself, [R, B O, N F] or [B O, N F]: for small cases and for tests."""
        J = reference.jacobian(self._factors.g, self._factors.z)
        return J if self.packed else J[0]

    @outside_autocast
    def gram(
        self,
        other: FactoredJacobian | None = None,
        *,
        reduce: checks.Reduction = "full",
        order: checks.Order = "auto",
        memory_budget: int = MEMORY_BUDGET,
        precision: checks.Precision = DEFAULT_PRECISION,
    ) -> Tensor:
        """J J'ᵀ, exact: K_ij = Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ ⟨z_s^b, z_s'^b'⟩.

        Args:
            other: the second Jacobian, of the same N, F, dtype and device (and R); None for this one, which halves the
                cost and gives an exactly symmetric result.
            reduce: "full" for all pairs of rows; "diagonal" for pairs of one output o of two examples;
                "trace" for the sum (not the mean) of those over o.
            order: "hadamard", "propagate" or "dense" chooses the intermediate results (see docs/derivations.md); "auto"
                takes the cheapest by `plan`. All are exact.
            memory_budget: bytes that may be allocated beside the result.
            precision: how products of fp32 numbers round in the Triton kernels: "ieee", "tf32x3" (nearly as exact, on
                tensor cores) or "tf32". Torch, which serves the CPU, other dtypes and "propagate", ignores it.

        Returns:
            "full": [R, B O, B' O'], rows example-major; "diagonal": [R, B, B', O]; "trace": [R, B, B']. No R for a
            plain network.
        """
        right, memory_budget = self._checked(other, reduce, order, memory_budget)
        check_precision(precision)
        K = dispatch.gram(
            self._factors, right, reduce=reduce, order=order, memory_budget=memory_budget,
            precision=precision,
        )  # fmt: skip
        return K if self.packed else K[0]

    @outside_autocast
    def plan(
        self,
        other: FactoredJacobian | None = None,
        *,
        reduce: checks.Reduction = "full",
        order: checks.Order = "auto",
        memory_budget: int = MEMORY_BUDGET,
    ) -> ContractionPlan:
        """How `gram` contracts by torch: the order, the reason, and each order's multiply-adds, bytes and workspace."""
        right, memory_budget = self._checked(other, reduce, order, memory_budget)
        return dispatch.contraction_plan(self._factors, right, reduce, order, memory_budget)

    @outside_autocast
    def matvec(self, vector: Tensor) -> Tensor:
        """J v: a vector [R, N F] of the parameters gives one [R, B O] of the rows (no R for a plain network)."""
        self._check_vector(vector, self.adjoints.shape[-1] * self.inputs.shape[-1], "N F")
        return products.matvec(self.adjoints, self.inputs, vector)

    @outside_autocast
    def rmatvec(self, vector: Tensor) -> Tensor:
        """Jᵀ u: a vector [R, B O] of the rows gives one [R, N F] of the parameters (no R for a plain network)."""
        self._check_vector(vector, self._factors.rows, "B O")
        return products.rmatvec(self.adjoints, self.inputs, vector)

    @outside_autocast
    def gram_matvec(self, vector: Tensor) -> Tensor:
        """K u = J Jᵀ u without K, in 2 B S N (O + F) multiply-adds; vectors as in `rmatvec`."""
        self._check_vector(vector, self._factors.rows, "B O")
        return products.gram_matvec(self.adjoints, self.inputs, vector)

    @outside_autocast
    def trace(self) -> Tensor:
        """Tr K, [R], or [] for a plain network: Σ_b Σ_{s,s'} ⟨z_s, z_s'⟩ Σ_o ⟨g_s, g_s'⟩."""
        return products.trace(self.adjoints, self.inputs)

    @outside_autocast
    def leading_eigenvalues(self, count: int = 1) -> Tensor:
        """The largest eigenvalues of K, descending, [R, count], without R for a plain network."""
        return self.leading_eigenvectors(count)[0]

    @outside_autocast
    def leading_eigenvectors(self, count: int = 1) -> tuple[Tensor, Tensor]:
        """The largest eigenvalues of K and their eigenvectors, by SciPy's Lanczos on `gram_matvec`: K is never formed.

        Returns:
            Eigenvalues, descending, [R, count], and orthonormal eigenvectors [R, B O, count]; no R for a plain network.

        Raises:
            ImportError: SciPy is missing (it is not among this package's dependencies).
            ValueError: `count` is not in 1 … B O - 1.
        """
        most = self._factors.rows - 1
        count = checks.count("count", count, 1, most, f"1 … B O - 1 = {most}")
        found = [
            lanczos.leading_eigenpairs(
                partial(products.gram_matvec, one.g[0], one.z[0]), most + 1, count, self.adjoints
            )
            for one in self._factors.each()
        ]
        values, vectors = (torch.stack(list(parts)) for parts in zip(*found, strict=True))
        return (values, vectors) if self.packed else (values[0], vectors[0])

    @outside_autocast
    def to_scipy(self, dtype: Any = None) -> Any:
        """K as a `scipy.sparse.linalg.LinearOperator`, by `gram_matvec`: K is never formed.

        Args:
            dtype: the dtype that the operator has for SciPy; None for NumPy's default, fp64. torch computes in the
                dtype of the factors, and a product has the dtype of the array that SciPy gave.

        Raises:
            ImportError: SciPy is missing.
            ValueError: this is a pack.
        """
        if self.packed:
            raise ValueError(
                f"to_scipy: expected the factors of one network, got a pack of {len(self.adjoints)}"
            )

        @outside_autocast
        def product(vectors: Tensor) -> Tensor:
            columns = [self.gram_matvec(vector) for vector in vectors.unbind(1)]
            return torch.stack(columns, dim=1)

        M = self._factors.rows
        return lanczos.scipy_operator(product, product, (M, M), self.adjoints, dtype)

    @property
    def _factors(self) -> Factors:
        """The same with a pack axis."""
        O, S = self.adjoints.shape[-3:-1]
        reach = self.reach or (S - 1,) * O
        if self.packed:
            return Factors(self.adjoints, self.inputs, (reach,))
        return Factors(self.adjoints[None], self.inputs[None], (reach,))

    def _checked(
        self,
        other: FactoredJacobian | None,
        reduce: checks.Reduction,
        order: checks.Order,
        memory_budget: int,
    ) -> tuple[Factors | None, int]:
        """Check the arguments of `gram` and `plan`; return the factors of `other` and the budget as an int."""
        checks.choice("reduce", reduce, checks.REDUCTIONS)
        if other is not None:
            self._check_other(other, same_outputs=reduce != "full")
        checks.choice("order", order, checks.ORDERS)
        return None if other is None else other._factors, checks.budget(memory_budget)

    def _check_other(self, other: FactoredJacobian, *, same_outputs: bool) -> None:
        if not isinstance(other, FactoredJacobian):
            raise TypeError(f"other: expected a FactoredJacobian, got {type(other).__name__}")
        checks.tensor("other.adjoints", other.adjoints, (self.adjoints.dim(),), like=self.adjoints)
        *pack, _, O, _, N = self.adjoints.shape
        symbol = "[R, B', O', S', N]" if pack else "[B', O', S', N]"
        outputs = O if same_outputs else None
        checks.shape("other.adjoints", other.adjoints, (*pack, None, outputs, None, N), symbol)
        if other.inputs.shape[-1] != self.inputs.shape[-1]:
            raise ValueError(
                f"other.inputs: expected {self.inputs.shape[-1]} features, "
                f"got {other.inputs.shape[-1]}"
            )

    def _check_vector(self, vector: Tensor, size: int, symbol: str) -> None:
        lead = tuple(self.adjoints.shape[:1]) if self.packed else ()
        checks.tensor("vector", vector, (len(lead) + 1,), like=self.adjoints)
        checks.shape("vector", vector, (*lead, size), f"[R, {symbol}]" if lead else f"[{symbol}]")
