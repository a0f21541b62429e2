"""How numbers lie in memory, for every backend.

The recurrent and input weights are stored side by side, `weights` = [W_h W_x 0] of shape [R, N, P]. So are the numbers
that they multiply: the **trace** z of shape [R, T + 1, B, P] holds z_s = [a_s x_s 0]. One matrix product per step then
advances the network, one product over all steps gives both weight gradients, and the tangent kernel takes
⟨z_s, z_s'⟩ = ⟨a_s, a_s'⟩ + ⟨x_s, x_s'⟩ as one inner product. P is N + N_in rounded up to a multiple of 16, which aligns
rows for vector loads. The rates are columns 0 … N - 1 of z_1 … z_T, a view of the trace.

A bias is the weight of one more input, which is 1 at every step: with `with_constant_input`, weights are [W_h W_x b 0]
and z_s = [a_s x_s 1 0].
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ALIGNMENT", "empty_trace", "join", "padded", "readable", "with_constant_input"]

ALIGNMENT = 16


def padded(width: int) -> int:
    """`width` rounded up to a multiple of 16, the storage alignment."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def join(recurrent: Tensor, input: Tensor) -> Tensor:
    """W_h [R, N, N] and W_x [R, N, N_in] copied side by side into [W_h W_x 0], [R, N, P]; of a GRU 3N rows each."""
    R, rows, N_in = input.shape
    N = recurrent.shape[2]
    weights = input.new_zeros(R, rows, padded(N + N_in))
    weights[..., :N] = recurrent
    weights[..., N : N + N_in] = input
    return weights


def with_constant_input(x: Tensor, input: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """[x 1] and [W_x b], whose product is W_x x + b: x [..., T, B, N_in], W_x [..., N, N_in], b [..., N]."""
    ones = x.new_ones(*x.shape[:-1], 1)
    return torch.cat([x, ones], dim=-1), torch.cat([input, bias[..., None]], dim=-1)


def empty_trace(R: int, T: int, B: int, N: int, N_in: int, like: Tensor) -> Tensor:
    """A trace [R, T + 1, B, P] of zeros. The caller writes rates and inputs; a_0 and the padding stay zero."""
    return like.new_zeros(R, T + 1, B, padded(N + N_in))


def readable(rows: Tensor) -> int:
    """How many columns of a row a kernel may read: a multiple of 16, for 16-byte loads, if the storage extends so far.

    The storage beyond the tensor's own columns may hold any number, NaN included.
    """
    width = rows.shape[-1]
    last = sum((size - 1) * stride for size, stride in zip(rows.shape, rows.stride(), strict=True))
    end = rows.storage_offset() + last + padded(width) - width
    stored = rows.untyped_storage().nbytes() // rows.element_size()
    return padded(width) if end < stored else width
