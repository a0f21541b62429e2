"""The rows of a recurrent network's Jacobian, a tile of examples at a time: what the kernel and its alignment share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.gram import FactoredJacobian
from hpr_kernels.recurrence import dispatch, leaky_rnn_trace

GROUPS = ("recurrent", "input", "readout")


class Outputs(NamedTuple):
    """Some of an example's outputs (t, k), side by side in its `rows`: k = first … first + width - 1 at each step."""

    steps: tuple[int, ...]
    first: int
    width: int
    rows: slice


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

    def split(self, T: int, size: int) -> list[Outputs]:
        """The outputs of T steps in parts of at most `size`: whole steps, or some outputs of one step each."""
        steps, N_out = checks.steps(self.outputs, T), self.N_out
        together, count = max(1, size // N_out), min(size, N_out)
        parts = []
        for t in range(0, len(steps), together):
            for k in range(0, N_out, count):
                some, width = steps[t : t + together], min(count, N_out - k)
                start = t * N_out + k
                parts.append(Outputs(some, k, width, slice(start, start + len(some) * width)))
        return parts

    def tile(self, x: Tensor, outputs: Outputs | None = None) -> Tile:
        """Run the network forward and back on some examples, x [R or 1, T, b, N_in], for all or some outputs."""
        steps, first, width = checks.steps(self.outputs, x.shape[1]), 0, self.N_out
        if outputs is not None:
            steps, first, width, _ = outputs
        # What comes after the last of these outputs has no part in them.
        x = x[:, : steps[-1] + 1]
        T, N = x.shape[1], self.recurrent.shape[-1]
        rule = (self.activation, self.precision)
        trace, weights = leaky_rnn_trace(x, self.recurrent, self.input, self.rho, *rule)
        rates = trace[:, [t + 1 for t in steps], :, :N].transpose(1, 2)
        start = 0 if "recurrent" in self.groups else N
        stop = N + x.shape[-1] if "input" in self.groups else N
        if start == stop:
            return Tile(None, None, rates, first, width, self.precision)
        if self.readout is None:
            rows = x.new_zeros(width, N)
            rows.diagonal(first).fill_(1)
            readout = rows.expand(len(self.recurrent), width, N)
        else:
            readout = self.readout[:, first : first + width]
        g = dispatch.adjoints(trace, weights, readout, self.rho, steps, *rule)
        adjoints = g.mul_(1 - self.rho).permute(0, 3, 2, 1, 4)  # [R, b, O, T, N]
        z = trace[:, :T, :, start:stop].transpose(1, 2)  # [R, b, T, F]
        reach = tuple(t for t in steps for _ in range(width))
        diagonal = None
        if "recurrent" in self.groups and not self.self_connections:
            # ∂y/∂W_nn = Σ_s g_s[n] a_s[n].
            diagonal = torch.einsum("rbosn,rbsn->rbon", adjoints, z[..., :N])
        step = FactoredJacobian(adjoints, z, reach)
        return Tile(step, diagonal, rates, first, width, self.precision)

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
        return memory_budget // 2 // (4 * row)


@dataclass(frozen=True)
class Tile:
    """Some examples' Jacobian: by W_h and W_x in factors, by the diagonal of W_h to be taken off, by w as rates."""

    step: FactoredJacobian | None
    diagonal: Tensor | None  # [R, b, O, N]
    rates: Tensor  # [R, b, t, N]
    first: int
    width: int  # outputs k = first … first + width - 1 of each step t
    precision: str

    def kernel(
        self, other: Tile | None, readout: bool, reduce: str, order: str, memory_budget: int
    ) -> Tensor:
        """K between this tile's rows and another's, or its own: in the form of `FactoredJacobian.gram`.

        The tiles' outputs k are the same, or have none in common.
        """
        right = other or self
        K = None
        if self.step is not None:
            step = None if other is None else other.step
            K = self.step.gram(
                step,
                reduce=reduce,
                order=order,
                memory_budget=memory_budget,
                precision=self.precision,
            )
        a, b = self.rates, right.rates
        if K is None:
            (R, B, t, _), (_, C, u, _) = a.shape, b.shape
            O, P = t * self.width, u * right.width
            shapes = {"full": (B * O, C * P), "trace": (B, C), "diagonal": (B, C, O)}
            K = a.new_zeros(R, *shapes[reduce])
        if self.diagonal is not None and right.diagonal is not None:
            add_products(K, -self.diagonal, right.diagonal, 1, reduce, right is self)
        if readout and self.first == right.first:
            # ∂y_{t,k}/∂w_k' is a_{t+1} where k = k', else nothing.
            add_products(K, a, b, self.width, reduce, right is self)
        return K


# Rows of a product that is added to K at a time.
ROWS = 256


def add_products(
    K: Tensor, left: Tensor, right: Tensor, copies: int, reduce: str, symmetric: bool
) -> None:
    """Add ⟨u_o^b, v_o'^b'⟩ to K, of rows u and v [R, B, O, N]; each is `copies` outputs, met by their equals."""
    if reduce == "full":
        rows, columns = left.flatten(1, 2), right.flatten(1, 2)
        pairs = K.unflatten(2, (-1, copies)).unflatten(1, (-1, copies))
        add_product(pairs.diagonal(dim1=2, dim2=4), rows, columns, symmetric)
    elif reduce == "trace":
        add_product(K[..., None], copies * left.flatten(2), right.flatten(2), symmetric)
    else:
        outputs = K.unflatten(3, (-1, copies))
        for o in range(left.shape[2]):
            add_product(outputs[:, :, :, o], left[:, :, o], right[:, :, o], symmetric)


def add_product(target: Tensor, left: Tensor, right: Tensor, symmetric: bool) -> None:
    """Add left rightᵀ [R, M1, M2] to every layer of `target` [R, M1, M2, …], a few rows at a time.

    If `symmetric`, what lies left of the diagonal is copied from the other side: a kernel is exactly symmetric.
    """
    for start in range(0, left.shape[1], ROWS):
        stop = min(start + ROWS, left.shape[1])
        first = start if symmetric else 0
        product = torch.bmm(left[:, start:stop], right[:, first:].mT)
        if symmetric:
            square, beyond = product.split([stop - start, product.shape[2] - stop + start], dim=2)
            square.copy_((square + square.mT) / 2)
            target[:, stop:, start:stop] += beyond.mT[..., None]
        target[:, start:stop, first:] += product[..., None]
