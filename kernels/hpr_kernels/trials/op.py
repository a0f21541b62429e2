"""Public function of the placing of trials."""

from __future__ import annotations

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.trials import dispatch


@outside_autocast
def place_trials(
    x: Tensor, targets: Tensor, seed: Tensor, trace: Tensor, placed: Tensor, N: int
) -> None:
    """Give every network the trials of its seed, so that each seed's trials are uploaded once for all its networks.

    Args:
        x: inputs of S seeds [S, T, B, N_in].
        targets: classes of the trials, int64 [S, T, B], or desired outputs [S, T, B, N_out] of the dtype of `x`.
        seed: which of the S seeds each network takes, int64 [R] on the same device. Its values are not checked.
        trace: [R, T + 1, B, P], see `hpr_kernels.layout`; columns N … N + N_in of its first T steps are overwritten.
        placed: [R, T, B] or [R, T, B, N_out], overwritten with the targets, whose dtype it has.
        N: hidden units.

    Raises:
        ValueError, TypeError: the message names the argument that does not fit.
    """
    checks.tensor("x", x, (4,))
    checks.tensor("trace", trace, (4,), like=x)
    S, T, B, N_in = x.shape
    R, _, _, P = trace.shape
    checks.shape("trace", trace, (None, T + 1, B, None), "[R, T + 1, B, P]")
    checks.integers("seed", seed, torch.int64, like=x)
    checks.shape("seed", seed, (R,), "[R]")
    both = {"targets": targets, "placed": placed}
    if isinstance(targets, Tensor) and targets.is_floating_point():
        for name, value in both.items():
            checks.tensor(name, value, (4,), like=x)
        checks.shape("targets", targets, (S, T, B, None), "[S, T, B, N_out]")
        checks.shape("placed", placed, (R, T, B, targets.shape[3]), "[R, T, B, N_out]")
    else:
        for name, value in both.items():
            checks.integers(name, value, torch.int64, like=x)
        checks.shape("targets", targets, (S, T, B), "[S, T, B]")
        checks.shape("placed", placed, (R, T, B), "[R, T, B]")
    most = P - N_in
    N = checks.count("N", N, 0, most, f"0 … {most} units before {N_in} inputs")
    dispatch.place_trials(x, targets, seed, trace, placed, N)
