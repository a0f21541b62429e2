"""A pack of networks: the same shapes, each its own weights, trained together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpr.runs import RunSpec
from hpr_kernels.leaky_rnn import cpu


@dataclass
class Pack:
    """Weights of R networks. `weights` is [W_h W_x 0], [R, N, P] (see `hpr_kernels.leaky_rnn.cpu`)."""

    weights: Tensor
    readout: Tensor  # [R, N_out, N]
    N_in: int

    @property
    def recurrent(self) -> Tensor:
        """W_h [R, N, N], a view."""
        return self.weights[..., : self.weights.shape[1]]

    @property
    def input(self) -> Tensor:
        """W_x [R, N, N_in], a view."""
        N = self.weights.shape[1]
        return self.weights[..., N : N + self.N_in]

    def select(self, networks: Sequence[int]) -> Pack:
        """A pack of copies of some of the networks."""
        index = list(networks)
        return Pack(self.weights[index], self.readout[index], self.N_in)


def initial_pack(specs: Sequence[RunSpec], N_in: int, N_out: int, device: torch.device) -> Pack:
    """Draw each run's initial weights, in fp32.

    Recurrent weights come from the run's connectivity; input and readout weights are uniform within ±1/√fan_in (the
    paper's Appendix C.1, PyTorch's default for a linear layer). Runs of one seed share all that they can share.
    """
    drawn = [_draw(spec, N_in, N_out) for spec in specs]
    recurrent, input, readout = (
        torch.stack([torch.from_numpy(weights[i]) for weights in drawn]).float().to(device)
        for i in range(3)
    )
    return Pack(cpu.join(recurrent, input), readout, N_in)


def _draw(spec: RunSpec, N_in: int, N_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    streams = np.random.SeedSequence(spec.seed).spawn(3)
    recurrent, input, readout = (np.random.Generator(np.random.Philox(s)) for s in streams)
    bounds = (1 / np.sqrt(N_in), 1 / np.sqrt(spec.N))
    return (
        spec.connectivity.weights(spec.N, recurrent),
        input.uniform(-bounds[0], bounds[0], size=(spec.N, N_in)),
        readout.uniform(-bounds[1], bounds[1], size=(N_out, spec.N)),
    )
