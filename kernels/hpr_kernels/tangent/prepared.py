"""What the functions of a module's tangent kernel do with their arguments before they compute."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hpr_kernels import checks
from hpr_kernels.checks import Reduction
from hpr_kernels.tangent import probe
from hpr_kernels.tangent.pieces import Side
from hpr_kernels.tangent.split import splits


class Prepared(NamedTuple):
    """A copy of a module that is nobody else's, the names of the parameters, and the inputs, without a graph."""

    twin: nn.Module
    names: list[str]
    x1: Tensor
    x2: Tensor | None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters to differentiate by."""
        available = dict(self.twin.named_parameters())
        return {name: available[name].detach() for name in self.names}


@contextmanager
def prepared(
    module: nn.Module, x1: Tensor, x2: Tensor | None, parameters: Sequence[str] | None
) -> Iterator[Prepared]:
    """Check a module and its inputs, and let the caller differentiate a copy, outside of inference mode.

    Arguments as in `ntk`. On exit the random number generators are as they were on entry. A RuntimeError of the
    caller's block, which torch.func raised for what it can't differentiate, becomes a ValueError that names the module.

    Raises:
        ValueError, TypeError: naming the argument or the submodule that does not fit, or that holds NaN or infinity.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module: expected a torch.nn.Module, got {type(module).__name__}; "
            "a function becomes one as the forward of a module that holds its parameters"
        )
    names = parameter_names(module, parameters)
    _check_batch("x1", x1, None)
    if x2 is not None:
        _check_batch("x2", x2, x1)
    for name, parameter in module.named_parameters():
        if name in names and parameter.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"parameter {name}: expected float32 or float64, got {parameter.dtype}")
        if parameter.is_floating_point():
            checks.finite(f"parameter {name}", parameter.detach())
    with undisturbed():
        x1, x2 = probe.plain(x1), None if x2 is None else probe.plain(x2)
        with torch.no_grad():
            twin = probe.twin(module)
            probe.check(twin, x1, module)
            if x2 is not None:
                probe.run_module(twin, "x2", x2[:1])
        with through_transforms():
            yield Prepared(twin, names, x1, x2)


def sides(found: Prepared, reduce: Reduction) -> tuple[Side, Side | None]:
    """Both sides of a kernel, None for x1 again. Their first rows are checked against autograd.

    Raises:
        ValueError: both sides must have equal outputs and do not.
        RuntimeError: torch does not differentiate the module.
    """
    inputs = [found.x1] if found.x2 is None else [found.x1, found.x2]
    made = splits(found.twin, found.weights, [x[:1] for x in inputs])
    if reduce != "full" and made[0].outputs != made[-1].outputs:
        raise ValueError(
            f"x2: expected {made[0].outputs} outputs per example as of x1 for reduce={reduce!r}, "
            f"got {made[-1].outputs}"
        )
    left, *others = (
        Side(split, x, probe.Witness(found.twin, x[0]))
        for split, x in zip(made, inputs, strict=True)
    )
    return left, others[0] if others else None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run a module outside of inference mode, whose tensors autograd could not use; random numbers are kept."""
    with probe.random_numbers_kept(), torch.inference_mode(False):
        yield


@contextmanager
def through_transforms() -> Iterator[None]:
    """Name the module in a ValueError where the transforms of torch.func fail with a RuntimeError."""
    try:
        with warnings.catch_warnings():
            # Vmap warns of operations that it runs one example at a time, which are slower but exact.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"module: expected one that autograd differentiates, got {probe.told(error)}"
        ) from error


def parameter_names(module: nn.Module, parameters: Sequence[str] | None) -> list[str]:
    """The parameters asked for by name or by pattern, each once."""
    available = dict(module.named_parameters())
    if not available:
        raise ValueError(f"module: expected one with parameters, got {type(module).__name__}")
    if parameters is None:
        parameters = [name for name, parameter in available.items() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                "parameters: expected names, since no parameter requires a gradient, got None"
            )
    listed = isinstance(parameters, Iterable) and not isinstance(parameters, str)
    patterns = list(parameters) if listed else [parameters]
    found = [_matching(pattern, available) for pattern in patterns]
    if not found or not all(found):
        raise ValueError(f"parameters: expected some of {tuple(available)}, got {parameters!r}")
    return list(dict.fromkeys(name for names in found for name in names))


def _matching(pattern: object, available: Iterable[str]) -> list[str]:
    """The parameters that a name or a pattern of the shell stands for."""
    if not isinstance(pattern, str):
        return []
    # A name may have the characters of a pattern itself, as in a `ParameterDict`.
    exact = [name for name in available if name == pattern]
    return exact or [name for name in available if fnmatchcase(name, pattern)]


def _check_batch(name: str, x: Tensor, like: Tensor | None) -> None:
    if not isinstance(x, Tensor):
        hint = "; torch.as_tensor makes one of it" if hasattr(x, "__array__") else ""
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}{hint}")
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"{name}: expected a batch [B, …], none of it empty, got {list(x.shape)}")
    if like is not None and (x.dtype, x.device, x.dim()) != (like.dtype, like.device, like.dim()):
        raise TypeError(
            f"{name}: expected {like.dtype} on {like.device} with {like.dim()} axes, as x1, "
            f"got {x.dtype} on {x.device} with {x.dim()}"
        )
    if x.is_floating_point():
        checks.finite(name, x.detach())
