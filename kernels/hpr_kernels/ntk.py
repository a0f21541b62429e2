"""Exact neural tangent kernels: of leaky recurrent networks, of two-layer networks, and of any module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.gram import FactoredJacobian
from hpr_kernels.leaky_rnn import cpu, leaky_rnn_trace

RNN_PARAMETERS = ("recurrent", "input", "readout")
TWO_LAYER_PARAMETERS = ("hidden", "readout")


def leaky_rnn_ntk(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    recurrent: Tensor,
    input: Tensor,
    readout: Tensor,
    rho: float,
    outputs: checks.Outputs = "all",
    parameters: Sequence[str] = RNN_PARAMETERS,
    order: str = "auto",
    activation: str = "relu",
) -> Tensor:
    """Exact NTK K = ∇_W y ∇_W yᵀ of a leaky recurrent network (Liu et al. 2024, Eq. 1, 2 and 6), without the Jacobian.

    K_ij = (1 - rho)² Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ (⟨a_s^b, a_s'^b'⟩ + ⟨x_s^b, x_s'^b'⟩)
           + [k = k'] ⟨a_{t+1}^b, a_{t'+1}^b'⟩,

    whose three terms are the parameter groups "recurrent", "input" and "readout".

    Args:
        x1: inputs [T, B1, N_in]; for a pack of R networks [R or 1, T, B1, N_in].
        x2: second inputs [T2, B2, N_in] (or packed), for K(x1, x2); None for K(x1, x1).
        recurrent: W_h [N, N] or [R, N, N], row = postsynaptic.
        input: W_x [N, N_in] or [R, N, N_in].
        readout: w [N_out, N] or [R, N_out, N].
        rho: leak factor exp(-dt/tau) in [0, 1).
        outputs: which steps' outputs are rows: "all", "last", or ascending steps t (0-based).
        parameters: the groups to differentiate by, some of ("recurrent", "input", "readout").
        order: how the sum is contracted, see `FactoredJacobian.gram`; every order is exact.
        activation: f, "relu" or "linear".

    Returns:
        K [M1, M2] or [R, M1, M2], M = B · len(steps) · N_out rows ordered (b, t, k).

    Raises:
        ValueError, TypeError: naming the argument that does not fit, or that holds NaN or infinity.
    """
    groups = _groups(parameters, RNN_PARAMETERS)
    packed = checks.network(x1, recurrent, input, rho, activation)
    checks.tensor("readout", readout, (recurrent.dim(),), like=x1)
    *pack, N, _ = recurrent.shape
    symbol = "[R, N_out, N]" if packed else "[N_out, N]"
    checks.shape("readout", readout, (*pack, None, N), symbol)
    for name, weights in (("recurrent", recurrent), ("input", input), ("readout", readout)):
        checks.finite(name, weights)
    checks.finite("x1", x1)
    if x2 is not None:
        checks.tensor("x2", x2, (x1.dim(),), like=x1)
        lead = x2.shape[:1] if packed else ()
        checks.shape("x2", x2, (*lead, None, None, x1.shape[-1]), "[…, T2, B2, N_in]")
        checks.network(x2, recurrent, input, rho, activation)
        checks.finite("x2", x2)
    with torch.no_grad():
        if not packed:
            x1, x2 = x1[None], None if x2 is None else x2[None]
            recurrent, input, readout = recurrent[None], input[None], readout[None]

        def side(x: Tensor) -> tuple[FactoredJacobian | None, Tensor]:
            steps = checks.steps(outputs, x.shape[1])
            trace, weights = leaky_rnn_trace(x, recurrent, input, rho, activation)
            rates = trace[:, [t + 1 for t in steps], :, :N].transpose(1, 2)  # [R, B, t, N]
            columns = _columns(groups, N, x.shape[-1])
            if columns is None:
                return None, rates
            T, N_out = x.shape[1], readout.shape[1]
            g = cpu.adjoints(trace, weights, readout, rho, steps, activation).mul_(1 - rho)
            reach = tuple(t for t in steps for _ in range(N_out))
            z = trace[:, :T, :, columns].transpose(1, 2)
            return FactoredJacobian(g.permute(0, 3, 2, 1, 4), z, reach), rates

        left, right = side(x1), None if x2 is None else side(x2)
        K = _assemble(left, right, "readout" in groups, readout.shape[1], order)
    return K if packed else K[0]


def two_layer_ntk(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    hidden: Tensor,
    readout: Tensor,
    parameters: Sequence[str] = TWO_LAYER_PARAMETERS,
    order: str = "auto",
    activation: str = "relu",
) -> Tensor:
    """Exact NTK of y = W_2 f(W_1 x): the recurrent case at T = 1, rho = 0 (Liu et al. 2024, Section 2.3).

    K_ij = ⟨w_k ∘ f'(W_1 x), w_k' ∘ f'(W_1 x')⟩ ⟨x, x'⟩ + [k = k'] ⟨f(W_1 x), f(W_1 x')⟩; for f linear and
    one output this is Eq. 7. The two terms are the parameter groups "hidden" and "readout".

    Args:
        x1: inputs [B1, d]; for a pack of R networks [R or 1, B1, d].
        x2: second inputs; None for K(x1, x1).
        hidden: W_1 [N, d] or [R, N, d].
        readout: W_2 [N_out, N] or [R, N_out, N].
        parameters: the groups to differentiate by.
        order: see `FactoredJacobian.gram`.
        activation: f, "relu" (f'(0) = 0) or "linear".

    Returns:
        K [M1, M2] or [R, M1, M2], M = B · N_out rows ordered (b, k).

    Raises:
        ValueError, TypeError: naming the argument that does not fit, or that holds NaN or infinity.
    """
    groups = _groups(parameters, TWO_LAYER_PARAMETERS)
    checks.tensor("x1", x1, (2, 3))
    checks.tensor("hidden", hidden, (x1.dim(),), like=x1)
    *pack, N, d = hidden.shape
    # The recurrent weights multiply a_0 = 0: of their values nothing is seen.
    recurrent = hidden.new_zeros(*pack, N, N)
    rename = {"hidden": "input", "readout": "readout"}
    for name, value in (("x1", x1), ("x2", x2)):
        if value is not None:
            checks.tensor(name, value, (hidden.dim(),), like=x1)
            if value.shape[-1] != d:
                raise ValueError(f"{name}: expected {d} features, got {value.shape[-1]}")
    checks.finite("hidden", hidden)
    return leaky_rnn_ntk(
        x1.unsqueeze(-3),
        None if x2 is None else x2.unsqueeze(-3),
        recurrent=recurrent,
        input=hidden,
        readout=readout,
        rho=0.0,
        parameters=[rename[group] for group in groups],
        order=order,
        activation=activation,
    )


def ntk(
    module: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    parameters: Sequence[str] | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Exact NTK of any module through `torch.func`: per-example Jacobians, contracted parameter by parameter.

    Args:
        module: maps [B, …] to [B, …], each example on its own. Modules that mix examples or draw random numbers
            (batch normalisation and dropout in training mode) are refused. Tied weights count once.
        x1: [B1, …], each example a row of the batch.
        x2: second inputs; None for K(x1, x1).
        parameters: names as in `module.named_parameters()`; None for all that require a gradient.
        chunk_size: examples whose Jacobians are formed at once; None for all.

    Returns:
        K [M1, M2], M = B · (outputs of an example, flattened), rows example-major.

    Raises:
        ValueError, TypeError: naming the argument or the submodule that does not fit.
    """
    # Every place that holds a parameter, places of tied weights each: torch's own tying leaves a module that is used
    # under two names with the traced tensors in it.
    slots = {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, part in module.named_modules()
        for name, parameter in part.named_parameters(recurse=False)
    }
    available = dict(module.named_parameters())
    canonical = {id(parameter): name for name, parameter in available.items()}
    if parameters is None:
        parameters = [name for name, parameter in available.items() if parameter.requires_grad]
    names = list(dict.fromkeys(parameters))
    unknown = sorted(set(names) - set(available))
    if unknown or not names:
        raise ValueError(f"parameters: expected some of {list(available)}, got {names}")
    for name, part in module.named_modules():
        mixes = isinstance(part, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
        if mixes and part.training:
            raise ValueError(
                f"module: expected each example on its own, got {type(part).__name__} "
                f"{name!r} in training mode; call module.eval()"
            )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: expected at least 1, got {chunk_size}")
    chosen = {name: available[name].detach() for name in names}

    def example(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        held = {
            slot: weights.get(canonical[id(parameter)], parameter.detach())
            for slot, parameter in slots.items()
        }
        y = torch.func.functional_call(module, held, (x[None],), tie_weights=False)
        if not isinstance(y, Tensor):
            raise TypeError(f"module: expected a tensor as its result, got {type(y).__name__}")
        return y.flatten()

    rows = torch.func.vmap(torch.func.jacrev(example), in_dims=(None, 0))
    lefts = x1.split(chunk_size or len(x1))
    rights = lefts if x2 is None else x2.split(chunk_size or len(x2))
    blocks = []
    for left in lefts:
        J = rows(chosen, left)
        blocks.append(torch.cat([_contract(J, rows(chosen, right)) for right in rights], dim=1))
    return torch.cat(blocks)


def _contract(left: dict[str, Tensor], right: dict[str, Tensor]) -> Tensor:
    products = [
        left[name].flatten(2).flatten(0, 1) @ right[name].flatten(2).flatten(0, 1).mT
        for name in left
    ]
    return torch.stack(products).sum(0)


def _groups(parameters: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    chosen = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    if not chosen or set(chosen) - set(known):
        raise ValueError(f"parameters: expected some of {known}, got {parameters!r}")
    return chosen


def _columns(groups: tuple[str, ...], N: int, N_in: int) -> slice | None:
    """The columns of the trace z = [a, x] that the asked groups multiply."""
    start = 0 if "recurrent" in groups else N
    stop = N + N_in if "input" in groups else N
    return slice(start, stop) if start < stop else None


Side = tuple[FactoredJacobian | None, Tensor]


def _assemble(left: Side, right: Side | None, readout: bool, N_out: int, order: str) -> Tensor:
    (J, rates), (J2, rates2) = left, right or (None, left[1])
    K = None if J is None else J.gram(J2, order=order)
    if readout:
        # ∂y_{t,k}/∂w_k' is a_{t+1} where k = k': this group's kernel is one Gram of rates, on the diagonal of (k, k').
        R, M1, M2 = len(rates), rates.shape[1] * rates.shape[2], rates2.shape[1] * rates2.shape[2]
        product = torch.bmm(rates.flatten(1, 2), rates2.flatten(1, 2).mT)
        if K is None:
            K = rates.new_zeros(R, M1 * N_out, M2 * N_out)
        diagonal = K.view(R, M1, N_out, M2, N_out).diagonal(dim1=2, dim2=4)
        diagonal += product[..., None]
    assert K is not None
    return K
