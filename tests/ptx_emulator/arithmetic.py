"""Opcodes that move and compute within registers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce

import numpy as np

from ptx_emulator.block import Block
from ptx_emulator.memory import WARP, Array
from ptx_emulator.program import (
    TYPES,
    Step,
    UnknownOpcodeError,
    full,
    opcode,
    source,
    split,
    target,
    vector,
)

INTEGER = "[bus](?:16|32|64)"
FLOAT = "f32|f64"
COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def quotient(a: Array, b: Array) -> Array:
    """a / b rounded towards zero; a division by zero gives a / 1, since PTX leaves it open."""
    b = np.where(b == 0, 1, b).astype(np.int64)
    a = a.astype(np.int64)
    return np.asarray(np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b))


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "mul.lo": np.multiply,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "div": quotient, "rem": lambda a, b: a - quotient(a, b) * b,
}  # fmt: skip


def fused(a: Array, b: Array, c: Array) -> Array:
    """a b + c with one rounding for fp32, since fp64 holds the product; with two for fp64."""
    wide = [value.astype(np.float64) for value in (a, b, c)]
    return (wide[0] * wide[1] + wide[2]).astype(a.dtype)


def flushed(value: Array) -> Array:
    """Subnormal fp32 numbers become zero."""
    return np.where(
        np.abs(value) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), value), value
    )


def _computed(kinds: list[str], operands: list[str], f: Callable[..., Array], to: str) -> Step:
    """A step that writes f of the operands after the first as type `to`."""
    if len(operands) != len(kinds) + 1:
        raise UnknownOpcodeError(str(operands))
    write = target(operands[0])
    read = [source(text, kind) for text, kind in zip(operands[1:], kinds, strict=True)]
    dtype = TYPES[to]

    def step(block: Block, mask: Array | None) -> None:
        write(block, f(*(each(block) for each in read)).astype(dtype, copy=False), mask)

    return step


@opcode(rf"(add|sub|mul)\.({FLOAT})|(add|sub|mul\.lo|div|rem)\.([us](?:16|32|64))")
def _arithmetic(name: re.Match[str], operands: list[str]) -> Step:
    kind = name[2] or name[4]
    return _computed([kind, kind], operands, BINARY[name[1] or name[3]], kind)


@opcode(rf"(min|max)\.({FLOAT}|[us](?:16|32|64))")
def _extreme(name: re.Match[str], operands: list[str]) -> Step:
    # Of a number and a NaN, PTX takes the number.
    of_two = np.fmin if name[1] == "min" else np.fmax
    # On 10.0 there may be three.
    count = 3 if len(operands) == 4 and name[2] == "f32" else 2
    return _computed([name[2]] * count, operands, lambda *given: reduce(of_two, given), name[2])


@opcode(r"(mul|mad)\.wide\.([us])32")
def _wide(name: re.Match[str], operands: list[str]) -> Step:
    narrow, wide = f"{name[2]}32", f"{name[2]}64"

    def f(a: Array, b: Array, c: Array | int = 0) -> Array:
        return a.astype(TYPES[wide]) * b.astype(TYPES[wide]) + c

    kinds = [narrow, narrow, wide] if name[1] == "mad" else [narrow, narrow]
    return _computed(kinds, operands, f, wide)


@opcode(r"mad\.lo\.([us](?:16|32|64))")
def _multiply_add(name: re.Match[str], operands: list[str]) -> Step:
    return _computed([name[1]] * 3, operands, lambda a, b, c: a * b + c, name[1])


@opcode(r"fma\.rn(\.ftz)?\.(f32|f64)")
def _fma(name: re.Match[str], operands: list[str]) -> Step:
    def with_zeros(a: Array, b: Array, c: Array) -> Array:
        return flushed(fused(flushed(a), flushed(b), flushed(c)))

    return _computed([name[2]] * 3, operands, with_zeros if name[1] else fused, name[2])


@opcode(r"(add|sub|mul|fma\.rn)\.f32x2")
def _pairs(name: re.Match[str], operands: list[str]) -> Step:
    of_one = fused if name[1] == "fma.rn" else BINARY[name[1]]

    def f(*values: Array) -> Array:
        parts = (
            np.ascontiguousarray(value).view(np.float32) for value in np.broadcast_arrays(*values)
        )
        return of_one(*parts).view(np.uint64)

    return _computed(["b64"] * (len(operands) - 1), operands, f, "b64")


@opcode(rf"neg\.({FLOAT}|s16|s32|s64)")
def _negative(name: re.Match[str], operands: list[str]) -> Step:
    return _computed([name[1]], operands, np.negative, name[1])


@opcode(rf"abs\.({FLOAT})")
def _absolute(name: re.Match[str], operands: list[str]) -> Step:
    return _computed([name[1]], operands, np.abs, name[1])


@opcode(r"div\.(?:full|rn)\.f32")
def _divide(name: re.Match[str], operands: list[str]) -> Step:
    return _computed(["f32", "f32"], operands, np.divide, "f32")


@opcode(rf"(and|or|xor)\.({INTEGER}|pred)")
def _bitwise(name: re.Match[str], operands: list[str]) -> Step:
    return _computed([name[2]] * 2, operands, BINARY[name[1]], name[2])


@opcode(rf"not\.({INTEGER}|pred)")
def _not(name: re.Match[str], operands: list[str]) -> Step:
    return _computed([name[1]], operands, np.invert, name[1])


@opcode(rf"(shl|shr)\.({INTEGER})")
def _shift(name: re.Match[str], operands: list[str]) -> Step:
    def f(a: Array, n: Array) -> Array:
        bits = 8 * a.itemsize
        by = np.minimum(n, bits - 1).astype(a.dtype)
        shifted = a << by if name[1] == "shl" else a >> by
        # Beyond its width a value is gone, but for the copies of a sign.
        gone = (n >= bits) & (name[1] == "shl" or a.dtype.kind == "u")
        return np.where(gone, np.zeros_like(shifted), shifted)

    return _computed([name[2], "u32"], operands, f, name[2])


@opcode(r"bfe\.([us])32")
def _bits(name: re.Match[str], operands: list[str]) -> Step:
    def f(a: Array, start: Array, length: Array) -> Array:
        field = (a.astype(np.int64) & 0xFFFFFFFF) >> start & (1 << length.astype(np.int64)) - 1
        sign = field >> (length - 1) & 1 if name[1] == "s" else 0
        return np.asarray(field - (sign << length.astype(np.int64)))

    return _computed([f"{name[1]}32", "s32", "s32"], operands, f, f"{name[1]}32")


@opcode(r"prmt\.b32")
def _permute(name: re.Match[str], operands: list[str]) -> Step:
    def f(a: Array, b: Array, selector: Array) -> Array:
        low, high, chosen = (v.astype(np.uint64) for v in np.broadcast_arrays(a, b, selector))
        both, result = low | high << np.uint64(32), np.zeros(len(low), np.uint64)
        for i in range(4):
            pick = chosen >> np.uint64(4 * i) & np.uint64(15)
            byte = both >> (pick & np.uint64(7)) * np.uint64(8) & np.uint64(255)
            spread = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
            result |= np.where(pick & np.uint64(8), spread, byte) << np.uint64(8 * i)
        return result

    return _computed(["b32"] * 3, operands, f, "b32")


@opcode(rf"selp\.({INTEGER}|{FLOAT})")
def _select(name: re.Match[str], operands: list[str]) -> Step:
    return _computed([name[1], name[1], "pred"], operands, lambda a, b, p: np.where(p, a, b), name[1])  # fmt: skip


@opcode(rf"setp\.(eq|ne|lt|le|gt|ge)(u?)\.({INTEGER}|{FLOAT})")
def _compare(name: re.Match[str], operands: list[str]) -> Step:
    def f(a: Array, b: Array) -> Array:
        value = COMPARE[name[1]](a, b)
        if name[3] not in ("f32", "f64"):
            return value
        unordered = np.isnan(a) | np.isnan(b)
        return value | unordered if name[2] else value & ~unordered

    return _computed([name[3]] * 2, operands, f, "pred")


@opcode(rf"setp\.(num|nan)\.({FLOAT})")
def _ordered(name: re.Match[str], operands: list[str]) -> Step:
    def f(a: Array, b: Array) -> Array:
        return np.asarray((np.isnan(a) | np.isnan(b)) == (name[1] == "nan"))

    return _computed([name[2]] * 2, operands, f, "pred")


@opcode(r"cvt(?:\.rn)?\.(u16|[usf](?:32|64))\.([usf](?:16|32|64))")
def _convert(name: re.Match[str], operands: list[str]) -> Step:
    return _computed([name[2]], operands, lambda a: a.astype(TYPES[name[1]]), name[1])


@opcode(r"cvt\.rna\.tf32\.f32")
def _to_tf32(name: re.Match[str], operands: list[str]) -> Step:
    def f(a: Array) -> Array:
        """Round to nearest at 13 bits, ties away from zero."""
        nan = np.isnan(a.view(np.float32))
        return np.where(nan, np.uint32(0x7FFFFFFF), a + np.uint32(0x1000) & np.uint32(0xFFFFE000))

    return _computed(["b32"], operands, f, "b32")


@opcode(r"ex2\.approx\.f32")
def _power_of_2(name: re.Match[str], operands: list[str]) -> Step:
    return _computed(["f32"], operands, lambda a: np.exp2(a.astype(np.float64)), "f32")


@opcode(rf"mov\.({INTEGER}|{FLOAT}|pred)")
def _move(name: re.Match[str], operands: list[str]) -> Step:
    into, out = (vector(text) for text in operands)
    if len(into) == len(out) == 1:
        return _computed([name[1]], operands, lambda a: a, name[1])
    bits = 8 * TYPES[name[1]].itemsize // max(len(into), len(out))
    part = TYPES[f"b{bits}"]
    if len(out) > 1:
        sources, write = [source(text, f"b{bits}") for text in out], target(into[0])

        def pack(block: Block, mask: Array | None) -> None:
            parts = np.broadcast_arrays(*(read(block) for read in sources))
            write(block, np.stack(parts, 1).view(TYPES[name[1]])[:, 0], mask)

        return pack
    read, writes = source(out[0], name[1]), [target(text) for text in into]

    def unpack(block: Block, mask: Array | None) -> None:
        parts = np.ascontiguousarray(read(block)).view(part).reshape(-1, len(writes)).copy()
        for write, value in zip(writes, parts.T, strict=True):
            write(block, np.ascontiguousarray(value), mask)

    return unpack


@opcode(r"shfl\.sync\.(bfly|idx)\.b32")
def _shuffle(name: re.Match[str], operands: list[str]) -> Step:
    if operands[3:] != ["31", "-1"]:
        raise UnknownOpcodeError(f"shfl {operands}")
    write = target(split(operands[0].replace("|", ","))[0])
    read, by = source(operands[1], "b32"), source(operands[2], "b32")

    def step(block: Block, mask: Array | None) -> None:
        lane, n = block.thread % WARP, by(block).astype(np.int64)
        there = lane ^ n if name[1] == "bfly" else n & 31
        value = full(block, read(block))
        write(block, value[block.thread - lane + there], mask)

    return step
