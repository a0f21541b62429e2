"""The alignment of two tangent kernels, computed tile by tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.progress import Progress, Steps
from hpr_kernels.tangent import dispatch
from hpr_kernels.tangent.arguments import checked_inputs, checked_networks
from hpr_kernels.workers import torch_on_one_thread


# Longer than 60 lines: the docstring is the public reference of all arguments.
@outside_autocast
def leaky_rnn_kernel_alignment(
    x: Tensor,
    *,
    before: Mapping[str, Tensor | None],
    after: Mapping[str, Tensor | None],
    rho: float,
    outputs: checks.Outputs = "all",
    parameters: Sequence[checks.Group] | None = None,
    order: checks.Order = "auto",
    memory_budget: int = MEMORY_BUDGET,
    activation: checks.Activation = "relu",
    self_connections: bool = True,
    precision: checks.Precision = DEFAULT_PRECISION,
    batch_first: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """Tangent kernel alignment Tr(K_f K_0) / (‖K_f‖ ‖K_0‖) (Liu et al. 2024, Eq. 6), without a whole kernel in memory.

    Args:
        x: inputs [T, B, N_in]; for a pack [R or 1, T, B, N_in]. With `batch_first` [B, T, N_in] or
            [R or 1, B, T, N_in].
        before: the weights of K_0: "recurrent", "input" and "readout" as in `leaky_rnn_ntk`, and "bias" if the networks
            have one.
        after: the weights of K_f.
        rho, outputs, parameters, order, activation, self_connections, precision: as in `leaky_rnn_ntk`. On a GPU
            "auto" and "hadamard" keep the tiles of both kernels in registers; the other orders write blocks to memory.
        memory_budget: bytes that may be allocated, whatever the number of rows.
        batch_first: whether x has examples before steps, as in `torch.nn.RNN`.
        progress: called as progress(done, total) after each pair of blocks, one of each kernel.

    Returns:
        The alignment, fp64, [R] or [] for a plain network; sums accumulate in fp64. NaN where a kernel is zero.

    Raises:
        ValueError, TypeError: as `leaky_rnn_ntk`.
    """
    # A wrong argument is named before any work.
    Steps(progress, None)
    checks.choice("order", order, checks.ORDERS)
    memory_budget = checks.budget(memory_budget)
    with torch.no_grad(), torch_on_one_thread(x):
        networks = []
        for name, weights in (("before", before), ("after", after)):
            _check_weights(name, weights, before)
            networks.append(
                checked_networks(
                    "x", x, weights, rho=rho, outputs=outputs, parameters=parameters,
                    activation=activation, self_connections=self_connections, precision=precision,
                    batch_first=batch_first,
                )
            )  # fmt: skip
        packed = checked_inputs("x", x, batch_first)
        sums = dispatch.alignment_sums(
            networks[0], networks[1], packed, order, memory_budget, progress
        )
    alignment = sums[0] / (sums[1] * sums[2]).sqrt()
    return alignment if x.dim() == 4 else alignment[0]


def _check_weights(
    name: str, weights: Mapping[str, Tensor | None], like: Mapping[str, Tensor | None]
) -> None:
    """`weights` is a dict of the groups, of the shapes of `like`; "bias" may be left out of both."""
    if not isinstance(weights, Mapping):
        raise TypeError(f"{name}: expected a dict of weights, got {type(weights).__name__}")
    for group in checks.GROUPS:
        if group != "bias" and (group not in weights or group not in like):
            continue
        one, other = (getattr(of.get(group), "shape", None) for of in (like, weights))
        if one != other:
            raise ValueError(f"{name}: expected {group} as before, {one}, got {other}")
    required = tuple(group for group in checks.GROUPS if group != "bias")
    if {*weights, "bias"} != set(checks.GROUPS):
        raise ValueError(f"{name}: expected the weights {required}, got {tuple(weights)}")
