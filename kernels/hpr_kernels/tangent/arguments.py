"""Checks of the arguments that the tangent kernel and its alignment share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import check_precision
from hpr_kernels.tangent.network import NetworkPack


def checked_networks(
    name: str,
    x: Tensor,
    weights: Mapping[str, Tensor | None],
    *,
    rho: float,
    outputs: checks.Outputs,
    parameters: Sequence[checks.Group] | None,
    activation: checks.Activation,
    self_connections: bool,
    precision: checks.Precision,
    batch_first: bool,
) -> NetworkPack:
    """The networks of `weights`, by group, as a pack; `name` is the caller's name of x, for error messages.

    All is checked but the finiteness of x, which `checked_inputs` checks.
    """
    batch_first = checks.flag("batch_first", batch_first)
    self_connections = checks.flag("self_connections", self_connections)
    recurrent, input, bias, readout = (weights.get(group) for group in checks.GROUPS)
    # The checks name an argument that is None.
    packed = checks.network(x, recurrent, input, activation, bias, name)  # type: ignore[arg-type]
    assert recurrent is not None
    assert input is not None
    rho = checks.leak(rho)
    if readout is not None:
        *pack, N, _ = recurrent.shape
        checks.tensor("readout", readout, (recurrent.dim(),), like=x)
        symbol = "[R, N_out, N]" if packed else "[N_out, N]"
        checks.shape("readout", readout, (*pack, None, N), symbol)
        if not readout.shape[-2]:
            raise ValueError(f"readout: expected an output, got shape {tuple(readout.shape)}")
    given = {group: value for group in checks.GROUPS if (value := weights.get(group)) is not None}
    for group, value in given.items():
        checks.finite(group, value)
    chosen = checks.groups(parameters, tuple(given))
    checks.steps(outputs, x.shape[-2 if batch_first else -3])
    check_precision(precision)
    if not packed:
        recurrent, input = recurrent[None], input[None]
        bias, readout = (None if value is None else value[None] for value in (bias, readout))
    return NetworkPack(
        recurrent,
        input,
        bias,
        readout,
        rho,
        activation,
        outputs,
        chosen,
        self_connections,
        precision,
    )


def checked_inputs(name: str, x: Tensor, batch_first: bool) -> Tensor:
    """The inputs as [R or 1, T, B, N_in], checked for finiteness; `name` is the argument that they were given as."""
    checks.finite(name, x)
    x = x.transpose(-3, -2) if batch_first else x
    return x if x.dim() == 4 else x[None]


def check_second(
    x2: Tensor, x1: Tensor, networks: NetworkPack, reduce: checks.Reduction, batch_first: bool
) -> None:
    """Check the shape of second inputs against the first, both as the caller gave them."""
    checks.tensor("x2", x2, (x1.dim(),), like=x1)
    lead = (None,) * (x2.dim() - 3)
    symbols = "[…, B2, T2, N_in]" if batch_first else "[…, T2, B2, N_in]"
    checks.shape("x2", x2, (*lead, None, None, x1.shape[-1]), symbols)
    if min(x2.shape) < 1:
        raise ValueError(f"x2: expected no empty axis, got shape {tuple(x2.shape)}")
    R = len(networks.recurrent)
    if lead and x2.shape[0] not in (1, R):
        raise ValueError(f"x2: expected a leading axis of 1 or R = {R}, got {x2.shape[0]}")
    T1, T2 = (x.shape[-2 if batch_first else -3] for x in (x1, x2))
    # Checks that the second inputs have these steps.
    count = networks.count(T2)
    if reduce != "full" and T1 != T2 and count != networks.count(T1):
        raise ValueError(f"x2: expected T = {T1} steps with reduce={reduce!r}, got {T2}")
