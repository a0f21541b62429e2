"""What a tangent kernel needs beside its contraction, by the C kernels on the CPU; see `native/products.h`.

Each number is one sum in one order, so the results are the same on any number of threads and any CPU.
"""

from __future__ import annotations

from ctypes import Structure, c_int64, c_void_p

import torch
from torch import Tensor

from hpr_kernels.native.tasks import take_tasks
from hpr_kernels.workers import threads

# Numbers of one task of `block_sums`.
BLOCK = 1 << 14


class ProductArguments(Structure):
    """`Products` of native/products.h."""

    _fields_ = (
        [(name, c_int64) for name in ("M1", "M2", "N", "copies")]
        + [(name, c_void_p) for name in ("u", "v", "K")]
        + [("row", c_int64), ("counter", c_void_p)]
    )


class SumArguments(Structure):
    """`Sums` of native/products.h."""

    _fields_ = (
        [(name, c_int64) for name in ("count", "block")]
        + [(name, c_void_p) for name in ("a", "b", "sums", "counter")]
    )  # fmt: skip


def add_row_products(K: Tensor, left: Tensor, right: Tensor, copies: int) -> None:
    """Add ⟨u_i, v_j⟩ to K[i copies + k, j copies + k] of every network, of rows u and v [R, M, N]; k < copies.

    K [R, M1 copies, M2 copies] has no gaps within a row. If u is v, what is added is exactly symmetric.
    """
    for target, u, v in zip(K, left.contiguous(), right.contiguous(), strict=True):
        arguments = ProductArguments(
            len(u), len(v), u.shape[1], copies, u.data_ptr(), v.data_ptr(), target.data_ptr(), target.stride(0)
        )  # fmt: skip
        take_tasks("add_products", arguments, K.dtype, threads(K.device))


def block_sums(K_0: Tensor, K_f: Tensor) -> Tensor:
    """Σ K_f K_0, Σ K_f² and Σ K_0² of kernels [R, M1, M2] without gaps, [3, R] in fp64."""
    blocks = -(-K_0[0].numel() // BLOCK)
    sums = torch.empty(len(K_0), blocks, 3, dtype=torch.float64, device="cpu")
    for one, old, new in zip(sums, K_0, K_f, strict=True):
        arguments = SumArguments(old.numel(), BLOCK, old.data_ptr(), new.data_ptr(), one.data_ptr())
        take_tasks("kernel_sums", arguments, K_0.dtype, threads(K_0.device))
    # Each sum is taken from the first block to the last.
    return sums.cumsum(1)[:, -1].T
