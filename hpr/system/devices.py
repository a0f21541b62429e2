"""The device to train on and its expected speed. PyTorch is imported only if the machine can have a CUDA card.

`import torch` takes seconds, and so does `import hpr_kernels`, because it imports torch. A dry run and `--list` need
only two small modules, `torch/version.py` and `hpr_kernels/cores.py`, which import nothing from their packages.
`_alone` loads such a module from its file.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
# Training speed on a card as a share of the rate of fp32 matrix products alone. It serves time estimates only.
EFFICIENCY = 0.6
# Training speed on a processor, per thread, as a share of the rate of the NumPy products that `_core_rate` measures.
# PyTorch's batched products of [300, 300] by [300, 64] are 1.5 times as fast as NumPy's of [60, 60] by [60, 60]: 87 and
# 58 GFLOP/s on one core of an AMD EPYC (Zen 4), measured in alternation in one process (ratio 1.49 to 1.52 in 15
# repetitions; 1.49 with two threads). Training reaches EFFICIENCY of the former.
PROCESSOR_EFFICIENCY = 1.5 * EFFICIENCY


@dataclass(frozen=True)
class Device:
    """The type and index of a `torch.device`, for code that plans without importing torch."""

    type: str
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


def choose_device(name: str) -> Device:
    """The device of a name: "cpu", "cuda", "cuda:N", or "auto" for CUDA if there is a card and the CPU otherwise.

    Raises:
        ValueError: the name is not one of these, or this machine lacks the device.
    """
    found = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d{1,4})", name, re.ASCII)
    if found is None:
        raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {name!r}")
    if name == "cpu":
        return Device("cpu")
    present = _cards()
    if name == "auto":
        return Device("cuda" if present else "cpu")
    if not present:
        raise ValueError(
            f"{name}: PyTorch {_torch()[0]} sees no CUDA device; "
            "install a CUDA build and check that nvidia-smi lists the card, or use cpu"
        )
    index = None if found[2] is None else int(found[2])
    if (index or 0) >= present:
        raise ValueError(f"{name}: expected cuda:0 to cuda:{present - 1}")
    return Device("cuda", index)


@functools.cache
def training_rate(device: Device) -> float:
    """FLOP/s that training is expected to reach, from a measurement of 0.05 s on this machine."""
    if device.type == "cuda":
        return EFFICIENCY * _card_rate(device)
    return PROCESSOR_EFFICIENCY * _threads() * _core_rate()


def _cards() -> int:
    """The number of CUDA devices that PyTorch sees. PyTorch is imported only if there can be any."""
    if not may_have_card():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def may_have_card() -> bool:
    """Whether PyTorch is a CUDA build and CUDA's driver library loads."""
    _, cuda = _torch()
    if cuda is None:
        return False
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def _torch() -> tuple[str, str | None]:
    """The versions of the installed PyTorch and of its CUDA (None: a build without CUDA), from torch/version.py."""
    version = _alone("torch", "version")
    return ("(not installed)", None) if version is None else (version.__version__, version.cuda)


def _alone(package: str, module: str) -> Any:
    """Load `package`/`module`.py by its path, without importing `package`; None if the package is not installed.

    A usual import would run the package's `__init__`, which imports torch. The module itself must import nothing of its
    package.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    where = Path(found.origin).with_name(f"{module}.py")
    spec = importlib.util.spec_from_file_location(f"_{package}_{module}", where)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _threads() -> int:
    """The number of threads that training uses: OMP_NUM_THREADS, but no more than the processors of this process.

    Without OMP_NUM_THREADS, training uses one thread per physical core.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    here = cores()
    if re.fullmatch(r"[1-9]\d{0,3}", asked, re.ASCII):
        return min(int(asked), here)
    # With simultaneous multithreading, two of the counted processors share a core.
    try:
        twofold = Path("/sys/devices/system/cpu/smt/active").read_text(encoding="ascii") == "1\n"
    except OSError:
        twofold = False
    return max(1, here // 2) if twofold else here


def cores() -> int:
    """Cores that this process may keep busy (`hpr_kernels.cores`)."""
    return int(_alone("hpr_kernels", "cores").available_cores())


def _core_rate() -> float:
    """FLOP/s of one core in NumPy's batched fp32 products. They are so small that NumPy's BLAS uses one thread."""
    import numpy as np

    a = np.ones((64, 60, 60), np.float32)
    return _rate(lambda: a @ a, 2.0 * 64 * 60**3)


def _card_rate(device: Device) -> float:
    """FLOP/s of a card in batched fp32 products of about the shapes of training."""
    import torch

    a = torch.ones(8, 300, 300, device=str(device))
    b = torch.ones(8, 300, 64, device=str(device))

    def products() -> None:
        for _ in range(100):
            torch.bmm(a, b)
        torch.cuda.synchronize(str(device))

    return _rate(products, 100 * 2.0 * 8 * 300 * 300 * 64)


def _rate(work: Callable[[], object], flops: float) -> float:
    """FLOP/s of the fastest repetition within 0.05 s; other processes slow the others down."""
    work()
    best, end = float("inf"), time.perf_counter() + 0.05
    while True:
        started = time.perf_counter()
        if started > end and best < float("inf"):
            return flops / best
        work()
        best = min(best, time.perf_counter() - started)


def use_own_cores() -> None:
    """Let torch use no more threads than this process has cores.

    Torch counts the cores that the scheduler gives, and not a container's quota of them. The setting holds for the
    whole process, so programs make it, and the training of a pack does not.
    """
    import torch

    from hpr_kernels.internal import available_cores

    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch uses one thread: small products are faster so, and round alike on any number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
