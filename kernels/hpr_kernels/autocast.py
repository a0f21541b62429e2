"""Functions of this package compute in the dtype of their arguments, whatever `torch.autocast` asks for.

Under autocast the products of fp32 numbers would round to 16 bits on the caller's thread alone: autocast belongs to a
thread, and a contraction runs on several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")

# The device types on which this package may meet tensors and torch may cast.
DEVICES = ("cpu", "cuda", "mps", "xpu")


def outside_autocast(function: Callable[P, Result]) -> Callable[P, Result]:
    """Run `function` with autocast off. All public functions and methods and both operators have this decorator."""

    @wraps(function)
    def entry(*args: P.args, **kwargs: P.kwargs) -> Result:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                with torch.autocast(device, enabled=False):
                    # The recursion covers the other device types; torch.compile does not support an ExitStack.
                    return entry(*args, **kwargs)
        return function(*args, **kwargs)

    return entry
