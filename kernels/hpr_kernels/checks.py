"""Argument checks of the public functions: each error is one line, "argument: expected X, got Y"."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Literal, get_args

import torch
from torch import Tensor

# Each choice that a public function offers, as a type for mypy and as a tuple for the check at run time.
Activation = Literal["relu", "tanh", "linear"]
Precision = Literal["ieee", "tf32x3", "tf32"]
Reduction = Literal["full", "trace", "diagonal"]
Order = Literal["auto", "hadamard", "propagate", "dense"]
Group = Literal["recurrent", "input", "bias", "readout"]
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
    """Check that `value` is a tensor of fp32 or fp64 with one of `dims` axes, of the dtype and on the device of `like`.

    Half precision is refused, because sums of adjoints would overflow in it without an error.
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
    """Check that `value` is a tensor of `dtype`, a dtype of whole numbers, on the device of `like`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if (value.dtype, value.device) != (dtype, like.device):
        raise TypeError(
            f"{name}: expected {dtype} on {like.device}, got {value.dtype} on {value.device}"
        )


def shape(name: str, value: Tensor, expected: tuple[int | None, ...], symbols: str) -> None:
    """Check that `value` has the sizes `expected`, None for any size; `symbols` names the axes in the message."""
    if value.dim() != len(expected) or any(
        size is not None and size != got for size, got in zip(expected, value.shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name}: expected shape {symbols} = [{wanted}], got {list(value.shape)}")


def as_float(value: object) -> float | None:
    """`value` as a float if it is a real number, Python's or NumPy's; None otherwise, also for a bool."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_int(value: object) -> int | None:
    """`value` as an int if it is a whole number, Python's or NumPy's, such as 1e9; None otherwise."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    number = as_float(value)
    return None if number is None or not number.is_integer() else int(number)


def leak(rho: float) -> float:
    """`rho` as a float; it must be in [0, 1)."""
    number = as_float(rho)
    if number is None or not 0 <= number < 1:
        raise ValueError(f"rho: expected a leak factor in [0, 1), got {rho!r}")
    return number


def factor(name: str, value: float) -> float:
    """`value` as a float; it must be finite."""
    number = as_float(value)
    if number is None or not -float("inf") < number < float("inf"):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return number


def count(name: str, value: int, least: int, most: int, meaning: str) -> int:
    """`value` as an int; it must be in least … most. `meaning` is the expectation as the message words it."""
    number = as_int(value)
    if number is None or not least <= number <= most:
        raise ValueError(f"{name}: expected {meaning}, got {value!r}")
    return number


def budget(memory_budget: int) -> int:
    """`memory_budget` as an int; it must be a whole number of bytes, at least 1."""
    number = as_int(memory_budget)
    if number is None or number < 1:
        raise ValueError(
            f"memory_budget: expected a whole number of bytes, at least 1, got {memory_budget!r}"
        )
    return number


class BudgetTooSmallError(ValueError):
    """The numbers that must be in memory at once take `least` bytes, more than the memory budget."""

    def __init__(self, least: int, got: int) -> None:
        super().__init__(f"memory_budget: expected at least {least} bytes, got {got}")
        self.least = least


def flag(name: str, value: bool) -> bool:
    """`value` as a bool; it must be Python's or NumPy's True or False."""
    if not _is_bool(value):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def _is_bool(value: object) -> bool:
    """Whether `value` is a bool of Python or NumPy, which is not imported here."""
    kind = type(value)
    # The class is named `bool_` before NumPy 2, and `bool` since.
    numpys = kind.__module__ == "numpy" and kind.__name__ in ("bool_", "bool")
    return isinstance(value, bool) or numpys


def groups(parameters: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The parameter groups asked for, one or several of `known`; None stands for all of them."""
    if parameters is None:
        return known
    listed = isinstance(parameters, Iterable) and not isinstance(parameters, str)
    chosen: tuple[str, ...] = tuple(parameters) if listed else (parameters,)  # type: ignore[assignment]
    if not chosen or not all(isinstance(group, str) and group in known for group in chosen):
        raise ValueError(f"parameters: expected some of {known}, got {parameters!r}")
    return chosen


def choice(name: str, value: object, options: Sequence[str]) -> None:
    """Check that `value` is one of `options`."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}: expected one of {tuple(options)}, got {value!r}")


def finite(name: str, value: Tensor) -> None:
    """Check that `value` holds no NaN and no infinity, from which a kernel would be wrong without an error."""
    if value.numel() == 0:
        return
    # One pass without a temporary finds both: a NaN anywhere makes the minimum and the maximum NaN.
    least, most = torch.aminmax(value)
    if not bool(least.isfinite() & most.isfinite()):
        bad = int((~torch.isfinite(value)).sum())
        raise NonFinite(f"{name}: expected finite numbers, got {bad} NaN or infinite")


def steps(outputs: Outputs, T: int) -> tuple[int, ...]:
    """The steps that `outputs` names ("all", "last" or a list), as an ascending tuple in 0 … T-1."""
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
    """Step `t` as an int, where a negative step counts from the end; a bool is a TypeError."""
    if _is_bool(t) or getattr(t, "dtype", None) == torch.bool:
        raise TypeError
    number = operator.index(t)  # type: ignore[arg-type]
    return number + T if number < 0 else number


def network(
    x: Tensor,
    recurrent: Tensor,
    input: Tensor,
    activation: str,
    bias: Tensor | None = None,
    name: str = "x",
) -> bool:
    """Check one recurrent network or a pack of them, and return whether it is a pack; `name` is the argument of x."""
    tensor(name, x, (3, 4))
    tensor("recurrent", recurrent, (x.dim() - 1,), like=x)
    tensor("input", input, (x.dim() - 1,), like=x)
    choice("activation", activation, ACTIVATIONS)
    *pack, N, _ = recurrent.shape
    symbol = "R, " if pack else ""
    shape("recurrent", recurrent, (*pack, N, N), f"[{symbol}N, N]")
    shape("input", input, (*pack, N, x.shape[-1]), f"[{symbol}N, N_in]")
    if bias is not None:
        tensor("bias", bias, (x.dim() - 2,), like=x)
        shape("bias", bias, (*pack, N), f"[{symbol}N]")
    if pack and x.shape[0] not in (1, *pack):
        raise ValueError(f"{name}: expected a leading axis of 1 or R = {pack[0]}, got {x.shape[0]}")
    if min(x.shape) < 1 or N < 1:
        raise ValueError(f"{name}: expected no empty axis, got shape {tuple(x.shape)} and N = {N}")
    return bool(pack)
