"""Compile Triton kernels for a card that this machine need not have, and read the result, for tests of budgets.

The compiler learns exactly what a launch at the stated sizes would tell it: pointers are aligned to 16 bytes, an
integer of value 1 becomes a constant, and an integer that 16 divides is marked as divisible.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpr_kernels import checks
from hpr_kernels.backend import launch_options

# Compute capabilities: A100, H100, B200.
CAPABILITIES = (80, 90, 100)
# Shared memory that one block may take, in bytes (CUDA C++ Programming Guide, "Technical Specifications").
SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
# Tensor-core instructions: of a warp, of a warp group on 9.0, of a block on 10.0.
TENSOR_CORE = r"(HMMA|HGMMA|UTC\w*MMA)\b"


@dataclass(frozen=True)
class Specimen:
    """One launch of a kernel and the work that the launch does, for budget tests and reports.

    `arguments` maps the names of the kernel's arguments to numbers, or for tensors to Triton's type name ("*fp32").
    """

    name: str
    kernel: Any
    arguments: Mapping[str, Any]
    grid: tuple[int, ...]
    num_warps: int
    num_stages: int
    flops: int  # two for each multiply-add that the equation needs
    bytes: int  # bytes read, each counted once, plus bytes written
    maxnreg: int | None = None  # as in `launch_options`


@dataclass(frozen=True)
class Compiled:
    """The compiler's result for a kernel on one compute capability."""

    capability: int
    registers: int  # per thread
    shared: int  # bytes per block
    stack: int  # bytes per thread
    local: int  # bytes per thread
    instructions: Counter[str]  # by full name, such as LDG.E.128
    # Cycles for which the innermost loop with tensor instructions stalls at least, by the compiler's own marks.
    tile_cycles: int
    tile_instructions: int  # of the same loop

    def count(self, pattern: str) -> int:
        """How many instructions of the program have a name that starts with the regular expression `pattern`."""
        return sum(n for name, n in self.instructions.items() if re.match(pattern, name))

    @property
    def spills(self) -> int:
        """Number of loads and stores of local memory."""
        return self.count(r"(LDL|STL)\b")

    @property
    def tensor_core(self) -> int:
        """Number of matrix instructions of the tensor cores."""
        return self.count(TENSOR_CORE)

    def tensor_products(self, num_warps: int) -> int:
        """Multiply-adds of all matrix instructions of a block of TF32 numbers, each executed once."""
        found = 0
        for name, n in self.instructions.items():
            if name.startswith("HMMA.1688."):
                found += n * num_warps * 16 * 8 * 8
            elif shape := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)\.", name):
                found += n * num_warps // 4 * math.prod(map(int, shape.groups()))
            elif re.match(TENSOR_CORE, name):
                # The name of a UTCHMMA does not have its shape, but all kernels use it for tiles of 64 x 64.
                found += n * 64 * 64 * 8
        return found

    def global_loads(self) -> dict[int, int]:
        """Number of loads from global memory by width in bits, including those into shared memory (LDGSTS)."""
        widths: dict[int, int] = {}
        for name, n in self.instructions.items():
            if re.match(r"LDG(STS)?\b", name):
                parts = name.split(".")
                width = next((int(part) for part in parts if part in ("64", "128", "256")), 32)
                widths[width] = widths.get(width, 0) + n
        return widths


@dataclass(frozen=True)
class PaperSize:
    """One network of the paper and the outputs of its kernel."""

    T: int
    B: int
    N: int
    N_in: int
    N_out: int
    outputs: checks.Outputs


# In this order: 2AF, DMS and CXT; sequential MNIST; the widest network of the paper.
PAPER_SIZES = (
    PaperSize(T=8, B=32, N=300, N_in=3, N_out=3, outputs="all"),
    PaperSize(T=28, B=200, N=300, N_in=28, N_out=10, outputs="last"),
    PaperSize(T=8, B=32, N=1000, N_in=3, N_out=3, outputs="all"),
)


def compile_for(specimen: Specimen, capability: int) -> Compiled:
    """Compile for the compute capability 10 · major + minor, such as 80, 90 or 100.

    Raises:
        RuntimeError: Triton's interpreter is on, and then Triton compiles nothing.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET: expected it unset where kernels are compiled, got 1")
    signature, constants, attributes = specialise(specimen)
    kernel = triton.compile(
        ASTSource(specimen.kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options=launch_options(specimen.num_warps, specimen.num_stages, specimen.maxnreg),
    )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage, program = (_cuobjdump(flag, cubin) for flag in ("-res-usage", "-sass"))
    listing = _instructions(program)
    loop = _innermost_product(listing)
    used = {name: int(number) for name, number in re.findall(r"\b([A-Z]+):(\d+)", usage)}
    return Compiled(
        capability=capability,
        registers=used["REG"],
        # Triton requests its shared memory at launch, in addition to the amount that the cubin declares.
        shared=used["SHARED"] + kernel.metadata.shared,
        stack=used["STACK"],
        local=used["LOCAL"],
        instructions=Counter(instruction.name for instruction in listing),
        tile_cycles=sum(instruction.stall for instruction in loop),
        tile_instructions=len(loop),
    )


@dataclass(frozen=True)
class _Instruction:
    """An instruction of a program: its address and name, the address that it may jump to, and its stall in cycles."""

    address: int
    name: str
    target: int | None
    stall: int


def _instructions(program: str) -> list[_Instruction]:
    """Read the listing of `cuobjdump -sass`: an instruction, then its 128 bits as two words.

    Bits 105 to 108 are the cycles that the warp waits before its next instruction, on 8.0 to 10.0 (Jia et al., 2018,
    "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking", section 2.1).
    """
    form = r"^\s+/\*(\w{4,})\*/\s+(?:@!?\w+\s+)?([\w.]+)([^;]*);\s+/\* 0x\w{16} \*/\s+/\* 0x(\w{16}) \*/"
    found = []
    for address, name, rest, word in re.findall(form, program, re.M):
        jump = re.search(r"0x(\w+)", rest) if name.startswith("BRA") else None
        target = int(jump[1], 16) if jump else None
        found.append(_Instruction(int(address, 16), name, target, int(word, 16) >> 41 & 15))
    return found


def _innermost_product(program: list[_Instruction]) -> list[_Instruction]:
    """The shortest loop that has a tensor instruction; empty where none has."""
    loops = []
    for last in program:
        if last.target is not None and last.target <= last.address:
            body = [one for one in program if last.target <= one.address <= last.address]
            if any(re.match(TENSOR_CORE, one.name) for one in body):
                loops.append(body)
    return min(loops, key=len, default=[])


def multiprocessor_holds(compiled: Compiled, num_warps: int) -> int:
    """How many blocks of a compiled kernel a multiprocessor runs at a time, by registers and shared memory.

    Registers are given out in units of 8 per thread, of 65,536; a block takes 1 KiB of shared memory beside its own
    (CUDA C++ Programming Guide, "Technical Specifications").
    """
    registers = -(-compiled.registers // 8) * 8 * 32 * num_warps
    by_registers = 65536 // registers
    by_memory = SHARED_LIMIT[compiled.capability] // (compiled.shared + 1024)
    return min(by_registers, by_memory, 64 // num_warps)


def specialise(
    specimen: Specimen,
) -> tuple[dict[str, str], dict[tuple[int], Any], dict[tuple[int], list[list[Any]]]]:
    """The signature, constants and attributes that a launch with `specimen.arguments` gives the compiler."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    if set(specimen.arguments) != set(specimen.kernel.arg_names):
        odd = set(specimen.arguments) ^ set(specimen.kernel.arg_names)
        raise ValueError(
            f"arguments: expected those of {specimen.name}, got a mismatch in {sorted(odd)}"
        )
    for parameter in specimen.kernel.params:
        value = specimen.arguments[parameter.name]
        place = (parameter.num,)
        divisible = [["tt.divisibility", 16]]
        if parameter.is_constexpr or value is None or (value == 1 and isinstance(value, int)):
            signature[parameter.name] = "constexpr"
            constants[place] = value
        elif isinstance(value, str):
            signature[parameter.name] = value
            attributes[place] = divisible
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if abs(value) < 1 << 31 else "i64"
            if value % 16 == 0:
                attributes[place] = divisible
    return signature, constants, attributes


def _cuobjdump(flag: str, cubin: Path) -> str:
    import triton

    program = triton.knobs.nvidia.cuobjdump.path
    done = subprocess.run([program, flag, str(cubin)], capture_output=True, text=True, check=True)
    return done.stdout
