"""What the memory behind a tensor lets a kernel read."""

from __future__ import annotations

from torch import Tensor

from hpr_kernels.leaky_rnn.cpu import padded


def readable(rows: Tensor) -> int:
    """Columns of a row that a kernel may read: a multiple of 16 where the storage goes on that far, for 16-byte loads.

    What stands beyond the tensor's own columns may be anything, NaN included.
    """
    width = rows.shape[-1]
    last = sum((size - 1) * stride for size, stride in zip(rows.shape, rows.stride(), strict=True))
    end = rows.storage_offset() + last + padded(width) - width
    stored = rows.untyped_storage().nbytes() // rows.element_size()
    return padded(width) if end < stored else width
