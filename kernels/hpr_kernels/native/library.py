"""The C kernels as they were built for this CPU.

The installation compiles `kernels.c` once per instruction set and type. Where it had no compiler, or does not know the
CPU, `obstacle()` says so and torch serves. Calls go through ctypes, which releases the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

# Overrides the instruction set; one that this CPU lacks ends the process, so this is for tests.
VARIABLE = "HPR_KERNELS_ISA"
TYPES = {torch.float32: "float", torch.float64: "double"}
# The code for CPUs without fused multiply-adds computes them one by one, so torch is faster.
SLOW = "baseline"


@cache
def library() -> ctypes.CDLL | None:
    """The shared library; None where the installation has built none."""
    found = sorted(Path(__file__).parent.glob("_kernels*.so"))
    try:
        return ctypes.CDLL(str(found[0]))
    except (IndexError, OSError):
        return None


@cache
def isa() -> str:
    """The instruction set that serves this CPU: avx512, avx2, neon or baseline; HPR_KERNELS_ISA names another one."""
    loaded = library()
    if loaded is None:
        raise RuntimeError("hpr_kernels.native: expected an installation with C kernels, got none")
    loaded.native_isa.restype = ctypes.c_char_p
    name = os.environ.get(VARIABLE) or loaded.native_isa().decode()
    if not hasattr(loaded, f"gram_{name}_float"):
        raise RuntimeError(f"{VARIABLE}: expected an instruction set of this build, got {name}")
    return name


@cache
def obstacle() -> str:
    """The reason why the C kernels do not serve the CPU; empty where they do."""
    if library() is None:
        return "the installation has built no C kernels"
    if isa() == SLOW:
        return "the CPU has no fused multiply-adds that the C kernels know"
    return ""


@cache
def function(name: str, dtype: torch.dtype) -> Any:
    """The C function `name` for numbers of `dtype`; it takes ints as int64 and returns an int."""
    return getattr(library(), f"{name}_{isa()}_{TYPES[dtype]}")


def served_by() -> str:
    """Which implementation serves tensors of fp32 and fp64 on the CPU, in a few words."""
    return f"torch; {obstacle()}" if obstacle() else f"C kernels for {isa()}"
