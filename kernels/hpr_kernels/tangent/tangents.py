"""Derivatives of a module's outputs along a direction v in its parameters, J v, in three ways; the first is fastest.

Each way takes the module as a function of its parameters, the parameters, inputs x [b, …], and v by parameter. It gives
J v in the shape of the outputs. The first two compute attention by torch's plain operations, because its fused ones
have neither rules for forward mode nor second derivatives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpr_kernels.tangent.uses import Substituted

Weights = dict[str, Tensor]


def by_forward_mode(call: Substituted, weights: Weights, x: Tensor, v: Weights) -> Tensor:
    """One forward pass with tangents.

    Raises:
        RuntimeError: an operation has no rule for it, or the module turns gradients off, which forward mode ignores.
    """

    def run(weights: Weights) -> Tensor:
        with _Watch() as watch:
            y = call(weights, x)
        if watch.off:
            raise RuntimeError("the module turns gradients off")
        return y

    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # Torch warns of what its own rules for forward mode are written with.
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        differentiated: Any = torch.func.jvp(run, (weights,), (v,))
    return differentiated[1]


def by_reverse_mode_twice(call: Substituted, weights: Weights, x: Tensor, v: Weights) -> Tensor:
    """The gradient by u of ⟨Jᵀ u, v⟩, which is linear in u.

    Raises:
        RuntimeError: an operation has no second derivative.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        y, held = _run(call, weights, x)
        if not y.requires_grad:
            return torch.zeros_like(y)
        u = torch.zeros_like(y, requires_grad=True)
        pulled = torch.autograd.grad(
            y, list(held.values()), u, create_graph=True, allow_unused=True
        )
        return torch.autograd.grad(_inner(pulled, v.values()), u)[0]


def by_every_output(call: Substituted, weights: Weights, x: Tensor, v: Weights) -> Tensor:
    """The inner product of v and the gradient of each output, as many backward passes as outputs."""
    with torch.enable_grad():
        y, held = _run(call, weights, x)
        if not y.requires_grad:
            return torch.zeros_like(y)
        rows = []
        for one in y.flatten():
            gradients = torch.autograd.grad(
                one, list(held.values()), retain_graph=True, allow_unused=True
            )
            rows.append(_inner(gradients, v.values()).detach())
        return torch.stack(rows).view(y.shape)


WAYS: tuple[Callable[[Substituted, Weights, Tensor, Weights], Tensor], ...] = (
    by_forward_mode,
    by_reverse_mode_twice,
    by_every_output,
)


def _run(call: Substituted, weights: Weights, x: Tensor) -> tuple[Tensor, Weights]:
    held = {name: value.requires_grad_() for name, value in weights.items()}
    return call(held, x), held


def _inner(gradients: Sequence[Tensor | None], v: Any) -> Tensor:
    products = [(g * w).sum() for g, w in zip(gradients, v, strict=True) if g is not None]
    return torch.stack(products).sum()


class _Watch(TorchFunctionMode):
    """Sees whether a module turns gradients off while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.off = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.off = self.off or not torch.is_grad_enabled()
        return func(*args, **(kwargs or {}))


class AllocatedBytes(TorchDispatchMode):
    """While active, counts the bytes of the results of all operations but views, an upper bound of their memory."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {_place(value) for value in tree_leaves((args, kwargs)) if _strided(value)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if _strided(value) and _place(value) not in given:
                self.total += value.numel() * value.element_size()
        return result


def _strided(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _place(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
