"""Exact neural tangent kernel of two-layer networks: the recurrent case at one step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.progress import Progress
from hpr_kernels.tangent.kernel import leaky_rnn_ntk


# Longer than 60 lines: the docstring is the public reference of all arguments.
@outside_autocast
def two_layer_ntk(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    hidden: Tensor,
    readout: Tensor,
    parameters: Sequence[checks.TwoLayerGroup] | None = None,
    reduce: checks.Reduction = "full",
    order: checks.Order = "auto",
    memory_budget: int = MEMORY_BUDGET,
    activation: checks.Activation = "relu",
    precision: checks.Precision = DEFAULT_PRECISION,
    progress: Progress | None = None,
) -> Tensor:
    """Exact NTK of y = W_2 f(W_1 x): the recurrent case at T = 1, rho = 0 (Liu et al. 2024, Section 2.3).

    K_ij = ⟨w_k ∘ f'(W_1 x), w_k' ∘ f'(W_1 x')⟩ ⟨x, x'⟩ + [k = k'] ⟨f(W_1 x), f(W_1 x')⟩; for f linear and
    one output this is Eq. 7. The two terms are the parameter groups "hidden" and "readout".

    Args:
        x1: inputs [B1, d]; for a pack of R networks [R or 1, B1, d].
        x2: second inputs; None for K(x1, x1).
        hidden: W_1 [N, d] or [R, N, d].
        readout: W_2 [N_out, N] or [R, N_out, N].
        parameters: the groups to differentiate by, some of ("hidden", "readout"); None for both.
        reduce, order, memory_budget, precision, progress: as in `leaky_rnn_ntk`.
        activation: f, "relu" (f'(0) = 0), "tanh" or "linear".

    Returns:
        K [M1, M2] or [R, M1, M2], M = B · N_out rows ordered (b, k).

    Raises:
        ValueError, TypeError: naming the argument that does not fit, that holds NaN or infinity, or a budget that is
            too small for one output of one example.
    """
    rename: dict[str, checks.Group] = {"hidden": "input", "readout": "readout"}
    chosen = checks.groups(parameters, checks.TWO_LAYER_GROUPS)
    checks.tensor("x1", x1, (2, 3))
    checks.tensor("hidden", hidden, (x1.dim(),), like=x1)
    *pack, N, d = hidden.shape
    for name, value in (("x1", x1), ("x2", x2)):
        if value is not None:
            checks.tensor(name, value, (hidden.dim(),), like=x1)
            if value.shape[-1] != d:
                raise ValueError(f"{name}: expected {d} features, got {value.shape[-1]}")
    checks.finite("hidden", hidden)
    return leaky_rnn_ntk(
        x1.unsqueeze(-3),
        None if x2 is None else x2.unsqueeze(-3),
        # The recurrent weights multiply a_0 = 0, so their values do not matter.
        recurrent=hidden.new_zeros(*pack, N, N),
        input=hidden,
        readout=readout,
        rho=0.0,
        parameters=[rename[group] for group in chosen],
        reduce=reduce,
        order=order,
        memory_budget=memory_budget,
        activation=activation,
        precision=precision,
        progress=progress,
    )
