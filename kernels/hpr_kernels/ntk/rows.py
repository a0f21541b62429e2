"""The rows of a recurrent network's Jacobian, a tile of examples at a time: what the kernel and its alignment share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.gram import FactoredJacobian
from hpr_kernels.leaky_rnn import dispatch, leaky_rnn_trace

GROUPS = ("recurrent", "input", "readout")


@dataclass(frozen=True)
class Network:
    """A pack of networks and what of their Jacobian is asked for; `readout` None: the rates are the outputs."""

    recurrent: Tensor  # [R, N, N]
    input: Tensor  # [R, N, N_in]
    readout: Tensor | None  # [R, N_out, N]
    rho: float
    activation: str
    outputs: checks.Outputs
    groups: tuple[str, ...]
    self_connections: bool
    precision: str = DEFAULT_PRECISION

    @property
    def N_out(self) -> int:
        """Outputs a step."""
        return self.recurrent.shape[-1] if self.readout is None else self.readout.shape[1]

    def tile(self, x: Tensor) -> Tile:
        """Run the network forward and back on some examples, x [R or 1, T, b, N_in]."""
        T, N = x.shape[1], self.recurrent.shape[-1]
        steps = checks.steps(self.outputs, T)
        rule = (self.activation, self.precision)
        trace, weights = leaky_rnn_trace(x, self.recurrent, self.input, self.rho, *rule)
        rates = trace[:, [t + 1 for t in steps], :, :N].transpose(1, 2)
        start = 0 if "recurrent" in self.groups else N
        stop = N + x.shape[-1] if "input" in self.groups else N
        if start == stop:
            return Tile(None, None, rates, self.N_out, self.precision)
        readout = self.readout
        if readout is None:
            identity = torch.eye(N, dtype=x.dtype, device=x.device)
            readout = identity.expand(len(self.recurrent), N, N)
        g = dispatch.adjoints(trace, weights, readout, self.rho, steps, *rule)
        adjoints = g.mul_(1 - self.rho).permute(0, 3, 2, 1, 4)  # [R, b, O, T, N]
        z = trace[:, :T, :, start:stop].transpose(1, 2)  # [R, b, T, F]
        reach = tuple(t for t in steps for _ in range(self.N_out))
        diagonal = None
        if "recurrent" in self.groups and not self.self_connections:
            # ∂y/∂W_nn = Σ_s g_s[n] a_s[n], as a layer of one step with the input 1.
            d = torch.einsum("rbosn,rbsn->rbon", adjoints, z[..., :N])[:, :, :, None]
            diagonal = FactoredJacobian(d, z.new_ones(*d.shape[:2], 1, 1))
        step = FactoredJacobian(adjoints, z, reach)
        return Tile(step, diagonal, rates, self.N_out, self.precision)

    def parts(self, size: int) -> Iterator[tuple[slice, Network]]:
        """A few networks of the pack at a time, and which they are."""
        for start in range(0, len(self.recurrent), size):
            group = slice(start, start + size)
            readout = None if self.readout is None else self.readout[group]
            yield (
                group,
                replace(
                    self, recurrent=self.recurrent[group], input=self.input[group], readout=readout
                ),
            )

    def examples(self, x: Tensor, memory_budget: int) -> int:
        """How many examples, of all networks together, may have their adjoints and a copy, on both sides.

        They share half of the budget.
        """
        T, N = x.shape[1], self.recurrent.shape[-1]
        outputs = len(checks.steps(self.outputs, T)) * self.N_out
        row = T * (outputs * N + N + x.shape[-1]) * x.element_size()
        return max(1, memory_budget // 2 // (4 * row))


@dataclass(frozen=True)
class Tile:
    """Some examples' Jacobian: by W_h and W_x in factors, by the diagonal of W_h to be taken off, by w as rates."""

    step: FactoredJacobian | None
    diagonal: FactoredJacobian | None
    rates: Tensor  # [R, b, t, N]
    N_out: int
    precision: str

    def kernel(
        self, other: Tile | None, readout: bool, reduce: str, order: str, memory_budget: int
    ) -> Tensor:
        """K between this tile's rows and another's, or its own: in the form of `FactoredJacobian.gram`."""
        right = other or self
        K = None
        if self.step is not None:
            step = None if other is None else other.step
            K = self.step.gram(
                step,
                reduce=reduce,
                order=order,
                memory_budget=memory_budget // 2,
                precision=self.precision,
            )
        if self.diagonal is not None and K is not None:
            diagonal = None if other is None else other.diagonal
            K -= self.diagonal.gram(diagonal, reduce=reduce, precision=self.precision)
        if readout:
            K = self._readout_kernel(right, reduce, K)
        assert K is not None
        return K

    def _readout_kernel(self, right: Tile, reduce: str, K: Tensor | None) -> Tensor:
        """Add the group `readout`: ∂y_{t,k}/∂w_k' is a_{t+1} where k = k', else nothing."""
        a, b = self.rates, right.rates
        if reduce == "full":
            product = torch.bmm(a.flatten(1, 2), b.flatten(1, 2).mT)  # [R, B t, B' t']
            if right is self:
                # Rounding leaves it a little unsymmetric; a kernel is exactly symmetric.
                product = (product + product.mT) / 2
            if K is None:
                K = product.new_zeros(
                    len(a), product.shape[1] * self.N_out, product.shape[2] * self.N_out
                )
            shape = (len(a), product.shape[1], self.N_out, product.shape[2], self.N_out)
            K.view(shape).diagonal(dim1=2, dim2=4).add_(product[..., None])
            return K
        each = torch.einsum("rbtn,rctn->rbct", a, b)
        if right is self:
            each = (each + each.transpose(1, 2)) / 2
        addition = (
            each.sum(-1) * self.N_out
            if reduce == "trace"
            else each.repeat_interleave(self.N_out, dim=-1)
        )
        return addition if K is None else K.add_(addition)


def tiles(network: Network, x: Tensor, size: int) -> Iterator[tuple[int, Tile]]:
    """Each tile of `size` examples with the number of its first one."""
    for start in range(0, x.shape[2], size):
        yield start, network.tile(x[:, :, start : start + size])
