"""Which implementation serves a tensor, and how its products round.

The environment variable HPR_KERNELS_BACKEND names the implementation:

- `auto` (default): Triton kernels for tensors on CUDA, torch for all others. Where the kernels cannot run (Triton is
  missing or too old, or the card is), torch serves CUDA as well, and a warning says so once;
- `torch`: torch everywhere;
- `interpret`: Triton kernels for every tensor, run by Triton's interpreter on the CPU. Set it before Python starts:
  Triton settles when it is first imported whether its kernels are to be compiled or interpreted.

Triton is imported when a kernel is first needed, never by `import hpr_kernels`.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from functools import cache

import torch
from torch import Tensor

from hpr_kernels import checks

VARIABLE = "HPR_KERNELS_BACKEND"
BACKENDS = ("auto", "torch", "interpret")

# How a product of fp32 numbers is made: on the ordinary units, or on tensor cores from three TF32 products (all but the
# last bits of fp32) or one (10-bit mantissas).
PRECISIONS = checks.PRECISIONS
DEFAULT_PRECISION: checks.Precision = "tf32x3"

# The oldest Triton that has what the kernels use, and the newest that they were tested with.
OLDEST_TRITON = (3, 6)
NEWEST_TRITON = (3, 9)
# The oldest compute capability that the kernels were compiled for: its tensor cores are the first with TF32.
OLDEST_CAPABILITY = (8, 0)


def backend() -> str:
    """The implementation that the environment asks for.

    Raises:
        ValueError: HPR_KERNELS_BACKEND is none of `BACKENDS`.
    """
    name = os.environ.get(VARIABLE, "auto")
    checks.choice(VARIABLE, name, BACKENDS)
    return name


def uses_triton(tensor: Tensor) -> bool:
    """Whether Triton kernels serve `tensor`; they are written for fp32, and torch serves every other dtype.

    Raises:
        RuntimeError: the interpreter is asked for in a process that has set up Triton to compile.
    """
    name = backend()
    if name == "torch" or tensor.dtype != torch.float32:
        return False
    if name == "interpret":
        _set_up_interpreter()
        return True
    return tensor.is_cuda and _triton_runs(tensor.device.index or 0)


@cache
def _triton_runs(device: int) -> bool:
    """Whether the kernels run on a CUDA device. Where torch takes their place, one warning a device says why."""
    obstacle = _obstacle(device)
    if obstacle:
        warnings.warn(f"hpr_kernels: torch serves CUDA: {obstacle}", RuntimeWarning, stacklevel=3)
    return not obstacle


def _obstacle(device: int) -> str:
    """What keeps the kernels from running on a CUDA device; empty where nothing does."""
    oldest, newest = (".".join(map(str, release)) for release in (OLDEST_TRITON, NEWEST_TRITON))
    try:
        import triton

        installed = str(triton.__version__)
    # A broken install can fail in any way.
    except Exception as error:
        return f"expected Triton {oldest} or later, got {' '.join(str(error).split())}"
    release = tuple(int(number) for number in re.findall(r"\d+", installed)[:2])
    if release < OLDEST_TRITON:
        return f"expected Triton {oldest} or later, got {installed}"
    if release > NEWEST_TRITON:
        warnings.warn(
            f"hpr_kernels: expected Triton {oldest} to {newest}, which the kernels were tested with, "
            f"got {installed}",
            RuntimeWarning,
            stacklevel=4,
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        expected, got = ("{}.{}".format(*numbers) for numbers in (OLDEST_CAPABILITY, capability))
        return f"expected a card of compute capability {expected} or later, got {got}"
    return ""


def check_precision(precision: str) -> None:
    """`precision` is one of `PRECISIONS`; anything else is a ValueError."""
    checks.choice("precision", precision, PRECISIONS)


def launch_options(num_warps: int, num_stages: int) -> dict[str, int | bool]:
    """Options of every launch: `kernel[grid](…, **launch_options(4, 3))`.

    Triton's default for contracting a product and a sum into one rounding changes between its releases, so it is named.
    """
    return {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}


def _set_up_interpreter() -> None:
    """Turn Triton's interpreter on, which must come before Triton is imported."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    if "triton" in sys.modules:
        raise RuntimeError(
            f"{VARIABLE}: expected interpret to be set before triton is imported, got it after"
        )
    os.environ["TRITON_INTERPRET"] = "1"


if os.environ.get(VARIABLE) == "interpret":
    _set_up_interpreter()
