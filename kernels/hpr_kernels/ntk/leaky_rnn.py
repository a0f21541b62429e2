"""Exact neural tangent kernels of leaky recurrent networks, whole or streamed into an alignment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision, uses_triton
from hpr_kernels.gram import MEMORY_BUDGET, REDUCTIONS
from hpr_kernels.ntk.rows import GROUPS, Network, tiles


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
        readout: w [N_out, N] or [R, N_out, N]; None for the rates themselves as outputs, N_out = N.
        rho: leak factor exp(-dt/tau) in [0, 1).
        outputs: which steps' outputs are rows: "all", "last", or ascending steps t (0-based).
        parameters: the groups to differentiate by, some of ("recurrent", "input", "readout"); None for all that
            there are.
        reduce: "full" for all pairs of rows; "diagonal" for pairs of one output (t, k) of two examples; "trace" for
            the sum (not the mean) of those over the outputs.
        order: how the sum is contracted, see `FactoredJacobian.gram`; every order is exact.
        memory_budget: bytes that may be allocated beside the result; examples are taken in tiles that fit.
        activation: f, "relu" or "linear".
        self_connections: False leaves the diagonal of W_h out of the parameters, as under Dale's law, where
            W_h = |W| ∘ sign and sign = 0 on the diagonal: then this is the kernel with respect to W.
        precision: how products of fp32 numbers round in the Triton kernels: "ieee", "tf32x3" (nearly as exact, on
            tensor cores) or "tf32". Torch, which serves the CPU and other dtypes, ignores it.

    Returns:
        "full": K [M1, M2], M = B · len(steps) · N_out rows ordered (b, t, k); "diagonal": [B1, B2, M / B];
        "trace": [B1, B2]. With R in front for a pack.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, or that holds NaN or infinity.
    """
    checks.choice("reduce", reduce, REDUCTIONS)
    network, packed = check_network(
        "x1", x1, recurrent, input, readout, rho, outputs, parameters, activation, self_connections,
        precision,
    )  # fmt: skip
    if x2 is not None:
        check_inputs("x2", x2, x1, network)
        if reduce != "full" and outputs == "all" and x2.shape[-3] != x1.shape[-3]:
            raise ValueError(
                f"x2: expected T = {x1.shape[-3]} steps with reduce={reduce!r}, got {x2.shape[-3]}"
            )
    with torch.no_grad():
        if not packed:
            x1, x2 = x1[None], None if x2 is None else x2[None]
        K = _kernel(network, x1, x2, reduce, order, memory_budget)
    return K if packed else K[0]


def leaky_rnn_kernel_alignment(
    x: Tensor,
    before: dict[str, Tensor],
    after: dict[str, Tensor],
    *,
    rho: float,
    outputs: checks.Outputs = "all",
    parameters: Sequence[str] | None = None,
    order: str = "auto",
    memory_budget: int = MEMORY_BUDGET,
    activation: str = "relu",
    self_connections: bool = True,
    precision: str = DEFAULT_PRECISION,
) -> Tensor:
    """Tangent kernel alignment Tr(K_f K_0) / (‖K_f‖ ‖K_0‖) (Eq. 6), tile by tile: no kernel is ever whole.

    Args:
        x: inputs [T, B, N_in]; for a pack [R or 1, T, B, N_in].
        before: the weights of K_0: "recurrent", "input" and "readout" as in `leaky_rnn_ntk`.
        after: the weights of K_f.
        rho, outputs, parameters, order, activation, self_connections, precision: as in `leaky_rnn_ntk`. On a GPU
            "auto" and "hadamard" keep both kernels' tiles in registers; the other orders write blocks of them.
        memory_budget: bytes that may be allocated, whatever the number of rows.

    Returns:
        The alignment, fp64, [R] or [] for a plain network; sums accumulate in fp64. NaN where a kernel is zero.
    """
    networks = []
    for name, weights in (("before", before), ("after", after)):
        for group in set(weights) & set(before):
            one, other = (getattr(of[group], "shape", None) for of in (before, weights))
            if one != other:
                raise ValueError(f"{name}: expected {group} as before, {one}, got {other}")
        if set(weights) != set(GROUPS):
            raise ValueError(f"{name}: expected the weights {GROUPS}, got {tuple(weights)}")
        network, packed = check_network(
            "x", x, weights["recurrent"], weights["input"], weights["readout"], rho, outputs,
            parameters, activation, self_connections, precision,
        )  # fmt: skip
        networks.append(network)
    x = x if packed else x[None]
    fused = order in ("auto", "hadamard") and set(networks[0].groups) != {"readout"}
    with torch.no_grad():
        if fused and uses_triton(x):
            from hpr_kernels.ntk import fused_alignment

            sums = fused_alignment.sums(networks[0], networks[1], x, memory_budget)
        else:
            sums = _alignment_sums(networks, x, order, memory_budget)
    alignment = sums[0] / (sums[1] * sums[2]).sqrt()
    return alignment if packed else alignment[0]


def _alignment_sums(networks: list[Network], x: Tensor, order: str, memory_budget: int) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0², [3, R] in fp64, from blocks of the kernels of K_0's and K_f's network."""
    R = len(networks[0].recurrent)
    sums = torch.zeros(3, R, dtype=torch.float64, device=x.device)
    # Two networks' tiles, left and right, and two blocks of kernels in fp32 and fp64 share the budget.
    size = tile_size(networks[0], x, memory_budget // 4)
    for start in range(0, x.shape[2], size):
        lefts = [network.tile(x[:, :, start : start + size]) for network in networks]
        for first in range(start, x.shape[2], size):
            # Off the diagonal a block stands for its transpose, too.
            weight = 1.0 if first == start else 2.0
            blocks = []
            for network, left in zip(networks, lefts, strict=True):
                right = None if first == start else network.tile(x[:, :, first : first + size])
                readout = "readout" in network.groups
                blocks.append(left.kernel(right, readout, "full", order, memory_budget // 4))
            K_0, K_f = (block.double() for block in blocks)
            products = ((K_f * K_0), K_f.square_(), K_0.square_())
            sums += weight * torch.stack([product.sum((1, 2)) for product in products])
    return sums


def tile_size(network: Network, x: Tensor, memory_budget: int) -> int:
    """Examples of a tile whose adjoints and whose block of the kernel fit."""
    B, T = x.shape[2], x.shape[1]
    outputs = len(checks.steps(network.outputs, T)) * network.N_out
    element = len(network.recurrent) * x.element_size()
    # Three fp64-sized copies of a block of b² O² entries in half of the budget.
    block = int((memory_budget / 2 / (6 * element)) ** 0.5 / outputs)
    return max(1, min(B, network.examples(x, memory_budget) // len(network.recurrent), block))


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
) -> tuple[Network, bool]:
    """Check what a kernel is made of; returns it as a pack, and whether it came as one."""
    packed = checks.network(x, recurrent, input, rho, activation, name)
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
    chosen = known if parameters is None else parameters
    chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    if not chosen or set(chosen) - set(known):
        raise ValueError(f"parameters: expected some of {known}, got {parameters!r}")
    checks.steps(outputs, x.shape[-3])
    check_precision(precision)
    if not packed:
        recurrent, input = recurrent[None], input[None]
        readout = None if readout is None else readout[None]
    network = Network(
        recurrent, input, readout, rho, activation, outputs, chosen, self_connections, precision
    )
    return network, packed


def check_inputs(name: str, x: Tensor, like: Tensor, network: Network) -> None:
    """Check a second set of inputs against the first."""
    checks.tensor(name, x, (like.dim(),), like=like)
    lead = (None,) * (x.dim() - 3)
    checks.shape(name, x, (*lead, None, None, like.shape[-1]), "[…, T2, B2, N_in]")
    if lead and x.shape[0] not in (1, len(network.recurrent)):
        raise ValueError(
            f"{name}: expected a leading axis of 1 or R = {len(network.recurrent)}, got {x.shape[0]}"
        )
    checks.steps(network.outputs, x.shape[-3])
    checks.finite(name, x)


def _kernel(
    network: Network, x1: Tensor, x2: Tensor | None, reduce: str, order: str, memory_budget: int
) -> Tensor:
    """K in one, where all adjoints fit; else a few networks at a time, and at the least some examples of one."""
    readout = "readout" in network.groups
    right = x1 if x2 is None else x2
    longer = x1 if x1.shape[1] > right.shape[1] else right
    R, B1, B2 = len(network.recurrent), x1.shape[2], right.shape[2]
    size = network.examples(longer, memory_budget)
    together = min(R, size // max(B1, B2))
    if together == R:
        tile = network.tile(x1)
        other = None if x2 is None else network.tile(x2)
        return tile.kernel(other, readout, reduce, order, memory_budget)
    # A block is copied into the result: of the budget a quarter is for it, and a quarter for the adjoints.
    size = network.examples(longer, memory_budget // 2)
    together = size // max(B1, B2)
    outputs = len(checks.steps(network.outputs, longer.shape[1])) * network.N_out
    size = max(
        1,
        min(
            size, int((memory_budget / 4 / x1.element_size() / max(1, together)) ** 0.5) // outputs
        ),
    )
    K: Tensor | None = None
    for group, part in network.parts(max(1, together)):
        y1, y2 = (x if len(x) == 1 else x[group] for x in (x1, right))
        for start, left in tiles(part, y1, size):
            for first in range(start if x2 is None else 0, B2, size):
                same = x2 is None and first == start
                other = None if same else part.tile(y2[:, :, first : first + size])
                block = left.kernel(other, readout, reduce, order, memory_budget)
                m, n = (
                    block.shape[1] // left.rates.shape[1],
                    block.shape[2] // (other or left).rates.shape[1],
                )
                if K is None:
                    K = block.new_empty(R, B1 * m, B2 * n, *block.shape[3:])
                rows = slice(start * m, start * m + block.shape[1])
                columns = slice(first * n, first * n + block.shape[2])
                K[group, rows, columns] = block
                if x2 is None and not same:
                    K[group, columns, rows] = block.transpose(1, 2)
    assert K is not None
    return K
