"""A pack: networks of equal shapes that are trained together, their rates and their tangent kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.training.cells import cell_rates
from hpr.training.gru import gru_kernel
from hpr_kernels import leaky_rnn_ntk, two_layer_ntk
from hpr_kernels.internal import layout, leaky_rnn_trace

Weights = dict[str, Tensor]  # "recurrent", "input", "readout" of one network


@dataclass
class Pack:
    """Weights of R networks.

    `weights` is [W_h W_x 0], [R, N, P] (see `hpr_kernels.layout`); for two-layer networks it is W_1 alone,
    [R, N, N_in]; for GRUs it has the rows of the reset gate, the update gate and the candidate state, [R, 3N, P], as in
    `torch.nn.GRU`. `signs` holds the sign of each presynaptic unit, which training must keep (Dale's law), or zero
    where the weights are free. `bias` is None where the units have none; a GRU's are those of input and state.
    """

    weights: Tensor
    readout: Tensor  # [R, N_out, N]
    N_in: int
    signs: Tensor  # [R, N]
    bias: Tensor | None = None  # [R, N], or [R, 2, 3N] of GRUs

    @property
    def tensors(self) -> Weights:
        """What training changes, as it is stored."""
        found = {"weights": self.weights, "readout": self.readout}
        return found if self.bias is None else {**found, "bias": self.bias}

    @property
    def named(self) -> Weights:
        """The weights by the names that a record keeps them under, views."""
        found = {"recurrent": self.recurrent, "input": self.input, "readout": self.readout}
        return found if self.bias is None else {**found, "bias": self.bias}

    @property
    def recurrent(self) -> Tensor:
        """W_h [R, N, N], a view; [R, N, 0] for two-layer networks, and [R, 3N, N] for GRUs."""
        return self.weights[..., : self._inputs]

    @property
    def input(self) -> Tensor:
        """W_x, or W_1 for two-layer networks, [R, N, N_in], a view; [R, 3N, N_in] for GRUs."""
        return self.weights[..., self._inputs : self._inputs + self.N_in]

    @property
    def hidden(self) -> Tensor:
        """The weights whose structure and change are studied: W_h, or W_1 for two-layer networks; a view."""
        return self.recurrent if self._inputs else self.input

    @property
    def drawn(self) -> Tensor:
        """The weights that the connectivity draws, a view: `hidden`, of a GRU those of the candidate state."""
        return self.hidden[:, -self.readout.shape[2] :]

    @property
    def _inputs(self) -> int:
        """The column of `weights` at which the input weights begin."""
        N, P = self.readout.shape[2], self.weights.shape[2]
        return N if self.N_in < P else 0

    def select(self, networks: Sequence[int]) -> Pack:
        """A pack of copies of some of the networks."""
        return self._part(list(networks))

    def view(self, networks: slice) -> Pack:
        """A pack of some of the networks, of views."""
        return self._part(networks)

    def _part(self, index: list[int] | slice) -> Pack:
        bias = None if self.bias is None else self.bias[index]
        return Pack(self.weights[index], self.readout[index], self.N_in, self.signs[index], bias)

    def of(self, tensors: Mapping[str, Tensor]) -> Pack:
        """The same networks with other `tensors`."""
        return Pack(
            tensors["weights"], tensors["readout"], self.N_in, self.signs, tensors.get("bias")
        )


def together(packs: Sequence[Pack]) -> Pack:
    """The networks of several packs in one."""
    tensors = [pack.tensors for pack in packs]
    joined = {name: torch.cat([each[name] for each in tensors]) for name in tensors[0]}
    signs = torch.cat([pack.signs for pack in packs])
    return Pack(joined["weights"], joined["readout"], packs[0].N_in, signs, joined.get("bias"))


def lanes(networks: Sequence[int]) -> list[int]:
    """The networks to train, one of them twice where it is alone: MKL rounds a batched product of one otherwise."""
    return list(networks) if len(networks) > 1 else list(networks) * 2


def rates(pack: Pack, x: Tensor, spec: RunSpec) -> Tensor:
    """Rates of all steps, [R, T, B, N], on inputs x [R or 1, T, B, N_in], without a graph where units are leaky."""
    if spec.model == "leaky_rnn" and spec.cell == "leaky":
        # The first call of the public operator imports torch's compiler and SymPy, for seconds.
        input = pack.input
        if pack.bias is not None:
            x, input = layout.with_constant_input(x, input, pack.bias)
        trace, _ = leaky_rnn_trace(x, pack.recurrent, input, spec.rho, spec.activation)
        return trace[:, 1:, :, : pack.recurrent.shape[2]]
    return cell_rates(x, recurrent=pack.recurrent, input=pack.input, bias=pack.bias, spec=spec)


def tangent_kernel(pack: Pack, x: Tensor, spec: RunSpec, outputs: Literal["all", "last"]) -> Tensor:
    """The NTK of a pack of one network, [M, M], on inputs x [T, B, N_in]; rows (b, t, k).

    A bias counts as an input's weight (see `RunSpec`). Where Dale's law is kept throughout training, the kernel is
    taken with respect to the raw weights (see `Step`). Their diagonal is not among the parameters.
    """
    if spec.model == "two_layer":
        groups: dict[str, Literal["hidden", "readout"]] = {
            "recurrent": "hidden",
            "readout": "readout",
        }
        return two_layer_ntk(
            x,
            hidden=pack.input,
            readout=pack.readout,
            parameters=[groups[name] for name in spec.ntk_parameters if name in groups],
            activation=spec.activation,
        )[0]
    if spec.cell == "gru":
        of_one = {name: value[0] for name, value in pack.named.items()}
        return gru_kernel(of_one, x, spec.ntk_parameters, outputs)
    biased = pack.bias is not None and "input" in spec.ntk_parameters
    return leaky_rnn_ntk(
        x[None],
        recurrent=pack.recurrent,
        input=pack.input,
        bias=pack.bias,
        readout=pack.readout,
        rho=spec.rho,
        outputs=outputs,
        parameters=(*spec.ntk_parameters, "bias") if biased else spec.ntk_parameters,
        activation=spec.activation,
        self_connections=not bool(pack.signs.any()),
    )[0]
