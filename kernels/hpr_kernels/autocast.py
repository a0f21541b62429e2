"""Autocast stays outside: a kernel's numbers have the dtype of its arguments, whatever the caller's context asks for.

Under `torch.autocast` the products of fp32 numbers would round to 16 bits on the caller's thread, and on no other:
autocast belongs to a thread, and a contraction runs on several.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")

# The kinds of device that torch casts on, as far as kernels may find tensors there.
DEVICES = ("cpu", "cuda", "mps", "xpu")


def outside_autocast(function: Callable[P, Result]) -> Callable[P, Result]:
    """Run `function` with autocast off: every public function, every method and both operators are wrapped in this."""

    @wraps(function)
    def entry(*args: P.args, **kwargs: P.kwargs) -> Result:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                with torch.autocast(device, enabled=False):
                    # Once more, for the other kinds of device; torch.compile knows no stack of contexts.
                    return entry(*args, **kwargs)
        return function(*args, **kwargs)

    return entry
