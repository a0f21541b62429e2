"""The rates of every kind of network: leaky units, GRUs and two layers; and the noise in their states."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks.counter import random_words, standard_normal
from hpr.training.gru import gru_states
from hpr_kernels import leaky_rnn


def cell_rates(
    x: Tensor,
    *,
    recurrent: Tensor,
    input: Tensor,
    bias: Tensor | None,
    spec: RunSpec,
    noise: Tensor | None = None,
) -> Tensor:
    """Rates of all steps, [R, T, B, N], differentiable in the weights; of a GRU, its states.

    Args:
        x: inputs [R or 1, T, B, N_in].
        recurrent: as in `Pack.named`, as are `input` and `bias`.
        spec: a run of the networks.
        noise: what is added to the state at each step, [R, T, B, N] (`state_noise`); None for nothing.
    """
    if spec.model == "two_layer":
        h = x @ input.mT[:, None]
        return h.relu() if spec.activation == "relu" else h
    if spec.cell == "gru":
        return gru_states(x, recurrent=recurrent, input=input, bias=bias, noise=noise)
    rho = spec.rho
    if noise is not None:
        # A unit's noise is one more input, of weight 1, which the recurrence multiplies by 1 - rho.
        x = torch.cat([x, noise / (1 - rho)], -1)
        one = torch.eye(spec.N, dtype=x.dtype, device=x.device).expand(len(input), -1, -1)
        input = torch.cat([input, one], -1)
    return leaky_rnn(
        x, recurrent=recurrent, input=input, bias=bias, rho=rho, activation=spec.activation
    )


def state_noise(specs: Sequence[RunSpec], T: int, step: int, device: torch.device) -> Tensor:
    """√(2 dt/tau) noise ξ of the SGD iteration `step` of each run, [R, T, B, N], with standard normal ξ.

    It is a function of a run's seed and the iteration alone, so that runs of one seed have the same noise.
    """
    spec = specs[0]
    shape = (T, spec.batch, spec.N)
    count = math.prod(shape)
    drawn = {
        seed: standard_normal(random_words(-(-count // 2), step, "state noise", seed))[:count]
        for seed in {spec.seed for spec in specs}
    }
    scale = np.float32(spec.noise * math.sqrt(2 * spec.dt / spec.tau))
    noise = np.stack([drawn[spec.seed].reshape(shape) for spec in specs]) * scale
    return torch.from_numpy(noise).to(device)
