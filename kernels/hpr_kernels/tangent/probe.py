"""Checks, on a copy of a module, that its outputs are a function of each example alone."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hpr_kernels import checks
from hpr_kernels.tangent.views import unwrapped


def twin(module: nn.Module) -> nn.Module:
    """A copy, so that a forward pass changes no state of the module: counters, running means, caches, weights.

    Raises:
        ValueError: it can't be copied.
    """
    # An attribute that a forward pass wrote may belong to a graph. Torch refuses to copy such a tensor.
    memo = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in _tensors(vars(part))
        if not value.is_leaf
    }
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise ValueError(
            f"module: expected one that copy.deepcopy copies, got {told(error)}"
        ) from error


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among the items of dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def plain(x: Tensor) -> Tensor:
    """The same numbers without a graph; a copy if x was made in inference mode, which autograd does not accept."""
    return x.clone() if x.is_inference() else x.detach()


def run_module(module: nn.Module, name: str, x: Tensor) -> Tensor:
    """The outputs [B, …] of a batch, checked; `name` is that of x.

    Raises:
        ValueError, TypeError: the module fails on x, or its result is not a batch of outputs.
    """
    given = f"{name} of shape {list(x.shape)} and {x.dtype}"
    try:
        y = module(x)
    except torch.OutOfMemoryError:
        raise
    # A module can fail in any way.
    except Exception as error:
        raise ValueError(f"module: expected one that takes {given}, got {told(error)}") from error
    if not isinstance(y, Tensor):
        raise TypeError(
            f"module: expected a tensor as its result, got {type(y).__name__}; "
            "wrap it in a module that returns one of its parts"
        )
    if y.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"module: expected outputs of float32 or float64, got {y.dtype}")
    if y.dim() == 0 or len(y) != len(x):
        raise ValueError(
            f"module: expected outputs [{len(x)}, …], a row an example of {given}, got {list(y.shape)}; "
            "examples come first (batch_first=True in torch's recurrent layers)"
        )
    if not y.numel():
        raise ValueError(f"module: expected an output per example, got outputs {list(y.shape)}")
    checks.finite("outputs of the module", y)
    return y


def depends_on_more(part: nn.Module) -> bool:
    """Whether a submodule is known to draw random numbers or to mix examples: dropout and batch norm in training."""
    drops = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
    return part.training and (drops or isinstance(part, nn.modules.batchnorm._BatchNorm))


def check(module: nn.Module, x: Tensor, original: nn.Module) -> None:
    """Refuse a module whose outputs are not a function of each example and its own parameters alone; x [B, …].

    Args:
        module: a copy of `original`.
        x: a batch, of which one or two examples are run.
        original: the module of the caller.

    Raises:
        ValueError, TypeError: it draws random numbers, changes its buffers, gives other outputs when it is called
            again, mixes examples, or reads a parameter of the original; the submodule, buffer or parameter is named.
    """
    for name, part in module.named_modules():
        if depends_on_more(part):
            raise ValueError(
                f"module: expected each example on its own, got {type(part).__name__} "
                f"{name!r} in training mode; call module.eval()"
            )
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    drawing: list[str] = []
    with _watched(module, drawing), Strangers(original) as strangers:
        few = run_module(module, "x1", x[:2])
    strangers.refuse()
    if drawing:
        raise ValueError(
            f"module: expected no random numbers, got some drawn by {drawing[0]}; "
            "call module.eval() if they are for dropout"
        )
    for name, buffer in module.named_buffers():
        if name not in before or not torch.equal(buffer, before[name]):
            raise ValueError(
                f"module: expected one that keeps its state, got another buffer {name!r} after a call; "
                "call module.eval()"
            )
    # Products round differently in another batch, which shows in outputs near zero among large ones.
    size = max(1.0, float(few.abs().max()))
    again = run_module(module, "x1", x[:2])
    if not torch.allclose(few, again, 1e-4, 1e-6 * size):
        raise ValueError(
            "module: expected a function of its input, got other outputs when it was called again"
        )
    alone = torch.cat([run_module(module, "x1", example[None]) for example in x[:2]])
    if alone.shape != few.shape or not torch.allclose(few, alone, 1e-3, 1e-5 * size):
        raise ValueError(
            "module: expected each example on its own, got other outputs in a batch of two; "
            "a recurrent layer needs batch_first=True"
        )


class Witness:
    """The gradients of a module by autograd at one example, with which those by substituted parameters are compared.

    If the module reads a parameter elsewhere than where it is registered, autograd finds a gradient and `torch.func`
    does not, because it substitutes a tensor only in the registered place.

    Args:
        module: a copy that is nobody else's.
        x: an example.

    Attributes:
        along: the direction in the space of the outputs, [O], along which the gradients are.
        known: the gradients that were not compared so far, None for those that autograd does not find.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        # All parameters give the size of a gradient, because that by a bias before a norm is all rounding.
        held = {
            name: value for name, value in module.named_parameters() if value.is_floating_point()
        }
        # In evaluation mode cuDNN's recurrent layers have no gradient.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not x.is_cuda):
            for parameter in held.values():
                parameter.requires_grad_()
            y = module(x[None]).flatten()
            # A direction that weights all outputs and needs no random numbers.
            self.along = torch.arange(1, len(y) + 1, dtype=y.dtype, device=y.device).cos()
            found: Sequence[Tensor | None] = [None] * len(held)
            if y.requires_grad:
                found = torch.autograd.grad(y, list(held.values()), self.along, allow_unused=True)
        self.known: dict[str, Tensor | None] = dict(zip(held, found, strict=True))
        self.size = sum(float(value.norm()) ** 2 for value in found if value is not None) ** 0.5

    def check(self, gradients: dict[str, Tensor]) -> None:
        """Compare gradients along the direction, by parameter.

        Raises:
            ValueError: naming a parameter with another gradient.
        """
        for name, value in gradients.items():
            known = self.known.pop(name)
            # `torch.dist` makes no copy of a large weight.
            error = (
                value.norm() if known is None else torch.dist(value.detach().to(known.dtype), known)
            )
            # A NaN passes here; the check of the kernel names it.
            if float(error) > 1e-3 * self.size:
                raise ValueError(
                    f"module: expected {name!r} to be read where it is registered, "
                    "got another gradient by torch.func"
                )


class Strangers(TorchFunctionMode):
    """Lists the parameters of `original` that an operation takes, which a copy of the module should not have."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.names = {_memory(value): name for name, value in original.named_parameters()}
        self.read: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # fmt: skip
        for value in _tensors([*args, *(kwargs or {}).values()]):
            if value.numel() and _memory(value) in self.names:
                self.read.append(self.names[_memory(value)])
        return func(*args, **(kwargs or {}))

    def refuse(self) -> None:
        """Raise a ValueError that names the first such parameter, if there was one."""
        if self.read:
            raise ValueError(
                f"module: expected {self.read[0]!r} to be read where it is registered, "
                "got another object that holds it, such as a function, which copy.deepcopy does not copy"
            )


def _memory(value: Tensor) -> int:
    """The place of a tensor's memory; 0 for one that has none, as sparse tensors."""
    value = unwrapped(value)
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else 0


@contextmanager
def _watched(module: nn.Module, drawing: list[str]) -> Iterator[None]:
    """Append to `drawing` the innermost submodules that draw random numbers."""
    states: list[list[Any]] = []

    def enter(part: nn.Module, inputs: Any) -> None:
        states.append([random_state(), False])

    def leave(part: nn.Module, inputs: Any, outputs: Any, name: str) -> None:
        state, inner = states.pop()
        if not same(state, random_state()):
            if not inner:
                drawing.append(f"{type(part).__name__} {name!r}" if name else type(part).__name__)
            for outer in states:
                outer[1] = True

    def named(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda part, inputs, outputs: leave(part, inputs, outputs, name)

    handles = []
    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(enter))
        handles.append(part.register_forward_hook(named(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Restore the generators that a module may draw from on exit: those of torch, Python and NumPy."""
    state = random_state()
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        if state[2] is not None:
            sys.modules["numpy"].random.set_state(state[2])
        for device, of_card in enumerate(state[3]):
            torch.cuda.set_rng_state(of_card, device)


def random_state() -> tuple[Tensor, Any, Any, list[Tensor]]:
    """The states of the global generators: of torch, Python, NumPy if it is loaded, and each card."""
    numpy = sys.modules.get("numpy")
    # A card is asked only if something has initialised CUDA.
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return (
        torch.get_rng_state(),
        random.getstate(),
        numpy.random.get_state(legacy=False) if numpy is not None else None,
        cards,
    )


def same(one: Any, other: Any) -> bool:
    """Whether two states of the generators are equal."""
    # Python's own state is a tuple of hundreds of numbers, which compare fastest as one.
    if isinstance(one, tuple) and set(map(type, one)) <= {int}:
        return bool(one == other)
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    equal = one == other
    return bool(equal.all() if hasattr(equal, "all") else equal)


def told(error: Exception) -> str:
    """An error of another library in one line of at most 200 characters after its type."""
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line if len(line) <= 200 else line[:197] + '...'}"
