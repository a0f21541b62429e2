"""Parts of parameters that the module takes before it uses them, as attention takes its three projections from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rows = tuple[int, int]

# Functions whose results may be rows of their first argument, or become rows of it by another of these functions.
VIEWS: frozenset[Callable[..., Any]] = frozenset(
    {
        Tensor.__getitem__, Tensor.flatten, Tensor.unflatten, Tensor.view, Tensor.reshape,
        Tensor.chunk, Tensor.split, Tensor.split_with_sizes, Tensor.tensor_split,
        Tensor.narrow, Tensor.select, Tensor.unbind,
        torch.flatten, torch.unflatten, torch.reshape,
        torch.chunk, torch.split, torch.split_with_sizes, torch.tensor_split,
        torch.narrow, torch.select, torch.unbind,
    }
)  # fmt: skip


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    """The tensors that a function of `VIEWS` returned."""
    found = result if isinstance(result, tuple | list) else (result,)
    return tuple(value for value in found if isinstance(value, Tensor))


def rows_of(view: Tensor, root: Tensor) -> Rows | None:
    """(start, stop) where `view` is root[start:stop] in memory; None where it is something else."""
    view, root = unwrapped(view), unwrapped(root)
    if view.dim() != root.dim() or view.shape[1:] != root.shape[1:] or view.numel() == 0:
        return None
    if view.untyped_storage().data_ptr() != root.untyped_storage().data_ptr():
        return None
    # The stride along an axis of size 1 has no meaning.
    strides = zip(view.shape, view.stride(), root.stride(), strict=True)
    if any(size > 1 and step != own for size, step, own in strides):
        return None
    start, rest = divmod(int(view.storage_offset() - root.storage_offset()), max(1, root.stride(0)))
    return (
        None if rest or start < 0 or start + len(view) > len(root) else (start, start + len(view))
    )


def unwrapped(value: Tensor) -> Tensor:
    """The tensor in memory of one that a transform of torch.func has wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return value
