"""`FactoredJacobian`: a Jacobian kept as a sum of outer products, and what can be had of it without writing it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision, uses_triton
from hpr_kernels.gram import eager, reference
from hpr_kernels.gram.plan import MEMORY_BUDGET, Plan, Shape, make_plan
from hpr_kernels.gram.workers import threads

REDUCTIONS = ("full", "trace", "diagonal")


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
            for o, last in enumerate(self.reach):
                if bool(self.adjoints[..., o, last + 1 :, :].any()):
                    raise ValueError(
                        f"reach: expected zero adjoints of output {o} after step {last}, got others"
                    )

    @property
    def packed(self) -> bool:
        """Whether there is a leading pack axis."""
        return self.adjoints.dim() == 5

    @outside_autocast
    def dense(self) -> Tensor:
        """The Jacobian itself, [R, B O, N F] or [B O, N F]: for small cases and for tests."""
        if self.packed:
            return reference.jacobian(self.adjoints, self.inputs)
        return reference.jacobian(self.adjoints[None], self.inputs[None])[0]

    @outside_autocast
    def gram(
        self,
        other: FactoredJacobian | None = None,
        *,
        reduce: str = "full",
        order: str = "auto",
        memory_budget: int = MEMORY_BUDGET,
        precision: str = DEFAULT_PRECISION,
    ) -> Tensor:
        """J J'ᵀ, exact: K_ij = Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ ⟨z_s^b, z_s'^b'⟩.

        Args:
            other: the second Jacobian, of the same N, F, dtype and device (its R, too); None for this one, which
                costs half and gives an exactly symmetric result.
            reduce: "full" for all pairs of rows; "diagonal" for pairs of one output o of two examples;
                "trace" for the sum (not the mean) of those over o.
            order: "hadamard", "propagate" or "dense" fixes what is formed on the way (see kernels/README.md); "auto"
                takes the cheapest by `plan`. All are exact.
            memory_budget: bytes that may be allocated beside the result.
            precision: how products of fp32 numbers round in the Triton kernels: "ieee", "tf32x3" (nearly as exact, on
                tensor cores) or "tf32". Torch, which serves the CPU, other dtypes and "propagate", ignores it.

        Returns:
            "full": [R, B O, B' O'], rows example-major; "diagonal": [R, B, B', O]; "trace": [R, B, B']. No R for a
            plain network.
        """
        checks.choice("reduce", reduce, REDUCTIONS)
        if other is not None:
            self._check_other(other, same_outputs=reduce != "full")
        checks.choice("order", order, ("auto", *eager.ORDERS))
        check_precision(precision)
        memory_budget = checks.budget(memory_budget)
        if order != "propagate" and uses_triton(self.adjoints):
            kernels = self._gram_by_triton(other, reduce, order, memory_budget, precision)
        else:
            kernels = self._gram_by_torch(other, reduce, order, memory_budget)
        if reduce == "diagonal":
            kernels = kernels.unflatten(0, (-1, self.adjoints.shape[-3])).movedim(1, -1)
        return kernels if self.packed else kernels[0]

    @outside_autocast
    def plan(
        self,
        other: FactoredJacobian | None = None,
        *,
        reduce: str = "full",
        order: str = "auto",
        memory_budget: int = MEMORY_BUDGET,
    ) -> Plan:
        """What `gram` would do by torch: each order's multiply-adds, bytes and workspace, the choice and why."""
        checks.choice("order", order, ("auto", *eager.ORDERS))
        checks.choice("reduce", reduce, REDUCTIONS)
        if other is not None:
            self._check_other(other, same_outputs=reduce != "full")
        memory_budget = checks.budget(memory_budget)
        return self._plan(
            other, reduce, order, memory_budget, self._parts(other, reduce, memory_budget)[0]
        )

    def _plan(
        self,
        other: FactoredJacobian | None,
        reduce: str,
        order: str,
        memory_budget: int,
        outputs: slice,
    ) -> Plan:
        """The plan of some outputs of each example."""
        right = other or self
        (B1, _, S1, N), (B2, _, S2, _) = self.adjoints.shape[-4:], right.adjoints.shape[-4:]
        reach1, reach2 = self._reach()[outputs], right._reach()[outputs]
        if reduce == "trace":
            N *= len(reach1)
            memory_budget -= self._joined(other, len(reach1))
        if reduce != "full":
            # One row an example, of all outputs' adjoints end to end or of one output's.
            reach1, reach2 = reach1[-1:], reach2[-1:]
        shape = Shape(
            B1, B2, reach1, reach2, S1, S2, N, self.inputs.shape[-1],
            self.adjoints.element_size(), other is None, threads(self.adjoints.device),
        )  # fmt: skip
        return make_plan(shape, order, memory_budget)

    def _reach(self) -> tuple[int, ...]:
        O, S = self.adjoints.shape[-3:-1]
        return self.reach or (S - 1,) * O

    def _joined(self, other: FactoredJacobian | None, outputs: int) -> int:
        """Bytes of some outputs' adjoints end to end, of one network: a copy, unless there is one output."""
        sides = [self] if other is None else [self, other]
        numbers = sum(
            J.adjoints[..., :1, :, :].numel() // (len(J.adjoints) if J.packed else 1) for J in sides
        )
        return 0 if outputs == 1 else outputs * numbers * self.adjoints.element_size()

    def _parts(
        self, other: FactoredJacobian | None, reduce: str, memory_budget: int
    ) -> list[slice]:
        """All outputs at once; of a trace as many as may lie end to end in half of the budget."""
        O = max(self.adjoints.shape[-3], 1 if other is None else other.adjoints.shape[-3])
        size = O
        if reduce == "trace":
            while size > 1 and self._joined(other, size) > memory_budget // 2:
                size = -(-size // 2)
        return [slice(start, start + size) for start in range(0, O, size)]

    @outside_autocast
    def matvec(self, vector: Tensor) -> Tensor:
        """J v: a vector [R, N F] of the parameters gives one [R, B O] of the rows (no R for a plain network)."""
        self._check_vector(vector, self.adjoints.shape[-1] * self.inputs.shape[-1], "N F")
        N = self.adjoints.shape[-1]
        change = self.inputs @ vector.unflatten(-1, (N, -1)).mT[..., None, :, :]  # [R, B, S, N]
        return torch.einsum("...bosn,...bsn->...bo", self.adjoints, change).flatten(-2)

    @outside_autocast
    def rmatvec(self, vector: Tensor) -> Tensor:
        """Jᵀ u: a vector [R, B O] of the rows gives one [R, N F] of the parameters (no R for a plain network)."""
        B, O = self.adjoints.shape[-4:-2]
        self._check_vector(vector, B * O, "B O")
        pulled = torch.einsum("...bosn,...bo->...bsn", self.adjoints, vector.unflatten(-1, (B, O)))
        return (pulled.flatten(-3, -2).mT @ self.inputs.flatten(-3, -2)).flatten(-2)

    @outside_autocast
    def gram_matvec(self, vector: Tensor) -> Tensor:
        """K u = J Jᵀ u without K: as many multiply-adds as J has factors, 2 B S N (O + F)."""
        return self.matvec(self.rmatvec(vector))

    @outside_autocast
    def trace(self) -> Tensor:
        """Tr K, a sum over examples of Σ_{s,s'} ⟨z_s, z_s'⟩ Σ_o ⟨g_s, g_s'⟩: [R], or [] for a plain network."""
        Ft = self.inputs @ self.inputs.mT  # [R, B, S, S]
        g = self.adjoints.transpose(-3, -2).flatten(-2)  # [R, B, S, O N]
        return (Ft * (g @ g.mT)).sum((-3, -2, -1))

    @outside_autocast
    def leading_eigenvalues(self, count: int = 1) -> Tensor:
        """The largest eigenvalues of K, descending, [R, count], by SciPy's Lanczos on `gram_matvec`: K is never formed.

        Raises:
            ImportError: SciPy is missing (it is not among this package's dependencies).
            ValueError: `count` is not in 1 … B O - 1.
        """
        from scipy.sparse.linalg import LinearOperator, eigsh

        M = self.adjoints.shape[-4] * self.adjoints.shape[-3]
        count = checks.count("count", count, 1, M - 1, f"1 … B O - 1 = {M - 1}")
        like = self.adjoints
        found = []
        for factor in self._factors("full"):
            one = FactoredJacobian(factor.g, factor.z)

            def product(u: object, one: FactoredJacobian = one) -> object:
                vector = torch.as_tensor(u, dtype=like.dtype, device=like.device).flatten()
                return one.gram_matvec(vector).double().cpu().numpy()

            operator = LinearOperator((M, M), matvec=product, dtype="float64")
            # A fixed start makes the result a function of the Jacobian alone.
            start = torch.ones(M, dtype=torch.float64, device="cpu").numpy()
            values = eigsh(operator, k=count, which="LA", v0=start, return_eigenvectors=False)
            found.append(torch.as_tensor(values[::-1].copy(), dtype=like.dtype, device=like.device))
        return torch.stack(found) if self.packed else found[0]

    def _gram_by_triton(
        self,
        other: FactoredJacobian | None,
        reduce: str,
        order: str,
        memory_budget: int,
        precision: str,
    ) -> Tensor:
        from hpr_kernels.gram import triton

        left = triton.Factors(*self.as_pack())
        right = None if other is None else triton.Factors(*other.as_pack())
        return triton.gram(
            left,
            right,
            reduce=reduce,
            order=order,
            precision=precision,
            memory_budget=memory_budget,
        )

    def as_pack(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Adjoints, inputs and reach, with a pack axis if there is none."""
        g, z = (
            (self.adjoints, self.inputs)
            if self.packed
            else (self.adjoints[None], self.inputs[None])
        )
        return g, z, self._reach()

    def _gram_by_torch(
        self, other: FactoredJacobian | None, reduce: str, order: str, memory_budget: int
    ) -> Tensor:
        right = other or self
        (B, O), (C, P) = self.adjoints.shape[-4:-2], right.adjoints.shape[-4:-2]
        count = len(self.adjoints) if self.packed else 1
        if reduce == "diagonal":
            count *= O
        if reduce != "full":
            O = P = 1
        # The cores' threads are not in this one's inference mode, and may not write what is made in it.
        with torch.inference_mode(False), torch.no_grad():
            kernels = self.inputs.new_empty(count, B, O, C, P)
            for outputs in self._parts(other, reduce, memory_budget):
                plan = self._plan(other, reduce, order, memory_budget, outputs)
                lefts = self._factors(reduce, outputs)
                rights = repeat(None, count) if other is None else other._factors(reduce, outputs)
                for K, one, another in zip(kernels, lefts, rights, strict=True):
                    eager.gram(K, one, another, plan, add=outputs.start > 0)
        return kernels.view(-1, B * O, C * P)

    def _factors(self, reduce: str, outputs: slice = slice(None)) -> Iterator[eager.Factor]:
        """One Factor a network, of some of its outputs; for "diagonal", one a network and output."""
        reach = self._reach()[outputs]
        gs = self.adjoints.unbind() if self.packed else [self.adjoints]
        zs = self.inputs.unbind() if self.packed else [self.inputs]
        for g, z in zip(gs, zs, strict=True):
            g = g[:, outputs]
            if reduce == "full":
                yield eager.Factor(g, z, reach)
            elif reduce == "trace":
                # Σ_o ⟨g^o, g'^o⟩ is the inner product of the outputs' adjoints end to end.
                joined = g.transpose(1, 2).flatten(2)[:, None]
                yield eager.Factor(joined, z, reach[-1:])
            else:
                yield from (
                    eager.Factor(g[:, o : o + 1], z, (last,)) for o, last in enumerate(reach)
                )

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
