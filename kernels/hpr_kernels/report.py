"""`python -m hpr_kernels.report`: what serves the CPU, and a table of all Triton kernels.

A row is one kernel at the paper's sizes, for one network, compiled for a card that this machine need not have. All
numbers are read from the compiled program or computed; none is measured. The floor is the least time that an H100 SXM5
needs, the larger of FLOPs over its peak and bytes over its memory's bandwidth, both from NVIDIA's "H100 Tensor Core
GPU" datasheet (without sparsity).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import hpr_kernels
from hpr_kernels.native import library

if TYPE_CHECKING:
    from hpr_kernels.compiled import Compiled, Specimen

# H100 SXM5: FLOP/s by precision (tf32x3 computes three products for each one) and bytes/s of HBM3.
PEAK = {"ieee": 66.9e12, "tf32": 494.7e12, "tf32x3": 494.7e12 / 3}
BANDWIDTH = 3.35e12

COLUMNS = (
    "kernel",
    "target",
    "tile",
    "registers",
    "shared, B",
    "spills",
    "tensor / FFMA / load 128, 64, 32 bit / store",
    "FLOP",
    "bytes",
    "FLOP/byte",
    "bound",
    "floor on H100, µs, computed",
)


def specimens() -> list[Specimen]:
    """The launches that the `triton` modules of the operations list, in alphabetical order of the operations."""
    found: list[Specimen] = []
    for package in pkgutil.iter_modules(hpr_kernels.__path__, "hpr_kernels."):
        if package.ispkg and importlib.util.find_spec(f"{package.name}.triton"):
            found += importlib.import_module(f"{package.name}.triton").specimens()
    return found


def floor(specimen: Specimen) -> tuple[float, str]:
    """The least seconds that an H100 needs for the specimen's work, and the bound: "compute" or "memory"."""
    # A kernel without products has no precision and no FLOPs.
    compute = specimen.flops / PEAK[specimen.arguments.get("PRECISION", "ieee")]
    memory = specimen.bytes / BANDWIDTH
    return max(compute, memory), "compute" if compute > memory else "memory"


def cells(specimen: Specimen, compiled: Compiled) -> tuple[str, ...]:
    """The cells of one row, in the order of `COLUMNS`."""
    seconds, bound = floor(specimen)
    tile = [v for k, v in specimen.arguments.items() if k.startswith(("TILE", "BLOCK"))]
    loads = compiled.global_loads()
    mix = (
        str(compiled.tensor_core),
        str(compiled.count(r"FFMA\d?\b")),
        ", ".join(str(loads.get(width, 0)) for width in (128, 64, 32)),
        str(compiled.count(r"STG\b")),
    )
    return (
        specimen.name,
        f"{compiled.capability / 10:.1f}",
        f"{' x '.join(map(str, tile))}, {specimen.num_warps} warps",
        str(compiled.registers),
        str(compiled.shared),
        str(compiled.spills),
        " / ".join(mix),
        f"{specimen.flops:.3g}",
        f"{specimen.bytes:.3g}",
        f"{specimen.flops / specimen.bytes:.1f}",
        bound,
        f"{seconds * 1e6:.2f}",
    )


def rows(listed: list[Specimen]) -> Iterator[tuple[str, ...]]:
    """A row per specimen and target; each is compiled when the iterator reaches it."""
    from hpr_kernels.compiled import CAPABILITIES, compile_for

    for specimen in listed:
        for capability in CAPABILITIES:
            yield cells(specimen, compile_for(specimen, capability))


def main(argv: Sequence[str] | None = None) -> int:
    """Print what serves the CPU and, without `--cpu`, the table.

    Returns 0; 1, with one line of error, if Triton cannot compile; 141 if the pipe was closed.
    """
    parser = argparse.ArgumentParser(
        prog="hpr_kernels.report",
        description="Say what serves the CPU, then compile all Triton kernels for three cards, which takes a minute, "
        "and print a table of them. No card is needed.",
    )
    parser.add_argument("--cpu", action="store_true", help="say what serves the CPU, and no more")
    only_cpu = parser.parse_args(argv).cpu
    for stream in (sys.stdout, sys.stderr):
        # A stream that is not UTF-8 shows the code of a letter that it cannot encode.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _print(only_cpu)
    except BrokenPipeError:
        # The reader has closed the pipe, as `| head` does. The rest, and the flush at exit, go to the null device.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _print(only_cpu: bool) -> int:
    print(f"CPU: {library.served_by()}", flush=True)
    if only_cpu:
        return 0
    try:
        import triton

        if triton.knobs.runtime.interpret:
            raise RuntimeError("TRITON_INTERPRET is set, so there is nothing to compile")
        listed = specimens()
    except (ImportError, RuntimeError) as error:
        print(f"hpr_kernels.report: expected a Triton that compiles: {error}", file=sys.stderr)
        return 1
    print("", __doc__.split("\n\n", 1)[1], sep="\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    for line in rows(listed):
        print(f"| {' | '.join(line)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
