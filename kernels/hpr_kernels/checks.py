"""Argument checks of the public functions: one line that names the argument, what was expected and what came."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Literal, get_args

import torch
from torch import Tensor

# Every choice that a public function offers, as a type for mypy and as the values for the check at run time.
Activation = Literal["relu", "linear"]
Precision = Literal["ieee", "tf32x3", "tf32"]
Reduction = Literal["full", "trace", "diagonal"]
Order = Literal["auto", "hadamard", "propagate", "dense"]
Group = Literal["recurrent", "input", "readout"]
TwoLayerGroup = Literal["hidden", "readout"]
Outputs = Literal["all", "last"] | Sequence[int]

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
ORDERS: tuple[Order, ...] = get_args(Order)
GROUPS: tuple[Group, ...] = get_args(Group)
TWO_LAYER_GROUPS: tuple[TwoLayerGroup, ...] = get_args(TwoLayerGroup)


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


def integers(name: str, value: Tensor, dtype: torch.dtype, like: Tensor) -> None:
    """A tensor of whole numbers of `dtype`, on the device of `like`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if (value.dtype, value.device) != (dtype, like.device):
        raise TypeError(
            f"{name}: expected {dtype} on {like.device}, got {value.dtype} on {value.device}"
        )


def shape(name: str, value: Tensor, expected: tuple[int | None, ...], symbols: str) -> None:
    """`value` has the sizes `expected`, None for any; `symbols` names the axes in the message."""
    if value.dim() != len(expected) or any(
        size is not None and size != got for size, got in zip(expected, value.shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name}: expected shape {symbols} = [{wanted}], got {list(value.shape)}")


def real(value: object) -> float | None:
    """`value` as a float where it is a real number, NumPy's included; None where it is none, as a bool is."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def whole(value: object) -> int | None:
    """`value` as an int where it is a whole number (1e9 is one), NumPy's included; None where it is none."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    number = real(value)
    return None if number is None or not number.is_integer() else int(number)


def leak(rho: float) -> float:
    """`rho` in [0, 1), as a float."""
    number = real(rho)
    if number is None or not 0 <= number < 1:
        raise ValueError(f"rho: expected a leak factor in [0, 1), got {rho!r}")
    return number


def factor(name: str, value: float) -> float:
    """`value` as a float, a finite one."""
    number = real(value)
    if number is None or not -float("inf") < number < float("inf"):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return number


def count(name: str, value: int, least: int, most: int, meaning: str) -> int:
    """`value` as an int in least … most; `meaning` says in the message what is expected."""
    number = whole(value)
    if number is None or not least <= number <= most:
        raise ValueError(f"{name}: expected {meaning}, got {value!r}")
    return number


def budget(memory_budget: int) -> int:
    """`memory_budget` as a whole number of bytes, at least one."""
    number = whole(memory_budget)
    if number is None or number < 1:
        raise ValueError(
            f"memory_budget: expected a whole number of bytes, at least 1, got {memory_budget!r}"
        )
    return number


class BudgetTooSmallError(ValueError):
    """What must be held at once takes `least` bytes, more than the memory budget."""

    def __init__(self, least: int, got: int) -> None:
        super().__init__(f"memory_budget: expected at least {least} bytes, got {got}")
        self.least = least


def flag(name: str, value: bool) -> None:
    """`value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def groups(parameters: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Parameter groups, one or several of `known`; None for all of them."""
    if parameters is None:
        return known
    listed = isinstance(parameters, Iterable) and not isinstance(parameters, str)
    chosen: tuple[str, ...] = tuple(parameters) if listed else (parameters,)  # type: ignore[assignment]
    if not chosen or not all(isinstance(group, str) and group in known for group in chosen):
        raise ValueError(f"parameters: expected some of {known}, got {parameters!r}")
    return chosen


def choice(name: str, value: object, options: Sequence[str]) -> None:
    """`value` is one of `options`."""
    if not isinstance(value, str) or value not in options:
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
        listed = tuple(_step(t, T) for t in outputs)
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


def _step(t: object, T: int) -> int:
    """A step as an int, a negative one counted from the end; a bool is none."""
    if isinstance(t, bool) or getattr(t, "dtype", None) == torch.bool:
        raise TypeError
    number = operator.index(t)  # type: ignore[arg-type]
    return number + T if number < 0 else number


def network(x: Tensor, recurrent: Tensor, input: Tensor, activation: str, name: str = "x") -> bool:
    """Shapes of one recurrent network or a pack of them; returns whether it is a pack; `name` is that of x."""
    tensor(name, x, (3, 4))
    tensor("recurrent", recurrent, (x.dim() - 1,), like=x)
    tensor("input", input, (x.dim() - 1,), like=x)
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
