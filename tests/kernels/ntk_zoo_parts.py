"""What the modules of the zoo are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpr_kernels import ntk_plan


class Own(nn.Module):
    """A module of some parts and of a function of them and the input."""

    def __init__(self, forward: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[-1] ** 0.5)


def sequence(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


class Case(NamedTuple):
    """A module, the shape of an input, and the parameters that are differentiated directly."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    direct: tuple[str, ...] = ()
    # Size of the vocabulary if inputs are tokens.
    tokens: int = 0
    # Torch.func has no rule for a part of it.
    fused: bool = False


def kinds(module: nn.Module, x: Tensor) -> dict[str, str]:
    """Return what `ntk_plan` says of each parameter in one word."""
    return {name: one.kind for name, one in ntk_plan(module, x).parameters.items()}
