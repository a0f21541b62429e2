"""Which implementation serves a tensor, and how its products round.

The environment variable HPR_KERNELS_BACKEND names the implementation:

- `auto` (default): Triton kernels serve tensors on CUDA, C kernels serve those on the CPU, torch serves all others and
  what no kernel does. Where the Triton kernels cannot run (Triton is missing or too old, or the card is too old), torch
  serves CUDA as well, and one warning says so. Where the installation has no C kernels, torch serves the CPU;
- `native`: as `auto`, but an installation without C kernels is an error;
- `triton`: as `auto`, but a tensor on CUDA that the kernels cannot serve is an error;
- `torch`: torch serves every tensor;
- `interpret`: Triton kernels serve every tensor of fp32, run by Triton's interpreter on the CPU. Set the variable
  before Python starts: Triton decides at its first import whether it compiles or interprets kernels.

The first call that needs a kernel imports Triton; `import hpr_kernels` does not.
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
from hpr_kernels.native import library

VARIABLE = "HPR_KERNELS_BACKEND"
BACKENDS = ("auto", "native", "triton", "torch", "interpret")

# How a product of fp32 numbers is computed: on the ordinary units ("ieee"), or on tensor cores from three TF32 products
# ("tf32x3", which keeps all but the last bits of fp32) or from one ("tf32", with mantissas of 10 bits).
PRECISIONS = checks.PRECISIONS
DEFAULT_PRECISION: checks.Precision = "tf32x3"

# The oldest Triton that has the functions which the kernels use, and the newest that they were tested with.
OLDEST_TRITON = (3, 6)
NEWEST_TRITON = (3, 9)
# The oldest compute capability that the kernels were compiled for, and the first whose tensor cores have TF32.
OLDEST_CAPABILITY = (8, 0)


def backend() -> str:
    """The implementation that HPR_KERNELS_BACKEND names.

    Raises:
        ValueError: HPR_KERNELS_BACKEND is none of `BACKENDS`.
    """
    name = os.environ.get(VARIABLE, "auto")
    checks.choice(VARIABLE, name, BACKENDS)
    return name


def uses_triton(tensor: Tensor) -> bool:
    """Whether Triton kernels serve `tensor`. They are written for fp32; torch serves every other dtype.

    Raises:
        RuntimeError: the variable names the interpreter in a process that has imported Triton to compile.
    """
    name = backend()
    if name == "torch" or tensor.dtype != torch.float32:
        return False
    if name == "interpret":
        _set_up_interpreter()
        return True
    return tensor.is_cuda and _triton_runs(tensor.device.index or 0)


def uses_native(tensor: Tensor) -> bool:
    """Whether the C kernels serve `tensor`. They are written for fp32 and fp64 on the CPU.

    Raises:
        RuntimeError: the variable names them, and this installation has none for this CPU.
    """
    name = backend()
    if name not in ("auto", "native", "triton") or tensor.device.type != "cpu":
        return False
    if tensor.dtype not in library.TYPES:
        return False
    if name == "native" and library.obstacle():
        raise RuntimeError(f"{VARIABLE}: expected C kernels, got none: {library.obstacle()}")
    return not library.obstacle()


@cache
def _triton_runs(device: int) -> bool:
    """Whether the kernels run on a CUDA device. Where they do not, one warning per device says why."""
    obstacle = _obstacle(device)
    if obstacle and backend() == "triton":
        raise RuntimeError(f"{VARIABLE}: expected Triton kernels on CUDA, got none: {obstacle}")
    if obstacle:
        warnings.warn(f"hpr_kernels: torch serves CUDA: {obstacle}", RuntimeWarning, stacklevel=3)
    return not obstacle


def _obstacle(device: int) -> str:
    """The reason why the kernels cannot run on a CUDA device; empty where they can."""
    oldest, newest = (".".join(map(str, release)) for release in (OLDEST_TRITON, NEWEST_TRITON))
    try:
        import triton

        installed = str(triton.__version__)
    # A broken installation can raise any exception.
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
    """Raise a ValueError unless `precision` is one of `PRECISIONS`."""
    checks.choice("precision", precision, PRECISIONS)


def launch_options(
    num_warps: int, num_stages: int, maxnreg: int | None = None
) -> dict[str, int | bool]:
    """Options of every launch: `kernel[grid](…, **launch_options(4, 3))`.

    With `maxnreg` the assembler takes up to that many registers, rather than spill to run more blocks at a time.
    Releases of Triton differ in whether a product and a sum are fused into one rounding by default, so it is set here.
    """
    options: dict[str, int | bool] = {
        "num_warps": num_warps,
        "num_stages": num_stages,
        "enable_fp_fusion": True,
    }
    return options if maxnreg is None else {**options, "maxnreg": maxnreg}


def _set_up_interpreter() -> None:
    """Turn Triton's interpreter on, before Triton is imported."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    if "triton" in sys.modules:
        raise RuntimeError(
            f"{VARIABLE}: expected interpret to be set before triton is imported, got it after"
        )
    os.environ["TRITON_INTERPRET"] = "1"


if os.environ.get(VARIABLE) == "interpret":
    _set_up_interpreter()
