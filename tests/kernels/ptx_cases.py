"""Hand-computed cases of PTX opcodes for the emulator: a body, the numbers that it is given, and what results."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from ptx_emulator.block import Counts
from ptx_emulator.launch import Pointer, launch
from ptx_emulator.memory import Array
from ptx_emulator.program import Program, parse

HEAD = """
.visible .entry k(
	.param .u64 .ptr .global .align 1 k_param_0,
	.param .u64 .ptr .global .align 1 k_param_1,
	.param .u32 k_param_2
)
.reqntid THREADS
{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<99>;
	.reg .b64 	%rd<99>;
	ld.param.b64 	%rd1, [k_param_0];
	ld.param.b64 	%rd2, [k_param_1];
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd3, %r1, 4;
	add.s64 	%rd4, %rd1, %rd3;
	add.s64 	%rd5, %rd2, %rd3;
	shl.b32 	%r2, %r1, 2;
"""
NUMBER = 0x80000005  # the third parameter


def program_of(body: str, threads: int) -> Program:
    """The program of `body` behind `HEAD`."""
    return parse(HEAD.replace("THREADS", str(threads)) + body + "\nret;\n}\n")


def run(
    body: str,
    given: Array,
    result: Array,
    threads: int = 32,
    blocks: int = 1,
    shared: int = 4096,
    **options: bool,
) -> Counts:
    """Run `body` where %rd4 and %rd5 point to the thread's word of `given` and of `result`, and %r2 is 4 times it."""
    program = program_of(body, threads)
    arguments = [Pointer.to(given), Pointer.to(result), np.array([NUMBER], np.uint32)]
    return launch(program, arguments, blocks, shared=shared, **options)


class Case(NamedTuple):
    """`result` is %r20 of the first thread, or %rd20, after `body` with the numbers `given` in %r10, %r11, …

    %rd1 points to 256 bytes, of which byte i is i. Every opcode of `body` counts in the result.
    """

    body: str
    given: tuple[int, ...]
    result: int

    def __str__(self) -> str:
        return self.body

    @property
    def opcodes(self) -> set[str]:
        """The opcodes of the body."""
        return opcodes(self.body)

    def computed(self) -> int:
        """What the emulator makes of the case."""
        moves = "".join(f"mov.b32 %r{10 + i}, {value};\n" for i, value in enumerate(self.given))
        wide = "%rd20" in self.body
        result = np.zeros(64, np.uint32)
        store = (
            "mul.wide.u32 %rd6, %r1, 8; add.s64 %rd6, %rd2, %rd6; st.global.b64 [%rd6], {%rd20};"
            if wide
            else "st.global.b32 [%rd5], {%r20};"
        )
        run(moves + self.body + "\n" + store, np.arange(256).astype(np.uint8), result)
        return int(result.view(np.uint64)[0]) if wide else int(result[0])


def opcodes(body: str) -> set[str]:
    """The opcodes of instructions that `;` ends."""
    before = r"^(?:\s|[{}]|//.*\n|\$?\w+:(?=\s)|@!?%?\w+ )+"
    texts = [re.sub(before, "", part) for part in body.split(";")]
    return {text.split()[0] for text in texts if text}


def single(value: float) -> int:
    """The bits of an fp32 number."""
    return int(np.float32(value).view(np.uint32))


def double(value: float) -> int:
    """The bits of an fp64 number."""
    return int(np.float64(value).view(np.uint64))


def _f32(name: str, given: tuple[float, ...], result: float) -> Case:
    operands = ", ".join(f"%r{10 + i}" for i in range(len(given)))
    return Case(f"{name} %r20, {operands};", tuple(map(single, given)), single(result))


def _f64(name: str, given: tuple[float, ...], result: float) -> Case:
    operands = ", ".join(f"0d{double(value):016X}" for value in given)
    return Case(f"{name} %rd20, {operands};", (), double(result))


def _holds(compare: str, given: tuple[int, ...], result: bool) -> Case:
    """A comparison of %r10 and %r11; `selp` shows it."""
    return Case(f"{compare} %p1, %r10, %r11; selp.b32 %r20, 1, 0, %p1;", given, int(result))


NAN = float("nan")
INTEGERS = [
    Case("add.s32 %r20, %r10, %r11;", (0xFFFFFFFF, 2), 1),
    Case("sub.s32 %r20, %r10, %r11;", (1, 2), 0xFFFFFFFF),
    Case("mul.lo.s32 %r20, %r10, %r11;", (0x10001, 0x10000), 0x10000),
    Case("mad.lo.s32 %r20, %r10, %r11, 5;", (3, 4), 17),
    Case("div.s32 %r20, %r10, %r11;", (-7, 2), 0xFFFFFFFD),
    Case("rem.s32 %r20, %r10, %r11;", (-7, 2), 0xFFFFFFFF),
    Case("min.s32 %r20, %r10, %r11;", (-7, 2), 0xFFFFFFF9),
    Case("neg.s32 %r20, %r10;", (7,), 0xFFFFFFF9),
    Case("and.b32 %r20, %r10, %r11;", (12, 10), 8),
    Case("or.b32 %r20, %r10, %r11;", (12, 10), 14),
    Case("xor.b32 %r20, %r10, %r11;", (12, 10), 6),
    Case("not.b32 %r20, %r10;", (0,), 0xFFFFFFFF),
    Case("shl.b32 %r20, %r10, 33;", (1,), 0),
    Case("shl.b32 %r20, %r10, 4;", (0xF0000001,), 0x10),
    Case("shr.s32 %r20, %r10, 1;", (-4,), 0xFFFFFFFE),
    Case("shr.s32 %r20, %r10, 40;", (-4,), 0xFFFFFFFF),
    Case("shr.u32 %r20, %r10, 4;", (0x80000000,), 0x08000000),
    Case("bfe.u32 %r20, %r10, 4, 8;", (0xABCD,), 0xBC),
    Case("bfe.s32 %r20, %r10, 4, 8;", (0xABCD,), 0xFFFFFFBC),
    Case("bfe.s32 %r20, %r10, 2, 1;", (4,), 0xFFFFFFFF),
    Case("prmt.b32 %r20, %r10, %r11, 0x7610U;", (0x44332211, 0x88776655), 0x88772211),
    Case("prmt.b32 %r20, %r10, %r11, 0x3340U;", (0x44332211, 0x88776655), 0x44445511),
    Case("prmt.b32 %r20, %r10, 0, 0x7772U;", (0x44332211,), 0x00000033),
    Case("prmt.b32 %r20, %r10, 0, 0x8888U;", (0x80,), 0xFFFFFFFF),
    Case("mov.b32 %r20, 1; setp.eq.b32 %p1, %r10, 0; @!%p1 mov.b32 %r20, 2;", (0,), 1),
    Case("shfl.sync.bfly.b32 %r20, %r1, 5, 31, -1;", (), 5),
    Case("shfl.sync.idx.b32 %r20, %r1, 7, 31, -1;", (), 7),
    Case("mov.b32 {%rs1, %rs2}, %r10; mov.b32 %r20, {%rs2, %rs1};", (0x12345678,), 0x56781234),
    Case("mov.u32 %r20, %ctaid.x;", (), 0),
    # 7 is taken where the third parameter is negative, as it is when read with a sign.
    Case("ld.param.s32 %r3, [k_param_2]; setp.lt.s32 %p1, %r3, 0; selp.b32 %r20, 7, 8, %p1;", (), 7),
    Case("ld.param.b32 %r20, [k_param_2];", (), NUMBER),
    Case("bra.uni $L;\nmov.b32 %r20, 2;\n$L:\nmov.b32 %r20, 1;", (), 1),
]  # fmt: skip
WIDE = [
    Case("ld.param.b64 %rd6, [k_param_0]; mov.b64 %rd20, 9; setp.eq.b64 %p1, %rd6, %rd1;"
         "@%p1 mov.b64 %rd20, 8;", (), 8),
    Case("mul.wide.s32 %rd20, %r10, %r11;", (-3, 1 << 30), 2**64 - 3 * 2**30),
    Case("mul.wide.u32 %rd20, %r10, %r11;", (-3, 2), 2 * (2**32 - 3)),
    Case("mad.wide.s32 %rd20, %r10, %r11, 7;", (-3, 2), 1),
    Case("mad.wide.u32 %rd20, %r10, %r11, 7;", (-3, 2), 2**33 + 1),
    Case("cvt.s64.s32 %rd20, %r10;", (-3,), 2**64 - 3),
    Case("cvt.u64.u32 %rd20, %r10;", (-3,), 2**32 - 3),
    Case("mul.wide.u32 %rd6, %r10, %r11; cvt.u32.u64 %r20, %rd6;", (0x80000001, 2), 2),
    Case("add.s64 %rd20, 0xFFFFFFFFFFFFFFFF, 3;", (), 2),
    Case("mul.lo.s64 %rd20, 0x100000001, 0x100000000;", (), 0x100000000),
    Case("mad.lo.s64 %rd20, 0x100000001, 3, 4;", (), 0x300000007),
    Case("neg.s64 %rd20, 7;", (), 2**64 - 7),
    Case("mov.b64 %rd20, 0x123456789A;", (), 0x123456789A),
    Case("mov.b64 %rd20, {%r10, %r11};", (5, 6), 0x600000005),
    Case("mov.u64 %rd20, 0xFFFFFFFFFFFFFFFF;", (), 2**64 - 1),
    Case("shl.b64 %rd20, 0x80000001, 4;", (), 0x800000010),
    Case("shr.u64 %rd20, 0x8000000000000000, 60;", (), 8),
    Case("or.b64 %rd20, 0xC00000000, 0xA;", (), 0xC0000000A),
    Case("and.b64 %rd20, 0xC0000000F, 0xA0000000A;", (), 0x80000000A),
    Case("mov.b32 %r3, 0; selp.f64 %rd20, 0d3FF8000000000000, 0d0000000000000000, 1;", (), double(1.5)),
]  # fmt: skip
HALVES = [
    Case("cvt.u16.u32 %rs1, %r10; cvt.u32.u16 %r20, %rs1;", (0x12345678,), 0x5678),
    Case("mov.u16 %rs1, 0xFEDC; cvt.u32.u16 %r20, %rs1;", (), 0xFEDC),
    Case("mov.b32 {%rs1, %rs2}, %r10; shl.b16 %rs3, %rs1, 4; mov.b32 %r20, {%rs3, %rs2};", (0x0001F002,), 0x00010020),
    Case("mov.b32 {%rs1, %rs2}, %r10; and.b16 %rs3, %rs1, %rs2; cvt.u32.u16 %r20, %rs3;", (0xFF0CF00A,), 0xF008),
    Case("mov.b32 {%rs1, %rs2}, %r10; or.b16 %rs3, %rs1, %rs2; cvt.u32.u16 %r20, %rs3;", (0x000CF00A,), 0xF00E),
    Case("mov.b32 {%rs1, %rs2}, %r10; setp.eq.b16 %p1, %rs1, %rs2; selp.b32 %r20, 1, 0, %p1;", (0x12341234,), 1),
    Case("mov.b32 {%rs1, %rs2}, %r10; setp.ne.b16 %p1, %rs1, %rs2; selp.b16 %rs3, 3, 4, %p1;"
         "cvt.u32.u16 %r20, %rs3;", (0x12341234,), 4),
]  # fmt: skip
COMPARISONS = [
    _holds("setp.lt.s32", (-1, 0), True), _holds("setp.lt.u32", (-1, 0), False),
    _holds("setp.lt.s32", (3, 3), False), _holds("setp.ge.s32", (3, 3), True),
    _holds("setp.ge.s32", (-1, 0), False), _holds("setp.gt.s32", (0, -1), True),
    _holds("setp.gt.s32", (3, 3), False), _holds("setp.gt.u32", (0, -1), False),
    _holds("setp.eq.b32", (3, 3), True), _holds("setp.ne.b32", (3, 3), False),
    _holds("setp.lt.f32", (single(-1.0), single(0.5)), True), _holds("setp.lt.f32", (single(NAN), 0), False),
    _holds("setp.gt.f32", (single(0.5), single(-1.0)), True), _holds("setp.ge.f32", (single(2.0), single(2.0)), True),
    _holds("setp.le.f32", (single(-0.0), 0), True), _holds("setp.eq.f32", (single(-0.0), 0), True),
    _holds("setp.num.f32", (single(NAN), 0), False), _holds("setp.num.f32", (0, 0), True),
    Case("setp.lt.s64 %p1, 0x8000000000000000, 0; selp.b32 %r20, 1, 0, %p1;", (), 1),
    Case("setp.gt.s64 %p1, 0x100000000, 5; selp.b32 %r20, 1, 0, %p1;", (), 1),
    Case("setp.eq.b64 %p1, 0x100000005, 5; selp.b32 %r20, 1, 0, %p1;", (), 0),
    Case("setp.ne.b64 %p1, 0x100000005, 5; selp.b32 %r20, 1, 0, %p1;", (), 1),
    Case("mov.pred %p1, -1; mov.pred %p2, 0; and.pred %p3, %p1, %p2; selp.b32 %r20, 3, 4, %p3;", (), 4),
    Case("mov.pred %p1, -1; mov.pred %p2, 0; or.pred %p3, %p1, %p2; selp.b32 %r20, 3, 4, %p3;", (), 3),
    Case("mov.pred %p1, -1; not.pred %p2, %p1; selp.b32 %r20, 3, 4, %p2;", (), 4),
    Case("setp.lt.f32 %p1, %r10, %r11; selp.f32 %r20, %r10, %r11, %p1;", (single(1.5), single(0.5)), single(0.5)),
]  # fmt: skip
# The upper half of a pair is its second number.
PAIR = "mov.b64 %rd6, {%r10, %r11}; mov.b64 %rd7, {%r12, %r13};"
PAIRS = tuple(map(single, (1.5, -2.0, 0.25, 3.0)))


def _pair(text: str, low: float, high: float) -> Case:
    return Case(f"{PAIR} {text}", PAIRS, single(low) | single(high) << 32)


FLOATS = [
    _f32("add.f32", (1.5, 2.25), 3.75),
    _f32("add.f32", (1.0, 2.0**-25), 1.0),
    _f32("sub.f32", (1.5, 2.25), -0.75),
    _f32("mul.f32", (1.5, 2.0), 3.0),
    _f32("max.f32", (NAN, 2.0), 2.0),
    _f32("max.f32", (0.5, NAN, 3.0), 3.0),
    _f32("min.f32", (0.5, NAN), 0.5),
    _f32("fma.rn.f32", (1 + 2**-12, 1 + 2**-12, -1 - 2**-11), 2**-24),
    _f32("fma.rn.ftz.f32", (2.0**-70, 2.0**-70, 0.0), 0.0),
    _f32("div.full.f32", (1.0, 4.0), 0.25),
    _f32("neg.f32", (2.0,), -2.0),
    _f32("abs.f32", (-2.0,), 2.0),
    _f32("ex2.approx.f32", (3.0,), 8.0),
    _f32("cvt.rna.tf32.f32", (1 + 2**-11,), 1 + 2**-10),
    Case("cvt.rn.f32.s32 %r20, %r10;", (-3,), single(-3.0)),
    Case("cvt.rn.f32.u32 %r20, %r10;", (-1,), single(2.0**32)),
    Case("cvt.f64.f32 %rd20, %r10;", (single(-0.75),), double(-0.75)),
    _f64("add.f64", (1.5, 2.0**-52), 1.5 + 2.0**-52),
    _f64("mul.f64", (1 + 2.0**-30, 1 + 2.0**-30), 1 + 2.0**-29),
    _f64("fma.rn.f64", (1.5, -2.0, 0.25), -2.75),
    _pair("add.f32x2 %rd20, %rd6, %rd7;", 1.75, 1.0),
    _pair("sub.f32x2 %rd20, %rd6, %rd7;", 1.25, -5.0),
    _pair("mul.f32x2 %rd20, %rd6, %rd7;", 0.375, -6.0),
    _pair("fma.rn.f32x2 %rd20, %rd6, %rd7, %rd6;", 1.875, -8.0),
]
# Bytes 16 … 19 of global memory are the word 0x13121110.
SHARED = "mov.b32 %r3, 0x44332211; mov.b32 %r4, 0x88776655; shl.b32 %r5, %r1, 4;"
MEMORY = [
    Case("ld.global.b32 %r20, [%rd1 + 16];", (), 0x13121110),
    Case("ld.global.b8 %rs1, [%rd1 + 18]; cvt.u32.u16 %r20, %rs1;", (), 0x12),
    Case("ld.global.b64 %rd20, [%rd1 + 16];", (), 0x1716151413121110),
    Case("ld.global.v2.b32 {%r3, %r4}, [%rd1 + 16]; mov.b64 %rd20, {%r4, %r3};", (), 0x1312111017161514),
    Case("ld.global.v4.b32 {%r3, %r4, %r5, %r20}, [%rd1 + 16];", (), 0x1F1E1D1C),
    Case("ld.global.v2.b64 {%rd6, %rd20}, [%rd1 + 16];", (), 0x1F1E1D1C1B1A1918),
    Case(f"{SHARED} st.shared.b32 [%r5], %r3; ld.shared.b32 %r20, [%r5];", (), 0x44332211),
    Case(f"{SHARED} st.shared.b32 [%r5 + 4], %r3; ld.shared.b16 %rs1, [%r5 + 6]; cvt.u32.u16 %r20, %rs1;", (), 0x4433),
    Case(f"{SHARED} st.shared.b32 [%r5], %r3; ld.shared.b8 %rs1, [%r5 + 2]; cvt.u32.u16 %r20, %rs1;", (), 0x33),
    Case(f"{SHARED} mov.b64 %rd6, {{%r3, %r4}}; st.shared.b64 [%r5], %rd6; ld.shared.b64 %rd20, [%r5];",
         (), 0x8877665544332211),
    Case(f"{SHARED} st.shared.v2.b32 [%r5], {{%r3, %r4}}; ld.shared.v2.b32 {{%r6, %r20}}, [%r5];", (), 0x88776655),
    Case(f"{SHARED} mov.b64 %rd6, {{%r3, %r4}}; st.shared.v2.b64 [%r5], {{%rd6, 7}};"
         "ld.shared.v2.b64 {%rd7, %rd8}, [%r5]; add.s64 %rd20, %rd7, %rd8;", (), 0x8877665544332218),
    Case(f"{SHARED} st.shared.v4.b32 [%r5], {{%r3, 1, 2, %r4}}; ld.shared.v4.b32 {{%r6, %r7, %r8, %r9}}, [%r5];"
         "sub.s32 %r20, %r9, %r8;", (), 0x88776653),
    Case(f"{SHARED} mov.b32 {{%rs1, %rs2}}, %r3; st.shared.v4.b8 [%r5], {{%rs1, %rs2, %rs1, %rs2}};"
         "ld.shared.b32 %r20, [%r5];", (), 0x33113311),
]  # fmt: skip
CASES = [*INTEGERS, *WIDE, *HALVES, *COMPARISONS, *FLOATS, *MEMORY]
