"""The emulator of tests/ptx_emulator: opcodes against hand-computed cases, and planted faults that it must catch."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from ptx_emulator import launch as emulated
from ptx_emulator.block import Counts
from ptx_emulator.launch import Pointer, launch
from ptx_emulator.memory import Array, Fault
from ptx_emulator.program import UnknownOpcodeError, parse

from hpr_kernels import FactoredJacobian
from hpr_kernels.testing import assert_close

HEAD = """
.visible .entry k(
	.param .u64 .ptr .global .align 1 k_param_0,
	.param .u64 .ptr .global .align 1 k_param_1
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


def run(
    body: str, given: Array, result: Array, threads: int = 32, blocks: int = 1, **options: bool
) -> Counts:
    """Run `body` where %rd4 and %rd5 point to the thread's word of `given` and of `result`, and %r2 is 4 times it."""
    program = parse(HEAD.replace("THREADS", str(threads)) + body + "\nret;\n}\n")
    return launch(program, [Pointer.to(given), Pointer.to(result)], blocks, shared=1024, **options)


def one(body: str, *given: int, kind: str = "b32") -> int:
    """%r20, or with `kind` b64 %rd20, after `body` with the numbers `given` in %r10, %r11, …"""
    moves = "".join(f"mov.b32 %r{10 + i}, {value};\n" for i, value in enumerate(given))
    wide = kind == "b64"
    result = np.zeros(64, np.uint32)
    store = (
        "mul.wide.u32 %rd6, %r1, 8; add.s64 %rd6, %rd2, %rd6; st.global.b64 [%rd6], {%rd20};"
        if wide
        else "st.global.b32 [%rd5], {%r20};"
    )
    run(moves + body + "\n" + store, np.zeros(32, np.uint32), result)
    return int(result.view(np.uint64)[0]) if wide else int(result[0])


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


INTEGERS = [
    ("add.s32 %r20, %r10, %r11;", (0xFFFFFFFF, 2), 1),
    ("sub.s32 %r20, %r10, %r11;", (1, 2), 0xFFFFFFFF),
    ("mul.lo.s32 %r20, %r10, %r11;", (0x10001, 0x10000), 0x10000),
    ("mad.lo.s32 %r20, %r10, %r11, 5;", (3, 4), 17),
    ("div.s32 %r20, %r10, %r11;", (-7, 2), 0xFFFFFFFD),
    ("rem.s32 %r20, %r10, %r11;", (-7, 2), 0xFFFFFFFF),
    ("min.s32 %r20, %r10, %r11;", (-7, 2), 0xFFFFFFF9),
    ("neg.s32 %r20, %r10;", (7,), 0xFFFFFFF9),
    ("and.b32 %r20, %r10, %r11;", (12, 10), 8),
    ("or.b32 %r20, %r10, %r11;", (12, 10), 14),
    ("xor.b32 %r20, %r10, %r11;", (12, 10), 6),
    ("not.b32 %r20, %r10;", (0,), 0xFFFFFFFF),
    ("shl.b32 %r20, %r10, 33;", (1,), 0),
    ("shr.s32 %r20, %r10, 1;", (-4,), 0xFFFFFFFE),
    ("shr.u32 %r20, %r10, 4;", (0x80000000,), 0x08000000),
    ("bfe.u32 %r20, %r10, 4, 8;", (0xABCD,), 0xBC),
    ("bfe.s32 %r20, %r10, 4, 8;", (0xABCD,), 0xFFFFFFBC),
    ("prmt.b32 %r20, %r10, %r11, 0x7610U;", (0x44332211, 0x88776655), 0x88772211),
    ("prmt.b32 %r20, %r10, 0, 0x8888U;", (0x80,), 0xFFFFFFFF),
    ("setp.lt.s32 %p1, %r10, %r11; selp.b32 %r20, 3, 4, %p1;", (-1, 0), 3),
    ("setp.lt.u32 %p1, %r10, %r11; selp.b32 %r20, 3, 4, %p1;", (-1, 0), 4),
    ("mov.b32 %r20, 1; setp.eq.b32 %p1, %r10, 0; @!%p1 mov.b32 %r20, 2;", (0,), 1),
    ("shfl.sync.bfly.b32 %r20, %r1, 5, 31, -1;", (), 5),
    ("shfl.sync.idx.b32 %r20, %r1, 7, 31, -1;", (), 7),
    ("mov.b32 {%rs1, %rs2}, %r10; mov.b32 %r20, {%rs2, %rs1};", (0x12345678,), 0x56781234),
]
FLOATS = [
    ("add.f32", (1.5, 2.25), 3.75),
    ("sub.f32", (1.5, 2.25), -0.75),
    ("mul.f32", (1.5, 2.0), 3.0),
    ("max.f32", (float("nan"), 2.0), 2.0),
    ("fma.rn.f32", (1 + 2**-12, 1 + 2**-12, -1 - 2**-11), 2**-24),
    ("fma.rn.ftz.f32", (2.0**-70, 2.0**-70, 0.0), 0.0),
    ("div.full.f32", (1.0, 4.0), 0.25),
    ("neg.f32", (2.0,), -2.0),
    ("abs.f32", (-2.0,), 2.0),
    ("ex2.approx.f32", (3.0,), 8.0),
    ("cvt.rna.tf32.f32", (1 + 2**-11,), 1 + 2**-10),
]


@pytest.mark.parametrize(("body", "given", "expected"), INTEGERS)
def test_integers(body: str, given: tuple[int, ...], expected: int) -> None:
    assert one(body, *given) == expected


@pytest.mark.parametrize(("name", "given", "expected"), FLOATS)
def test_floats(name: str, given: tuple[float, ...], expected: float) -> None:
    operands = ", ".join(f"%r{10 + i}" for i in range(len(given)))
    assert one(f"{name} %r20, {operands};", *map(bits, given)) == bits(expected)


def test_wide_integers() -> None:
    assert one("mul.wide.s32 %rd20, %r10, %r11;", -3, 1 << 30, kind="b64") == 2**64 - 3 * 2**30
    assert one("cvt.s64.s32 %rd20, %r10;", -3, kind="b64") == 2**64 - 3


def mma(C: float, A: float, truncate: bool) -> float:
    """The first entry of D = A B + C where all entries of A are alike and those of B are 1."""
    body = (
        f"mov.b32 %r10, {bits(A)}; mov.b32 %r11, {bits(1.0)}; mov.b32 %r12, {bits(C)};\n"
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r20, %r21, %r22, %r23}, "
        "{%r10, %r10, %r10, %r10}, {%r11, %r11}, {%r12, %r12, %r12, %r12};\n"
        "st.global.b32 [%rd5], {%r20};"
    )
    result = np.zeros(32, np.float32)
    run(body, np.zeros(32, np.uint32), result, truncate=truncate)
    assert (result == result[0]).all()
    return float(result[0])


def test_tensor_cores_round_in_two_ways() -> None:
    """8 · 0.75 · 2⁻²⁶ is 0.75 of the distance from 1 to the next number of fp32."""
    assert mma(2.0, 3.0, False) == 26
    small = 0.75 * 2**-26
    assert mma(1.0, small, False) == 1 + 2**-23
    assert mma(1.0, small, True) == 1
    # The last 13 bits of a TF32 number do not count.
    assert mma(0.0, 1 + 2**-11, False) == 8


def test_transpose_through_shared_memory() -> None:
    """`ldmatrix` gives thread t word t % 4 of row t // 4, and a barrier orders two warps."""
    body = (
        "st.shared.b32 [%r2 + 0], {%r1}; bar.sync 0;\n"
        "shl.b32 %r3, %r1, 4; and.b32 %r3, %r3, 0x7f;\n"
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r20}, [%r3];\n"
        "st.global.b32 [%rd5], {%r20};"
    )
    result = np.zeros(64, np.uint32)
    run(body, np.zeros(64, np.uint32), result, threads=64)
    assert result.tolist() == [*range(32), *range(32)]
    # Barriers cannot be left out.
    with pytest.raises(Fault, match="reads what another wrote since the last barrier"):
        run(body.replace("bar.sync 0;", ""), np.zeros(64, np.uint32), result, threads=64)


COPY = """
shl.b32 %r3, %r1, 4; mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd1, %rd6;
cp.async.cg.shared.global [%r3 + 0], [%rd6 + 0], 0x10, 16;
cp.async.commit_group;
cp.async.wait_group 0;
bar.sync 0;
xor.b32 %r4, %r2, 128;
ld.shared.b32 %r20, [%r4];
st.global.b32 [%rd5], {%r20};
"""


def test_asynchronous_copy() -> None:
    given, result = np.arange(256, dtype=np.uint32), np.zeros(64, np.uint32)
    run(COPY, given, result, threads=64)
    assert result.tolist() == [*range(32, 64), *range(32)]


FAULTS = {
    "dropped barrier": ("bar.sync 0;", "", "reads what another wrote"),
    "dropped wait": ("cp.async.wait_group 0;", "", "since the last barrier|waited for"),
    "wait after the read": (
        "cp.async.wait_group 0;\nbar.sync 0;",
        "bar.sync 0;\nbar.sync 0;",
        "waited for|writes",
    ),
    "unaligned": ("[%rd6 + 0]", "[%rd6 + 4]", "expected a multiple of 16"),
    "past the end": ("[%rd6 + 0]", "[%rd6 + 16]", "expected one of an allocation"),
    "shared past the end": ("[%r4]", "[%r4 + 2048]", "expected one of an allocation"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault(name: str) -> None:
    old, new, message = FAULTS[name]
    assert old in COPY
    with pytest.raises(Fault, match=message):
        run(COPY.replace(old, new), np.arange(256, dtype=np.uint32), np.zeros(64, np.uint32), 64)


def test_blocks_race_in_global_memory() -> None:
    with pytest.raises(Fault, match="a block writes what another wrote"):
        run("st.global.b32 [%rd5], {%r1};", np.zeros(32, np.uint32), np.zeros(32, np.uint32), 32, 2)


def test_barrier_in_a_branch() -> None:
    body = "setp.lt.s32 %p1, %r1, 8;\n@%p1 bra $L;\nbar.sync 0;\n$L:\nmov.b32 %r3, 0;"
    with pytest.raises(Fault, match="expected by all threads"):
        run(body, np.zeros(32, np.uint32), np.zeros(32, np.uint32))


def test_counts() -> None:
    """A warp that reads 4 bytes at a distance of 8 touches 8 sectors, and every bank twice at a distance of 128."""
    body = (
        "mul.wide.u32 %rd6, %r1, 8; add.s64 %rd6, %rd1, %rd6; ld.global.b32 %r20, [%rd6];\n"
        "shl.b32 %r3, %r1, 3; st.shared.b32 [%r3], {%r20};"
    )
    given = torch.zeros(64, dtype=torch.int32).numpy()  # torch aligns to 64 bytes, NumPy to 16
    counts = run(body, given, np.zeros(32, np.uint32), measure=True)
    assert counts.instructions["st.shared.b32"] == 1
    assert counts.sectors["ld.global.b32"] == 8
    assert counts.conflicts["st.shared.b32"] == 1


WGMMA_FAULTS = {
    "no proxy fence": ("fence.proxy.async.shared::cta;", "", "since the last fence.proxy.async"),
    "no register fence": ("wgmma.fence.sync.aligned;", "", "after wgmma.fence"),
    "barriers dropped": (r"bar.sync\s+0;", "", "since the last barrier"),
    "copies not waited for": (
        r"cp.async.wait_group\s+\d;",
        "",
        "since the last|waited for|cp.async",
    ),
}


@pytest.mark.emulated(90)
@pytest.mark.parametrize("name", [None, *WGMMA_FAULTS])
def test_planted_fault_in_a_product_of_9_0(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's own kernel, as compiled and with each kind of ordering taken out."""
    pytest.importorskip("triton")
    old, new, message = WGMMA_FAULTS[name] if name else (" ", " ", "")
    monkeypatch.setattr(emulated, "parse", lambda ptx: parse(re.sub(r"\b" + old, new, ptx)))
    emulated._compiled.cache_clear()
    g, z = torch.randn(1, 4, 1, 1, 64), torch.randn(1, 4, 1, 8)
    try:
        if name is None:
            K = FactoredJacobian(g, z).gram(order="hadamard")
            exact = FactoredJacobian(g.double(), z.double()).gram()
            assert_close(K, exact, 1e-6)
            return
        with pytest.raises(Fault, match=message):
            FactoredJacobian(g, z).gram(order="hadamard")
    finally:
        emulated._compiled.cache_clear()


def test_unknown_opcode_is_refused_even_if_never_executed() -> None:
    with pytest.raises(UnknownOpcodeError, match=re.escape("sin.approx.f32")):
        run("ret;\nsin.approx.f32 %r20, %r10;", np.zeros(32, np.uint32), np.zeros(32, np.uint32))
