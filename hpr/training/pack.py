"""A pack: networks of equal shapes that are trained together, their rates and their tangent kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr_kernels import leaky_rnn, leaky_rnn_ntk, two_layer_ntk

Weights = dict[str, Tensor]  # "recurrent", "input", "readout" of one network


@dataclass
class Pack:
    """Weights of R networks.

    `weights` is [W_h W_x 0], [R, N, P] (see `hpr_kernels.layout`); for two-layer networks it is W_1 alone,
    [R, N, N_in]. `signs` holds the sign of each presynaptic unit, which training must keep (Dale's law), or zero where
    the weights are free.
    """

    weights: Tensor
    readout: Tensor  # [R, N_out, N]
    N_in: int
    signs: Tensor  # [R, N]

    @property
    def recurrent(self) -> Tensor:
        """W_h [R, N, N], a view; [R, N, 0] for two-layer networks."""
        return self.weights[..., : self._inputs]

    @property
    def input(self) -> Tensor:
        """W_x, or W_1 for two-layer networks, [R, N, N_in], a view."""
        return self.weights[..., self._inputs : self._inputs + self.N_in]

    @property
    def hidden(self) -> Tensor:
        """The weights whose structure and change are studied: W_h, or W_1 for two-layer networks; a view."""
        return self.recurrent if self._inputs else self.input

    @property
    def _inputs(self) -> int:
        """The column of `weights` at which the input weights begin."""
        N, P = self.weights.shape[1:]
        return N if self.N_in < P else 0

    def select(self, networks: Sequence[int]) -> Pack:
        """A pack of copies of some of the networks."""
        index = list(networks)
        return Pack(self.weights[index], self.readout[index], self.N_in, self.signs[index])


def lanes(networks: Sequence[int]) -> list[int]:
    """The networks to train, one of them twice where it is alone: MKL rounds a batched product of one otherwise."""
    return list(networks) if len(networks) > 1 else list(networks) * 2


def rates(pack: Pack, x: Tensor, spec: RunSpec) -> Tensor:
    """Rates of all steps, [R, T, B, N], on inputs x [R or 1, T, B, N_in]."""
    if spec.model == "leaky_rnn":
        return leaky_rnn(
            x,
            recurrent=pack.recurrent,
            input=pack.input,
            rho=spec.rho,
            activation=spec.activation,
        )
    h = x @ pack.input.mT[:, None]
    return h.relu() if spec.activation == "relu" else h


def tangent_kernel(pack: Pack, x: Tensor, spec: RunSpec, outputs: Literal["all", "last"]) -> Tensor:
    """The NTK of a pack of one network, [M, M], on inputs x [T, B, N_in]; rows (b, t, k).

    Where Dale's law is kept throughout training, the kernel is taken with respect to the raw weights (see `Step`).
    Their diagonal is not among the parameters.
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
    return leaky_rnn_ntk(
        x[None],
        recurrent=pack.recurrent,
        input=pack.input,
        readout=pack.readout,
        rho=spec.rho,
        outputs=outputs,
        parameters=spec.ntk_parameters,
        activation=spec.activation,
        self_connections=not bool(pack.signs.any()),
    )[0]
