"""Launches of a program over a grid, and of Triton's kernels in place of a card's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpr_kernels.compiled import Specimen, specialise
from ptx_emulator.block import Block, Counts, Trace
from ptx_emulator.memory import Array, Clock, Memory
from ptx_emulator.program import Program, parse

BASE = 0x7F0000000000
GUARD = 64  # words between two allocations that nobody may touch
TYPES = {
    torch.float32: "*fp32", torch.float64: "*fp64",
    torch.int8: "*i8", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


class Pointer(NamedTuple):
    """A place within an allocation, whose bytes a launch reads and writes."""

    allocation: Array
    offset: int = 0

    @classmethod
    def to(cls, array: Array) -> Pointer:
        """The start of a contiguous array."""
        return cls(array.reshape(-1).view(np.uint8))

    @classmethod
    def of(cls, tensor: Tensor) -> Pointer:
        """The first element of a tensor on the CPU, within its storage."""
        storage = tensor.untyped_storage()
        content = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        return cls(content, tensor.data_ptr() - storage.data_ptr())

    @property
    def start(self) -> int:
        """The address of the allocation on this machine, which tells allocations apart."""
        return int(self.allocation.__array_interface__["data"][0])


def launch(
    program: Program,
    arguments: Sequence[Pointer | Array],
    blocks: int,
    *,
    shared: int = 0,
    truncate: bool = False,
    measure: bool = False,
    trace: Trace | None = None,
) -> Counts:
    """Run blocks 0 … blocks - 1 with `shared` bytes of shared memory each; numbers are arrays of one element.

    Tensor cores round to nearest, or towards zero with `truncate`. With `measure`, the result has sectors and bank
    conflicts besides instructions. `trace` gets every access.

    Raises:
        Fault: an access out of bounds or unaligned, a race, or what threads must execute together and do not.
    """
    pointers = {one.start: one for one in arguments if isinstance(one, Pointer)}
    places: dict[int, int] = {}
    words = GUARD
    for start, one in pointers.items():
        # An allocation keeps its own alignment to 256 bytes.
        places[start] = words + start % 256 // 4
        words = -(-(places[start] + len(one.allocation) // 4 + 1 + GUARD) // 64) * 64
    clock = Clock()
    memory = Memory("global", BASE, words, clock)
    for start, one in pointers.items():
        memory.open(places[start], one.allocation)
    values = [
        np.array([BASE + 4 * places[one.start] + one.offset], np.uint64)
        if isinstance(one, Pointer)
        else one.view(f"u{one.itemsize}")
        for one in arguments
    ]
    # Triton adds two pointers to scratch memory, which these kernels do not use.
    values += [np.zeros(1, np.uint64)] * (len(program.parameters) - len(values))
    named = dict(zip(program.parameters, values, strict=True))
    counts = Counts()
    for number in range(blocks):
        own = Memory("shared", 0, max(4, -(-shared // 4)), clock)
        own.readable[:] = True
        clock.block, clock.epoch = number, clock.epoch + 1
        memory.log = own.log = trace.accesses if trace else None
        one_block = Block(
            program, number, named, memory, own, counts, truncate=truncate, measure=measure
        )
        one_block.run()
        if trace:
            trace.landed += one_block.landed
    for start, one in pointers.items():
        first = 4 * places[start]
        one.allocation[...] = memory.bytes[first : first + len(one.allocation)]
    return counts


class Kernel(NamedTuple):
    """A kernel compiled for one launch's arguments."""

    program: Program
    shared: int  # bytes per block
    ptx: str


def compiled(specimen: Specimen, capability: int, aligned: Sequence[str] | None = None) -> Kernel:
    """The kernel as Triton compiles it for `specimen`; `aligned` names the pointers to 16 bytes, None for all."""
    signature, constants, attributes = specialise(specimen)
    if aligned is not None:
        for parameter in specimen.kernel.params:
            if signature[parameter.name].startswith("*") and parameter.name not in aligned:
                attributes.pop((parameter.num,))
    key = repr((signature, constants, attributes))
    source = _Source(specimen.kernel, signature, constants, attributes)
    return _compiled(source, key, specimen.num_warps, specimen.num_stages, capability)


class _Source:
    """What the compiler takes; the cache distinguishes kernels by their keys instead."""

    def __init__(self, kernel: Any, *given: Any) -> None:
        self.kernel, self.given = kernel, given

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source) and self.kernel is other.kernel

    def __hash__(self) -> int:
        return hash(id(self.kernel))


@cache
def _compiled(source: _Source, key: str, warps: int, stages: int, capability: int) -> Kernel:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hpr_kernels.backend import launch_options

    made = triton.compile(
        ASTSource(source.kernel, *source.given),
        target=GPUTarget("cuda", capability, 32),
        options=launch_options(warps, stages),
    )
    return Kernel(parse(made.asm["ptx"]), made.metadata.shared, made.asm["ptx"])


class Prepared(NamedTuple):
    """A launch that is ready to run: a kernel, its arguments, and the number of blocks."""

    kernel: Kernel
    arguments: list[Pointer | Array]
    blocks: int


def prepare(capability: int, kernel: Any, *given: Any, grid: Any, **named: Any) -> Prepared:
    """What a call of `JITFunction.run` on CPU tensors launches, compiled for a capability."""
    arguments = dict(zip(kernel.arg_names, given, strict=False))
    arguments |= {name: value for name, value in named.items() if name in kernel.arg_names}
    tensors = {k: v for k, v in arguments.items() if isinstance(v, Tensor)}
    described = arguments | {name: TYPES[value.dtype] for name, value in tensors.items()}
    specimen = Specimen(
        kernel.__name__, kernel, described, grid, named["num_warps"], named["num_stages"], 0, 0
    )
    pointers = {name: Pointer.of(value) for name, value in tensors.items()}
    aligned = [k for k, one in pointers.items() if (one.start + one.offset) % 16 == 0]
    signature = specialise(specimen)[0]
    passed = [
        pointers[name] if name in pointers else _number(arguments[name], signature[name])
        for name in kernel.arg_names
        if signature[name] != "constexpr"
    ]
    return Prepared(compiled(specimen, capability, aligned), passed, int(np.prod(grid)))


def server(capability: int, *, truncate: bool) -> Callable[..., None]:
    """A replacement of `JITFunction.run`, which emulates a launch on CPU tensors."""

    def run(kernel: Any, *given: Any, grid: Any, warmup: bool = False, **named: Any) -> None:
        one = prepare(capability, kernel, *given, grid=grid, **named)
        launch(
            one.kernel.program, one.arguments, one.blocks,
            shared=one.kernel.shared, truncate=truncate,
        )  # fmt: skip

    return run


def _number(value: float, kind: str) -> Array:
    return np.array([value], {"fp32": np.float32, "i32": np.int32, "i64": np.int64}[kind])
