"""Argument checks of the public functions: one line that names the argument, what was expected and what came."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Outputs = Literal["all", "last"] | Sequence[int]


class NonFinite(ValueError):
    """A tensor holds a NaN or an infinity."""


def tensor(name: str, value: Tensor, dims: tuple[int, ...], like: Tensor | None = None) -> None:
    """A tensor of fp32 or fp64 with one of `dims` axes, of the dtype and on the device of `like`.

    Half precision is refused: its sums of adjoints overflow in silence.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected a dtype of float32 or float64, got {value.dtype}")
    if value.dim() not in dims:
        expected = " or ".join(map(str, dims))
        raise ValueError(f"{name}: expected {expected} axes, got shape {tuple(value.shape)}")
    if like is not None and (value.dtype, value.device) != (like.dtype, like.device):
        raise TypeError(
            f"{name}: expected {like.dtype} on {like.device}, got {value.dtype} on {value.device}"
        )


def shape(name: str, value: Tensor, expected: tuple[int | None, ...], symbols: str) -> None:
    """`value` has the sizes `expected`, None for any; `symbols` names the axes in the message."""
    if value.dim() != len(expected) or any(
        size is not None and size != got for size, got in zip(expected, value.shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name}: expected shape {symbols} = [{wanted}], got {list(value.shape)}")


def leak(rho: float) -> None:
    """`rho` in [0, 1)."""
    if not isinstance(rho, int | float) or not 0 <= rho < 1:
        raise ValueError(f"rho: expected a leak factor in [0, 1), got {rho!r}")


def choice(name: str, value: object, options: Sequence[str]) -> None:
    """`value` is one of `options`."""
    if value not in options:
        raise ValueError(f"{name}: expected one of {tuple(options)}, got {value!r}")


def finite(name: str, value: Tensor) -> None:
    """No NaN and no infinity: a kernel of either would be a wrong number in silence."""
    if value.numel() == 0:
        return
    # One pass and no temporary: a NaN passes through both ends of the range.
    least, most = torch.aminmax(value)
    if not bool(least.isfinite() & most.isfinite()):
        bad = int((~torch.isfinite(value)).sum())
        raise NonFinite(f"{name}: expected finite numbers, got {bad} NaN or infinite")


def steps(outputs: Outputs, T: int) -> tuple[int, ...]:
    """Output steps as an ascending tuple in 0 … T-1, from "all", "last" or a list."""
    if isinstance(outputs, str):
        choice("outputs", outputs, ("all", "last"))
        return tuple(range(T)) if outputs == "all" else (T - 1,)
    try:
        listed = tuple(operator.index(t) + (T if t < 0 else 0) for t in outputs)
    except TypeError:
        raise TypeError(
            f"outputs: expected 'all', 'last' or whole numbers, got {outputs!r}"
        ) from None
    ascending = all(a < b for a, b in pairwise(listed))
    if not listed or not ascending or not 0 <= listed[0] <= listed[-1] < T:
        raise ValueError(
            f"outputs: expected 'all', 'last' or ascending steps in 0 … {T - 1}, got {outputs!r}"
        )
    return listed


def network(
    x: Tensor, recurrent: Tensor, input: Tensor, rho: float, activation: str, name: str = "x"
) -> bool:
    """Shapes of one recurrent network or a pack of them; returns whether it is a pack; `name` is that of x."""
    tensor(name, x, (3, 4))
    tensor("recurrent", recurrent, (x.dim() - 1,), like=x)
    tensor("input", input, (x.dim() - 1,), like=x)
    leak(rho)
    choice("activation", activation, ("relu", "linear"))
    *pack, N, _ = recurrent.shape
    symbol = "R, " if pack else ""
    shape("recurrent", recurrent, (*pack, N, N), f"[{symbol}N, N]")
    shape("input", input, (*pack, N, x.shape[-1]), f"[{symbol}N, N_in]")
    if pack and x.shape[0] not in (1, *pack):
        raise ValueError(f"{name}: expected a leading axis of 1 or R = {pack[0]}, got {x.shape[0]}")
    if min(x.shape) < 1 or N < 1:
        raise ValueError(f"{name}: expected no empty axis, got shape {tuple(x.shape)} and N = {N}")
    return bool(pack)
