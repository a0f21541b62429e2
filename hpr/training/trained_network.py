"""A trained network out of its record, as a `torch.nn.Module`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hpr.experiment.inventory import Bad, read_any, with_weights
from hpr.experiment.kept_weights import is_named
from hpr.experiment.specification import RunSpec
from hpr.fields import as_path, shown
from hpr.training.gru import gru_states
from hpr.training.weights import decoded
from hpr_kernels import leaky_rnn


class TrainedNetwork(nn.Module):
    """The network of a run: y_t = w f(h_t), with h_{t+1} = rho h_t + (1 - rho) (W_h f(h_t) + W_x x_t) (Eq. 1 and 2).

    A two-layer run is y = w f(W_1 x); its W_1 is `input`, and `recurrent` has no columns. A GRU has the matrices of
    `torch.nn.GRU`: `recurrent` is its weight_hh [3N, N], `input` its weight_ih [3N, N_in], and `bias` its bias_ih and
    bias_hh, [2, 3N]. A run without biases has `bias` None.

    Args:
        spec: the run, which names the cell, the leak and the activation.
        weights: "recurrent" [N, N], "input" [N, N_in], "readout" [N_out, N] and, if the run has biases, "bias" [N].
    """

    def __init__(self, spec: RunSpec, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.spec = spec
        self.recurrent, self.input, self.readout = (
            nn.Parameter(weights[name].clone()) for name in ("recurrent", "input", "readout")
        )
        self.bias = nn.Parameter(weights["bias"].clone()) if spec.bias else None

    def rates(self, x: Tensor) -> Tensor:
        """Rates of every step, [T, B, N], on inputs x [T, B, N_in]; of a GRU, its states. They have no noise.

        Raises:
            ValueError: one line; `x` has another shape.
        """
        N_in = self.input.shape[1]
        if x.ndim != 3 or x.shape[2] != N_in:
            raise ValueError(f"x: expected shape [T, B, {N_in}], got {list(x.shape)}")
        if self.spec.model == "two_layer":
            h = nn.functional.linear(x, self.input)
            return h.relu() if self.spec.activation == "relu" else h
        if self.spec.cell == "gru":
            bias = None if self.bias is None else self.bias[None]
            return gru_states(
                x[None], recurrent=self.recurrent[None], input=self.input[None], bias=bias
            )[0]
        return leaky_rnn(
            x,
            recurrent=self.recurrent,
            input=self.input,
            bias=self.bias,
            rho=self.spec.rho,
            activation=self.spec.activation,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of every step, [T, B, N_out], on inputs x [T, B, N_in]."""
        return nn.functional.linear(self.rates(x), self.readout)


def load_network(run: str | os.PathLike[str] | Mapping[str, Any]) -> TrainedNetwork:
    """The trained network of a run that kept its weights (`keep_weights=True`).

    Args:
        run: the file of a record (`results/runs/<key>.json`), whose weights are read from beside it, or a record of
            `hpr.sweep` or `Store.load`.

    Raises:
        TypeError: one line; it is neither a record nor a path.
        ValueError: one line; the file holds no valid record, or the record no weights of such a network.
    """
    if not isinstance(run, str | os.PathLike) and not (isinstance(run, Mapping) and "spec" in run):
        raise TypeError(
            f"run: expected a record or the path of its file runs/<key>.json, got {shown(run)}"
        )
    if isinstance(run, Mapping):
        record, spec, name = run, RunSpec.from_dict(run["spec"]), "the record"
    else:
        kept = with_weights(read_any(as_path("run", run)))
        if isinstance(kept, Bad):
            raise ValueError(f"run: expected a valid record, got {kept.path}: {kept.reason}")
        record, spec, name = kept.record, kept.spec, str(run)
    if "weights" not in record:
        reason = "diverged" if record.get("status") == "diverged" else "has keep_weights = False"
        raise ValueError(f"run: expected a run that kept its weights, got {name}, which {reason}")
    if is_named(record["weights"]):
        raise ValueError(
            f"run: expected the file {spec.key}.json, got its content, which has no weights in it"
        )
    weights = decoded(record["weights"])
    _check_sizes(spec, weights)
    with torch.no_grad():
        return TrainedNetwork(spec, weights)


def _check_sizes(spec: RunSpec, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError, one line, where weights are not those of a network of the run's N units."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    N, gru = spec.N, spec.cell == "gru"
    rows = 3 * N if gru else N
    recurrent, input, readout = (shapes.get(name, ()) for name in ("recurrent", "input", "readout"))
    good = (
        recurrent == (rows, 0 if spec.model == "two_layer" else N)
        and len(input) == len(readout) == 2
        and (input[0], readout[1]) == (rows, N)
        and (not spec.bias or shapes.get("bias") == ((2, rows) if gru else (rows,)))
    )
    if not good:
        raise ValueError(
            f"run: expected weights of {N} units, got {shown(dict(sorted(shapes.items())))}"
        )
