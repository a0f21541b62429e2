"""A pack of networks with the choices that define their Jacobian, and the blocks of rows that it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.gram.factors import Factors
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
    readout: Tensor | None  # [R, N_out, N]
    rho: float
    activation: checks.Activation
    outputs: checks.Outputs
    groups: tuple[str, ...]
    self_connections: bool
    precision: checks.Precision = DEFAULT_PRECISION

    @property
    def N_out(self) -> int:
        """Outputs per step."""
        return self.recurrent.shape[-1] if self.readout is None else self.readout.shape[1]

    @property
    def factored(self) -> bool:
        """Whether the kernel needs adjoints; it does unless "readout" is the only group."""
        return set(self.groups) != {"readout"}

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
        trace, weights = leaky_rnn_trace(x, self.recurrent, self.input, self.rho, *rule)
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
        g = dispatch.adjoints(trace, weights, readout, self.rho, steps, *rule)
        adjoints = g.mul_(1 - self.rho).permute(0, 3, 2, 1, 4)  # [R, b, O, T, N]
        start = 0 if "recurrent" in self.groups else N
        stop = N + x.shape[-1] if "input" in self.groups else N
        z = trace[:, :T, :, start:stop].transpose(1, 2)  # [R, b, T, F]
        reach = tuple(t for t in steps for _ in range(width))
        diagonal = None
        if "recurrent" in self.groups and not self.self_connections:
            # ∂y/∂W_nn = Σ_s g_s[n] a_s[n].
            diagonal = torch.einsum("rbosn,rbsn->rbon", adjoints, z[..., :N])
        factors = Factors(adjoints, z, (reach,))
        return JacobianBlock(factors, diagonal, rates, by_readout, first, width, self.precision)

    def networks(self, size: int) -> Iterator[tuple[slice, NetworkPack]]:
        """Packs of at most `size` networks, each with its place in this pack."""
        for start in range(0, len(self.recurrent), size):
            some = slice(start, start + size)
            readout = None if self.readout is None else self.readout[some]
            yield (
                some,
                replace(
                    self, recurrent=self.recurrent[some], input=self.input[some], readout=readout
                ),
            )

    def examples(self, x: Tensor, memory_budget: int) -> int:
        """How many examples fit in half of the budget with their adjoints and a copy, for rows and for columns of K.

        An example of R networks counts R times.
        """
        T, N = x.shape[1], self.recurrent.shape[-1]
        row = T * (self.count(T) * N + N + x.shape[-1]) * x.element_size()
        return memory_budget // 2 // (4 * row)
