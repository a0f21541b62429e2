"""Exact neural tangent kernels of leaky recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision
from hpr_kernels.gram import MEMORY_BUDGET, REDUCTIONS
from hpr_kernels.gram.eager import ORDERS
from hpr_kernels.memory import give_back
from hpr_kernels.tangent.network import GROUPS, Network
from hpr_kernels.tangent.tiling import Part, budgeted, kernel_tiling, outputs_of


@outside_autocast
def leaky_rnn_ntk(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    recurrent: Tensor,
    input: Tensor,
    readout: Tensor | None,
    rho: float,
    outputs: checks.Outputs = "all",
    parameters: Sequence[str] | None = None,
    reduce: str = "full",
    order: str = "auto",
    memory_budget: int = MEMORY_BUDGET,
    activation: str = "relu",
    self_connections: bool = True,
    precision: str = DEFAULT_PRECISION,
    batch_first: bool = False,
) -> Tensor:
    """Exact NTK K = ∇_W y ∇_W yᵀ of a leaky recurrent network (Liu et al. 2024, Eq. 1, 2 and 6), without the Jacobian.

    K_ij = (1 - rho)² Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ (⟨a_s^b, a_s'^b'⟩ + ⟨x_s^b, x_s'^b'⟩)
           + [k = k'] ⟨a_{t+1}^b, a_{t'+1}^b'⟩,

    whose three terms are the parameter groups "recurrent", "input" and "readout".

    Args:
        x1: inputs [T, B1, N_in]; for a pack of R networks [R or 1, T, B1, N_in]. With `batch_first` [B1, T, N_in] or
            [R or 1, B1, T, N_in].
        x2: second inputs [T2, B2, N_in] (with `batch_first` [B2, T2, N_in], or packed), for K(x1, x2); None for
            K(x1, x1).
        recurrent: W_h [N, N] or [R, N, N], row = postsynaptic.
        input: W_x [N, N_in] or [R, N, N_in].
        readout: w [N_out, N] or [R, N_out, N]; None for the rates themselves as outputs, N_out = N.
        rho: leak factor exp(-dt/tau) in [0, 1).
        outputs: which steps' outputs are rows: "all", "last", or ascending steps t (0-based).
        parameters: the groups to differentiate by, some of ("recurrent", "input", "readout"); None for all that
            there are.
        reduce: "full" for all pairs of rows; "diagonal" for pairs of one output (t, k) of two examples; "trace" for
            the sum (not the mean) of those over the outputs.
        order: how the sum is contracted, see `FactoredJacobian.gram`; every order is exact.
        memory_budget: bytes that may be allocated beside the result; examples, and if need be the outputs of one, are
            taken in tiles that fit.
        activation: f, "relu" or "linear".
        self_connections: False leaves the diagonal of W_h out of the parameters, as under Dale's law, where
            W_h = |W| ∘ sign and sign = 0 on the diagonal: then this is the kernel with respect to W.
        precision: how products of fp32 numbers round in the Triton kernels: "ieee", "tf32x3" (nearly as exact, on
            tensor cores) or "tf32". Torch, which serves the CPU and other dtypes, ignores it.
        batch_first: whether x1 and x2 have examples before steps, as in `torch.nn.RNN`. No shape tells one order from
            the other.

    Returns:
        "full": K [M1, M2], M = B · len(steps) · N_out rows ordered (b, t, k); "diagonal": [B1, B2, M / B];
        "trace": [B1, B2]. With R in front for a pack. Of the dtype of x1, under `torch.autocast` as well.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, that holds NaN or infinity, or a budget that not
            even one output of one example fits.
    """
    checks.choice("reduce", reduce, REDUCTIONS)
    checks.choice("order", order, ("auto", *ORDERS))
    memory_budget = checks.budget(memory_budget)
    network, packed = check_network(
        "x1", x1, recurrent, input, readout, rho, outputs, parameters, activation, self_connections,
        precision, batch_first,
    )  # fmt: skip
    if x2 is not None:
        check_inputs("x2", x2, x1, network, batch_first)
    if batch_first:
        x1, x2 = x1.transpose(-3, -2), None if x2 is None else x2.transpose(-3, -2)
    if x2 is not None and reduce != "full" and x2.shape[-3] != x1.shape[-3]:
        one, other = (checks.steps(outputs, x.shape[-3]) for x in (x1, x2))
        if len(one) != len(other):
            raise ValueError(
                f"x2: expected T = {x1.shape[-3]} steps with reduce={reduce!r}, got {x2.shape[-3]}"
            )
    with torch.no_grad():
        if not packed:
            x1, x2 = x1[None], None if x2 is None else x2[None]
        K = _kernel(network, x1, x2, reduce, order, memory_budget)
    return K if packed else K[0]


def check_network(
    name: str,
    x: Tensor,
    recurrent: Tensor,
    input: Tensor,
    readout: Tensor | None,
    rho: float,
    outputs: checks.Outputs,
    parameters: Sequence[str] | None,
    activation: str,
    self_connections: bool,
    precision: str = DEFAULT_PRECISION,
    batch_first: bool = False,
) -> tuple[Network, bool]:
    """Check what a kernel is made of; returns it as a pack, and whether it came as one."""
    checks.flag("batch_first", batch_first)
    checks.flag("self_connections", self_connections)
    packed = checks.network(x, recurrent, input, activation, name)
    rho = checks.leak(rho)
    *pack, N, _ = recurrent.shape
    known = GROUPS if readout is not None else GROUPS[:2]
    weights = {"recurrent": recurrent, "input": input}
    if readout is not None:
        checks.tensor("readout", readout, (recurrent.dim(),), like=x)
        symbol = "[R, N_out, N]" if packed else "[N_out, N]"
        checks.shape("readout", readout, (*pack, None, N), symbol)
        weights["readout"] = readout
    for group, value in (*weights.items(), (name, x)):
        checks.finite(group, value)
    chosen = checks.groups(parameters, known)
    checks.steps(outputs, x.shape[-2 if batch_first else -3])
    check_precision(precision)
    if not packed:
        recurrent, input = recurrent[None], input[None]
        readout = None if readout is None else readout[None]
    network = Network(
        recurrent, input, readout, rho, activation, outputs, chosen, self_connections, precision
    )
    return network, packed


def check_inputs(
    name: str, x: Tensor, like: Tensor, network: Network, batch_first: bool = False
) -> None:
    """Check a second set of inputs against the first."""
    checks.tensor(name, x, (like.dim(),), like=like)
    lead = (None,) * (x.dim() - 3)
    symbols = "[…, B2, T2, N_in]" if batch_first else "[…, T2, B2, N_in]"
    checks.shape(name, x, (*lead, None, None, like.shape[-1]), symbols)
    if min(x.shape) < 1:
        raise ValueError(f"{name}: expected no empty axis, got shape {tuple(x.shape)}")
    if lead and x.shape[0] not in (1, len(network.recurrent)):
        raise ValueError(
            f"{name}: expected a leading axis of 1 or R = {len(network.recurrent)}, got {x.shape[0]}"
        )
    checks.steps(network.outputs, x.shape[-2 if batch_first else -3])
    checks.finite(name, x)


def _kernel(
    network: Network, x1: Tensor, x2: Tensor | None, reduce: str, order: str, memory_budget: int
) -> Tensor:
    """K in one, where all adjoints fit; else a few networks at a time, some examples of one, or some outputs of one."""
    readout = "readout" in network.groups
    right = x1 if x2 is None else x2
    longer = x1 if x1.shape[1] > right.shape[1] else right
    R, B1, B2 = len(network.recurrent), x1.shape[2], right.shape[2]
    tiling = kernel_tiling(network, longer, max(B1, B2), reduce, order, memory_budget)
    rows, columns = (tiling.tiles(network, x) for x in (x1, right))
    if tiling.networks == R and len(rows) == len(columns) == 1:
        left = network.tile(x1)
        other = None if x2 is None else network.tile(x2)
        with budgeted(tiling.workspace, memory_budget):
            return left.kernel(other, readout, reduce, order, tiling.workspace)
    O, P = outputs_of(network, x1), outputs_of(network, right)
    shapes = {"full": (B1, O, B2, P), "diagonal": (B1, B2, O), "trace": (B1, B2)}
    K = x1.new_empty(R, *shapes[reduce])
    for group, part in network.parts(tiling.networks):
        y1, y2 = (x if len(x) == 1 else x[group] for x in (x1, right))
        for number, row in enumerate(rows):
            left = part.tile(y1[:, :, row.examples], row.outputs)
            for column in columns if x2 is not None else columns[number:]:
                if reduce != "full" and row.outputs.rows != column.outputs.rows:
                    continue
                same = x2 is None and column == row
                other = None if same else part.tile(y2[:, :, column.examples], column.outputs)
                with budgeted(tiling.workspace, memory_budget):
                    block = left.kernel(other, readout, reduce, order, tiling.workspace)
                _place(K[group], block, row, column, reduce)
                if x2 is None and not same:
                    # K(x', x) is the transpose, of the outputs as well.
                    _place(K[group], block.transpose(1, 2), column, row, reduce)
                # Before the next is made.
                del other, block
            del left
            give_back(x1.device)
    return K.flatten(3).flatten(1, 2) if reduce == "full" else K


def _place(K: Tensor, block: Tensor, row: Part, column: Part, reduce: str) -> None:
    """Write a block between two tiles to its place; a trace is the sum over the outputs' tiles."""
    if reduce == "full":
        target = K[:, row.examples, row.outputs.rows, column.examples, column.outputs.rows]
        target.copy_(block.unflatten(2, target.shape[3:]).unflatten(1, target.shape[1:3]))
    elif reduce == "diagonal":
        K[:, row.examples, column.examples, row.outputs.rows] = block
    elif row.outputs.rows.start == 0:
        K[:, row.examples, column.examples] = block
    else:
        K[:, row.examples, column.examples] += block
