"""The alignment of two tangent kernels, computed tile by tile: neither kernel is ever whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, uses_triton
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.gram.eager import ORDERS
from hpr_kernels.memory import give_back
from hpr_kernels.tangent.kernel import check_network
from hpr_kernels.tangent.network import GROUPS, Network
from hpr_kernels.tangent.tiling import alignment_tiling, budgeted


@outside_autocast
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
    batch_first: bool = False,
) -> Tensor:
    """Tangent kernel alignment Tr(K_f K_0) / (‖K_f‖ ‖K_0‖) (Eq. 6), tile by tile: no kernel is ever whole.

    Args:
        x: inputs [T, B, N_in]; for a pack [R or 1, T, B, N_in]. With `batch_first` [B, T, N_in] or
            [R or 1, B, T, N_in].
        before: the weights of K_0: "recurrent", "input" and "readout" as in `leaky_rnn_ntk`.
        after: the weights of K_f.
        rho, outputs, parameters, order, activation, self_connections, precision: as in `leaky_rnn_ntk`. On a GPU
            "auto" and "hadamard" keep both kernels' tiles in registers; the other orders write blocks of them.
        memory_budget: bytes that may be allocated, whatever the number of rows.
        batch_first: whether x has examples before steps, as in `torch.nn.RNN`.

    Returns:
        The alignment, fp64, [R] or [] for a plain network; sums accumulate in fp64. NaN where a kernel is zero.

    Raises:
        ValueError, TypeError: as `leaky_rnn_ntk`.
    """
    checks.choice("order", order, ("auto", *ORDERS))
    memory_budget = checks.budget(memory_budget)
    networks = []
    for name, weights in (("before", before), ("after", after)):
        if not isinstance(weights, Mapping):
            raise TypeError(f"{name}: expected a dict of weights, got {type(weights).__name__}")
        for group in set(weights) & set(before):
            one, other = (getattr(of[group], "shape", None) for of in (before, weights))
            if one != other:
                raise ValueError(f"{name}: expected {group} as before, {one}, got {other}")
        if set(weights) != set(GROUPS):
            raise ValueError(f"{name}: expected the weights {GROUPS}, got {tuple(weights)}")
        network, packed = check_network(
            "x", x, weights["recurrent"], weights["input"], weights["readout"], rho, outputs,
            parameters, activation, self_connections, precision, batch_first,
        )  # fmt: skip
        networks.append(network)
    x = x.transpose(-3, -2) if batch_first else x
    x = x if packed else x[None]
    fused = order in ("auto", "hadamard") and set(networks[0].groups) != {"readout"}
    sums = None
    with torch.no_grad():
        if fused and uses_triton(x):
            from hpr_kernels.tangent import fused_alignment

            sums = fused_alignment.sums(networks[0], networks[1], x, memory_budget)
        if sums is None:
            sums = _alignment_sums(networks, x, order, memory_budget)
    alignment = sums[0] / (sums[1] * sums[2]).sqrt()
    return alignment if packed else alignment[0]


def _alignment_sums(networks: list[Network], x: Tensor, order: str, memory_budget: int) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0², [3, R] in fp64, from blocks of the kernels of K_0's and K_f's network."""
    readout = "readout" in networks[0].groups
    sums = torch.zeros(3, len(networks[0].recurrent), dtype=torch.float64, device=x.device)
    tiling = alignment_tiling(networks[0], x, order, memory_budget)
    tiles = tiling.tiles(networks[0], x)
    pairs = zip(*(network.parts(tiling.networks) for network in networks), strict=True)
    for (group, before), (_, after) in pairs:
        y = x if len(x) == 1 else x[group]
        for number, row in enumerate(tiles):
            lefts = [part.tile(y[:, :, row.examples], row.outputs) for part in (before, after)]
            for column in tiles[number:]:
                blocks = []
                for part, left in zip((before, after), lefts, strict=True):
                    other = None
                    if column != row:
                        other = part.tile(y[:, :, column.examples], column.outputs)
                    with budgeted(tiling.workspace, memory_budget):
                        blocks.append(left.kernel(other, readout, "full", order, tiling.workspace))
                    # Before the next is made.
                    del other
                # Off the diagonal a block stands for its transpose, too.
                sums[:, group] += (1.0 if column == row else 2.0) * _sums(*blocks)
                del blocks
            del lefts
            give_back(x.device)
    return sums


def _sums(K_0: Tensor, K_f: Tensor) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0² of one block, [3, R] in fp64."""
    K_0, K_f = K_0.double(), K_f.double()
    products = ((K_f * K_0), K_f.square_(), K_0.square_())
    return torch.stack([product.sum((1, 2)) for product in products])
