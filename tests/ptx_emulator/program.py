"""PTX of one kernel, parsed into instructions; an opcode that nothing emulates is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ptx_emulator.memory import Array

if TYPE_CHECKING:
    from ptx_emulator.block import Block

# A step takes the block and the mask of threads that execute it, None for all.
Step = Callable[["Block", "Array | None"], None]
Maker = Callable[["re.Match[str]", list[str]], Step]

TYPES: dict[str, np.dtype] = {
    f"{letter}{bits}": np.dtype(f"{kind}{bits // 8}")
    for letter, kind in (("b", "u"), ("u", "u"), ("s", "i"), ("f", "f"))
    for bits in (8, 16, 32, 64)
    if letter != "f" or bits >= 32
} | {"pred": np.dtype(bool)}
# The value of a condition that Block handles itself.
CONTROL = re.compile(r"bra(\.uni)?|ret|bar\.sync")

_OPCODES: list[tuple[re.Pattern[str], Maker]] = []


class UnknownOpcodeError(NotImplementedError):
    """The emulator has no such instruction."""


class Guard(NamedTuple):
    """The predicate of an instruction, `@%p1` or `@!%p1`."""

    register: str
    negated: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction; `step` is None for those that steer the block.

    `reads` and `writes` are the registers of products of warp groups, or of loads of tensor memory, that an ordinary
    instruction names.
    """

    text: str
    opcode: str
    operands: list[str]
    guard: Guard | None
    step: Step | None
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Program:
    """A kernel: its parameters in order, the types of its registers by prefix, its instructions and labels."""

    parameters: list[str]
    registers: dict[str, np.dtype]
    instructions: list[Instruction]
    labels: dict[str, int]
    threads: int


def opcode(pattern: str) -> Callable[[Maker], Maker]:
    """Register a maker of steps for all opcodes that match `pattern` as a whole."""

    def register(maker: Maker) -> Maker:
        _OPCODES.append((re.compile(pattern), maker))
        return maker

    return register


def parse(ptx: str) -> Program:
    """The program of PTX text with one kernel.

    Raises:
        UnknownOpcodeError: an instruction is not emulated, whether it would be executed or not.
    """
    # The modules of opcodes fill the table when they are imported.
    from ptx_emulator import (  # noqa: F401
        arithmetic,
        mbarriers,
        tensor_cores,
        tensor_products,
        tensor_transfers,
        transfers,
    )

    parameters: list[str] = re.findall(r"^\s*\.param .*?(\w+_param_\d+)", ptx, re.M)
    threads = re.search(r"\.reqntid (\d+)", ptx)
    if threads is None:
        raise ValueError("ptx: expected .reqntid, got none")
    registers: dict[str, np.dtype] = {}
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in _body(ptx):
        if declared := re.match(r"\.reg \.(\w+)\s+%([a-z]+)(?:<\d+>|\d+;)", line):
            registers[declared[2]] = TYPES[declared[1]]
        elif label := re.match(r"(\$\w+):", line):
            labels[label[1]] = len(instructions)
        elif not line.startswith("."):
            instructions += [_instruction(text.strip()) for text in line.split(";") if text.strip()]
    instructions = _with_registers(instructions)
    return Program(parameters, registers, instructions, labels, int(threads[1]))


def _body(ptx: str) -> Iterator[str]:
    """The lines of the kernel. What an inner `{ }` declares gets names of its own, `%name0` and `$label0`."""
    scopes = 0
    inner: list[str] | None = None
    for line in ptx[ptx.index("\n{") + 2 :].split("\n"):
        line = line.split("//")[0].strip()
        if line == "{":
            inner = []
        elif line == "}" and inner is None:
            return
        elif line == "}":
            text = "\n".join(inner or [])
            for name in re.findall(r"^\.reg \.\w+ (\w+);$", text, re.M):
                text = re.sub(rf"\b{name}\b", f"%{name}{scopes}", text)
            for name in re.findall(r"^(\w+):$", text, re.M):
                text = re.sub(rf"\b{name}\b", f"${name}{scopes}", text)
            yield from text.split("\n")
            inner, scopes = None, scopes + 1
        elif inner is not None:
            inner.append(line)
        else:
            yield line


def _with_registers(instructions: list[Instruction]) -> list[Instruction]:
    """The instructions with their `reads` and `writes`."""
    counts = {"wgmma.mma_async": 2, "tcgen05.ld": 1}
    watched = frozenset(
        name
        for one in instructions
        for opcode, count in counts.items()
        if one.opcode.startswith(opcode)
        for name in _registers(one.operands[:count])
    )
    found = []
    for one in instructions:
        if watched and not one.opcode.startswith("wgmma"):
            results = 0 if re.match(r"st|cp|bar|bra|tcgen05\.(?!ld)", one.opcode) else 1
            writes = _registers(one.operands[:results]) & watched
            reads = _registers(one.operands[results:]) & watched
            one = replace(one, reads=reads, writes=writes)
        found.append(one)
    return found


def _registers(operands: list[str]) -> frozenset[str]:
    return frozenset(re.findall(r"%([a-z]+\d+)", " ".join(operands)))


def _instruction(text: str) -> Instruction:
    parts = re.match(r"(?:@(!?)%([a-z]+\d+)\s+)?([\w.:]+)\s*(.*)$", text)
    if parts is None:
        raise UnknownOpcodeError(text)
    name, operands = parts[3], split(parts[4])
    guard = Guard(parts[2], bool(parts[1])) if parts[2] else None
    if CONTROL.fullmatch(name):
        if name == "bar.sync" and operands != ["0"]:
            raise UnknownOpcodeError(text)
        return Instruction(text, name, operands, guard, None)
    for pattern, maker in _OPCODES:
        if found := pattern.fullmatch(name):
            return Instruction(text, name, operands, guard, maker(found, operands))
    raise UnknownOpcodeError(text)


def split(text: str) -> list[str]:
    """Operands at commas outside braces and brackets."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text)]


def vector(text: str) -> list[str]:
    """The elements of `{a, b}`, or of a single operand."""
    return [part.strip() for part in text.strip("{}").split(",")]


def source(text: str, kind: str) -> Callable[[Block], Array]:
    """A reader of an operand as type `kind`: one number per thread, or one for all threads."""
    dtype = TYPES[kind]
    if text == "%tid.x":
        return lambda block: block.thread.astype(dtype)
    if text == "%ctaid.x":
        return lambda block: np.array([block.number]).astype(dtype)
    if text in ("%ctaid.y", "%ctaid.z", "%tid.y", "%tid.z", "global_smem"):
        return lambda block: np.zeros(1, dtype)
    if not text.startswith("%"):
        constant = _immediate(text, dtype)
        return lambda block: constant
    if not re.fullmatch(r"%[a-z]+\d+", text):
        raise UnknownOpcodeError(text)
    name = text[1:]
    unsigned = np.dtype(f"u{dtype.itemsize}")

    def read(block: Block) -> Array:
        value = block.registers[name]
        if value.itemsize != dtype.itemsize:
            value = value.astype(unsigned)
        return value.view(dtype)

    return read


def _immediate(text: str, dtype: np.dtype) -> Array:
    if dtype.kind == "b":
        return np.array([int(text, 0) != 0])
    if text[:2] in ("0f", "0F", "0d", "0D"):
        bits = np.array([int(text[2:], 16)], np.uint32 if text[1] in "fF" else np.uint64)
        return bits.view(dtype)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    number = int(text.rstrip("U"), 0) & ((1 << 8 * dtype.itemsize) - 1)
    return np.array([number], unsigned).view(dtype)


def target(text: str) -> Callable[[Block, Array, Array | None], None]:
    """A writer of a register; a narrower value is extended with zeros."""
    if text == "_":
        return lambda block, value, mask: None
    name = text[1:]

    def write(block: Block, value: Array, mask: Array | None) -> None:
        into = block.registers[name]
        if value.dtype != into.dtype:
            value = value.view(f"u{value.itemsize}").astype(into.dtype, copy=False)
        if mask is None:
            into[...] = value
        else:
            np.copyto(into, value, where=mask)

    return write


def address(text: str) -> Callable[[Block], Array]:
    """A reader of `[%r1 + 16]`, one address per thread."""
    parts = re.fullmatch(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
    if parts is None:
        raise UnknownOpcodeError(text)
    offset, base = int(parts[2] or 0), source(parts[1], "u64")
    return lambda block: full(block, base(block).astype(np.int64) + offset)


def full(block: Block, value: Array) -> Array:
    """One number per thread, of those or of a single one."""
    return value if len(value) > 1 else np.broadcast_to(value, block.thread.shape)
