"""Exact neural tangent kernels of leaky recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.progress import Progress, Steps
from hpr_kernels.tangent import eager
from hpr_kernels.tangent.arguments import check_second, checked_inputs, checked_networks
from hpr_kernels.workers import torch_on_one_thread


# Longer than 60 lines: the docstring is the public reference of all arguments.
@outside_autocast
def leaky_rnn_ntk(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    recurrent: Tensor,
    input: Tensor,
    bias: Tensor | None = None,
    readout: Tensor | None,
    rho: float,
    outputs: checks.Outputs = "all",
    parameters: Sequence[checks.Group] | None = None,
    reduce: checks.Reduction = "full",
    order: checks.Order = "auto",
    memory_budget: int = MEMORY_BUDGET,
    activation: checks.Activation = "relu",
    self_connections: bool = True,
    precision: checks.Precision = DEFAULT_PRECISION,
    batch_first: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """Exact NTK K = ∇_W y ∇_W yᵀ of a leaky recurrent network (Liu et al. 2024, Eq. 1, 2 and 6), without the Jacobian.

    K_ij = (1 - rho)² Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ (⟨a_s^b, a_s'^b'⟩ + ⟨x_s^b, x_s'^b'⟩ + 1)
           + [k = k'] ⟨a_{t+1}^b, a_{t'+1}^b'⟩.

    The terms belong to the parameter groups "recurrent", "input", "bias" (the 1, with a bias only) and "readout".

    Args:
        x1: inputs [T, B1, N_in]; for a pack of R networks [R or 1, T, B1, N_in]. With `batch_first` [B1, T, N_in] or
            [R or 1, B1, T, N_in].
        x2: second inputs [T2, B2, N_in] (with `batch_first` [B2, T2, N_in], or packed), for K(x1, x2); None for
            K(x1, x1).
        recurrent: W_h [N, N] or [R, N, N], row = postsynaptic.
        input: W_x [N, N_in] or [R, N, N_in].
        bias: b [N] or [R, N] of the recurrence, as in `leaky_rnn`; None for none.
        readout: w [N_out, N] or [R, N_out, N]; None for the rates themselves as outputs, N_out = N.
        rho: leak factor exp(-dt/tau) in [0, 1).
        outputs: which steps' outputs are rows: "all", "last", or ascending steps t (0-based).
        parameters: the groups to differentiate by, some of ("recurrent", "input", "bias", "readout"); None for all,
            without "bias" or "readout" if that is None.
        reduce: "full" for all pairs of rows; "diagonal" for pairs of one output (t, k) of two examples; "trace" for
            the sum (not the mean) of those over the outputs.
        order: the order of contraction, see `FactoredJacobian.gram`; every order is exact.
        memory_budget: bytes that may be allocated beside the result. If needed, the kernel is computed in tiles of
            some examples, or of some outputs of one example.
        activation: f, "relu", "tanh" or "linear".
        self_connections: False leaves the diagonal of W_h out of the parameters. Under Dale's law, W_h = |W| ∘ sign
            with sign = 0 on the diagonal, this gives the kernel with respect to W.
        precision: how products of fp32 numbers round in the Triton kernels: "ieee", "tf32x3" (nearly as exact, on
            tensor cores) or "tf32". Torch, which serves the CPU and other dtypes, ignores it.
        batch_first: whether x1 and x2 have examples before steps, as in `torch.nn.RNN`. The shape does not show it.
        progress: called as progress(done, total) after each block of the kernel.

    Returns:
        "full": K [M1, M2], M = B · len(steps) · N_out rows ordered (b, t, k); "diagonal": [B1, B2, M / B];
        "trace": [B1, B2]. With R in front for a pack. Of the dtype of x1, under `torch.autocast` as well.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, that holds NaN or infinity, or a budget that is
            too small for one output of one example. The adjoints, if they overflow.
    """
    # A wrong argument is named before any work.
    Steps(progress, None)
    checks.choice("reduce", reduce, checks.REDUCTIONS)
    checks.choice("order", order, checks.ORDERS)
    memory_budget = checks.budget(memory_budget)
    weights = {"recurrent": recurrent, "input": input, "bias": bias, "readout": readout}
    with torch.no_grad(), torch_on_one_thread(x1):
        networks = checked_networks(
            "x1", x1, weights, rho=rho, outputs=outputs, parameters=parameters, activation=activation,
            self_connections=self_connections, precision=precision, batch_first=batch_first,
        )  # fmt: skip
        if x2 is not None:
            check_second(x2, x1, networks, reduce, batch_first)
        first = checked_inputs("x1", x1, batch_first)
        second = None if x2 is None else checked_inputs("x2", x2, batch_first)
        K = eager.kernel(networks, first, second, reduce, order, memory_budget, progress)
    return K if x1.dim() == 4 else K[0]
