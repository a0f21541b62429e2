"""A pack of networks with the choices that define their Jacobian, and the blocks of rows that it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.gram.factors import Factors
from hpr_kernels.layout import with_constant_input
from hpr_kernels.recurrence import dispatch, leaky_rnn_trace
from hpr_kernels.tangent.block import JacobianBlock


class OutputRange(NamedTuple):
    """Some outputs (t, k) of an example: k = first … first + width - 1 at each of `steps`.

    `rows` is their place among all outputs of the example.
    """

    steps: tuple[int, ...]
    first: int
    width: int
    rows: slice


@dataclass(frozen=True, eq=False)
class NetworkPack:
    """A pack of leaky recurrent networks and the rows and columns of their Jacobian.

    `outputs` selects the steps and `groups` the parameters. If `readout` is None, the rates are the outputs.
    """

    recurrent: Tensor  # [R, N, N]
    input: Tensor  # [R, N, N_in]
    bias: Tensor | None  # [R, N]
    readout: Tensor | None  # [R, N_out, N]
    rho: float
    activation: checks.Activation
    outputs: checks.Outputs
    groups: tuple[str, ...]
    self_connections: bool
    precision: checks.Precision = DEFAULT_PRECISION

    @property
    def weights(self) -> dict[str, Tensor | None]:
        """The weights by group."""
        return {group: getattr(self, group) for group in checks.GROUPS}

    @property
    def N_out(self) -> int:
        """Outputs per step."""
        return self.recurrent.shape[-1] if self.readout is None else self.readout.shape[1]

    @property
    def factored(self) -> bool:
        """Whether the kernel needs adjoints; it does unless "readout" is the only group."""
        return set(self.groups) != {"readout"}

    def inputs_per_step(self, x: Tensor) -> int:
        """The inputs of x [R or 1, T, B, N_in] at a step, and one more, which is constant, if there is a bias."""
        return x.shape[-1] + (self.bias is not None)

    def columns(self, x: Tensor) -> int:
        """Columns of z that the groups take: F."""
        N, N_in = self.recurrent.shape[-1], x.shape[-1]
        sizes = {"recurrent": N, "input": N_in, "bias": 1, "readout": 0}
        return sum(sizes[group] for group in set(self.groups))

    @property
    def scattered(self) -> bool:
        """Whether these columns are not next to each other, so that they are copied."""
        return {"recurrent", "bias"} <= set(self.groups) and "input" not in self.groups

    def count(self, T: int) -> int:
        """Outputs per example of T steps."""
        return len(checks.steps(self.outputs, T)) * self.N_out

    def split(self, T: int, size: int) -> list[OutputRange]:
        """The outputs of T steps in ranges of at most `size`: of whole steps, or of a part of one step."""
        steps, N_out = checks.steps(self.outputs, T), self.N_out
        together, count = max(1, size // N_out), min(size, N_out)
        ranges = []
        for t in range(0, len(steps), together):
            for k in range(0, N_out, count):
                some, width = steps[t : t + together], min(count, N_out - k)
                start = t * N_out + k
                ranges.append(OutputRange(some, k, width, slice(start, start + len(some) * width)))
        return ranges

    def block(self, x: Tensor, outputs: OutputRange | None = None) -> JacobianBlock:
        """The Jacobian's rows of x [R or 1, T, b, N_in], by a forward and a backward sweep; None: of all outputs."""
        steps, first, width = checks.steps(self.outputs, x.shape[1]), 0, self.N_out
        if outputs is not None:
            steps, first, width, _ = outputs
        # Inputs after the step of the last output have no effect on these outputs.
        x = x[:, : steps[-1] + 1]
        T, N = x.shape[1], self.recurrent.shape[-1]
        rule = (self.activation, self.precision)
        joined = (x, self.input)
        if self.bias is not None:
            joined = with_constant_input(x, self.input, self.bias)
        trace, weights = leaky_rnn_trace(joined[0], self.recurrent, joined[1], self.rho, *rule)
        rates = trace[:, [t + 1 for t in steps], :, :N].transpose(1, 2)
        by_readout = "readout" in self.groups
        if not self.factored:
            return JacobianBlock(None, None, rates, by_readout, first, width, self.precision)
        if self.readout is None:
            rows = x.new_zeros(width, N)
            rows.diagonal(first).fill_(1)
            readout = rows.expand(len(self.recurrent), width, N)
        else:
            readout = self.readout[:, first : first + width]
        g = dispatch.adjoints(trace, weights, readout, self.rho, steps, *rule, 1 - self.rho)
        adjoints = g.permute(0, 3, 2, 1, 4)  # [R, b, O, T, N]
        z = self._inputs(trace[:, :T], x.shape[-1]).transpose(1, 2)  # [R, b, T, F]
        reach = tuple(t for t in steps for _ in range(width))
        diagonal = None
        if "recurrent" in self.groups and not self.self_connections:
            # ∂y/∂W_nn = Σ_s g_s[n] a_s[n].
            diagonal = torch.einsum("rbosn,rbsn->rbon", adjoints, z[..., :N])
        factors = Factors(adjoints, z, (reach,))
        return JacobianBlock(factors, diagonal, rates, by_readout, first, width, self.precision)

    def _inputs(self, trace: Tensor, N_in: int) -> Tensor:
        """The columns of z = [a x 1] that belong to the groups."""
        N = self.recurrent.shape[-1]
        bounds = {"recurrent": (0, N), "input": (N, N + N_in), "bias": (N + N_in, N + N_in + 1)}
        taken = [bounds[group] for group in bounds if group in self.groups]
        if self.scattered:
            return torch.cat([trace[..., slice(*columns)] for columns in taken], dim=-1)
        return trace[..., taken[0][0] : taken[-1][1]]

    def networks(self, size: int) -> Iterator[tuple[slice, NetworkPack]]:
        """Packs of at most `size` networks, each with its place in this pack."""
        for start in range(0, len(self.recurrent), size):
            some = slice(start, start + size)
            weights: dict[str, Any] = {
                name: None if value is None else value[some] for name, value in self.weights.items()
            }
            yield some, replace(self, **weights)

    def examples(self, x: Tensor, memory_budget: int) -> int:
        """How many examples fit in half of the budget with their adjoints and a copy, for rows and for columns of K.

        An example of R networks counts R times.
        """
        T, N = x.shape[1], self.recurrent.shape[-1]
        row = T * (self.count(T) * N + N + self.inputs_per_step(x)) * x.element_size()
        return memory_budget // 2 // (4 * row)
