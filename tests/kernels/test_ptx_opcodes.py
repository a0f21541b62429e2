"""The emulator of tests/ptx_emulator: each opcode that a kernel uses, against a case computed by hand."""

from __future__ import annotations

import importlib
from functools import cache

import numpy as np
import pytest
from ptx_cases import CASES, Case, opcodes, run, single
from ptx_emulator.launch import compiled
from ptx_emulator.memory import Array, Fault
from ptx_emulator.program import Program
from smallest_launches import NAMES, launches
from tensor_cases import TENSOR_BODIES

from hpr_kernels.checks import PRECISIONS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    assert case.computed() == case.result


STORES = {
    "st.global.b32 [%rd5], %r1;": [0, 1, 2, 3, 4, 5, 6, 7],
    "mul.wide.u32 %rd6, %r1, 8; add.s64 %rd6, %rd2, %rd6; mov.b64 %rd7, {%r1, 9};"
    "st.global.b64 [%rd6], %rd7;": [0, 9, 1, 9, 2, 9, 3, 9],
    "mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd2, %rd6;"
    "st.global.v4.b32 [%rd6], {%r1, 7, 8, 9};": [0, 7, 8, 9, 1, 7, 8, 9],
    # The threads of the second half have returned.
    "setp.lt.u32 %p1, %r1, 4; @!%p1 bra $L; st.global.b32 [%rd5], 5;\n$L:\nret;": [5, 5, 5, 5, 0, 0],
}  # fmt: skip


@pytest.mark.parametrize("body", STORES)
def test_stores(body: str) -> None:
    result = np.zeros(128, np.uint32)
    run(body, np.zeros(1, np.uint32), result)
    assert result[: len(STORES[body])].tolist() == STORES[body]


ZERO_FILL = """shl.b32 %r3, %r1, 4; mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd1, %rd6; add.s64 %rd7, %rd2, %rd6;
sub.s64 %rd7, %rd7, %rd1; setp.lt.u32 %p1, %r1, 20; selp.b32 %r4, 16, 0, %p1;
cp.async.cg.shared.global [%r3], [%rd6], 0x10, %r4;
cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
ld.shared.v4.b32 {%r5, %r6, %r7, %r8}, [%r3]; st.global.v4.b32 [%rd7], {%r5, %r6, %r7, %r8};"""


def test_a_copy_of_no_bytes_writes_zeros_and_reads_nothing() -> None:
    """Threads from 20 on copy 0 of 16 bytes; their source is past the end of the allocation."""
    given, result = np.arange(1, 81, dtype=np.uint32), np.full(128, 9, np.uint32)
    run(ZERO_FILL, given, result)
    assert result.tolist() == [*range(1, 81), *[0] * 48]
    with pytest.raises(Fault, match="expected one of an allocation"):
        run(ZERO_FILL.replace("16, 0, %p1", "16, 16, %p1"), given, result)
    with pytest.raises(Fault, match="expected a copy of 0 or 16 bytes"):
        run(ZERO_FILL.replace("16, 0, %p1", "16, 8, %p1"), given, result)


WARP = """shl.b32 %r3, %r1, 2; xor.b32 %r4, %r3, 4; st.shared.b32 [%r3], %r1;
bar.warp.sync -1;
ld.shared.b32 %r20, [%r4]; st.global.b32 [%rd5], %r20;"""


def test_a_barrier_of_a_warp_orders_its_threads_alone() -> None:
    result = np.zeros(64, np.uint32)
    run(WARP, np.zeros(1, np.uint32), result, threads=64)
    assert result.tolist() == [i ^ 1 for i in range(64)]
    with pytest.raises(Fault, match="a thread reads what another wrote"):
        run(WARP.replace("bar.warp.sync -1;", ""), np.zeros(1, np.uint32), result)
    # Neighbours in steps of 32 threads belong to two warps.
    with pytest.raises(Fault, match="a warp reads what another wrote"):
        run(WARP.replace("%r3, 4;", "%r3, 128;"), np.zeros(1, np.uint32), result, threads=64)


# Thread t names row t % 8 of matrix t / 8, which lies 16 (31 - t) bytes into shared memory.
REVERSED = "shl.b32 %r3, %r1, 4; sub.s32 %r3, 496, %r3;"
STMATRIX = f"""{REVERSED} add.s32 %r5, %r1, 256; add.s32 %r6, %r1, 512; add.s32 %r7, %r1, 768;
stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r3], {{%r1, %r5, %r6, %r7}};
bar.sync 0;
shl.b32 %r4, %r1, 4; ld.shared.v4.b32 {{%r20, %r21, %r22, %r23}}, [%r4];
mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd2, %rd6; st.global.v4.b32 [%rd6], {{%r20, %r21, %r22, %r23}};"""
LDMATRIX = f"""{REVERSED} shl.b32 %r4, %r1, 4; shl.b32 %r2, %r1, 2; add.s32 %r5, %r2, 1; add.s32 %r6, %r2, 2;
add.s32 %r7, %r2, 3; st.shared.v4.b32 [%r4], {{%r2, %r5, %r6, %r7}};
bar.sync 0;
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r3];
mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd2, %rd6; st.global.v4.b32 [%rd6], {{%r20, %r21, %r22, %r23}};"""


def test_matrices_of_halves() -> None:
    """Thread t holds word t % 4 of row t / 4 of each of the four matrices (PTX ISA, "ldmatrix" and "stmatrix")."""
    stored, loaded = np.zeros((2, 128), np.uint32)
    run(STMATRIX, np.zeros(1, np.uint32), stored)
    run(LDMATRIX, np.zeros(1, np.uint32), loaded)
    for matrix in range(4):
        for thread in range(32):
            word = 4 * (31 - (8 * matrix + thread // 4)) + thread % 4
            assert stored[word] == thread + 256 * matrix
            # Before it is loaded, word i holds i.
            assert loaded[4 * thread + matrix] == word
    # The first row is in the last 16 bytes.
    assert stored[124:].tolist() == [0, 1, 2, 3]


# A [m, k] is 1 where k = m % 8, so that D [m, n] = B [m % 8, n] = n + 64 (m % 8).
ONES = f"""mov.u32 %r1, %tid.x; and.b32 %r3, %r1, 3; bfe.u32 %r4, %r1, 2, 3; add.s32 %r5, %r3, 4;
setp.eq.b32 %p1, %r3, %r4; setp.eq.b32 %p2, %r5, %r4;
selp.b32 %r10, {single(1.0)}, 0, %p1; selp.b32 %r11, {single(1.0)}, 0, %p2;"""
MMA = f"""{ONES} mad.lo.s32 %r6, %r3, 64, %r4; add.s32 %r7, %r6, 256;
cvt.rn.f32.s32 %r12, %r6; cvt.rn.f32.s32 %r13, %r7; mov.b32 %r14, {single(0.5)};
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {{%r20, %r21, %r22, %r23}}, {{%r10, %r10, %r11, %r11}},\
 {{%r12, %r13}}, {{%r14, %r14, %r14, %r14}};
mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd2, %rd6; st.global.v4.b32 [%rd6], {{%r20, %r21, %r22, %r23}};"""


def _product(j: int, thread: int) -> int:
    """D of register j: row thread % 32 / 4, plus 8 in every other pair, and two columns side by side."""
    return 8 * (j // 4) + 2 * (thread % 4) + j % 2 + 64 * (thread % 32 // 4)


def test_a_product_of_a_warp() -> None:
    """The places of A, B and D in the threads are those of the PTX ISA's figures for m16n8k8."""
    result = np.zeros((32, 4), np.float32)
    run(MMA, np.zeros(1, np.uint32), result)
    assert result.tolist() == [[_product(j % 2, t) + 0.5 for j in range(4)] for t in range(32)]


def _wgmma(n: int) -> str:
    """D = A B of m64nNk8: A in registers, and B's rows of 32 bytes in shared memory, where `given` has them."""
    sums = ", ".join(f"%r{20 + j}" for j in range(n // 2))
    copies = "".join(
        f"ld.global.v2.b32 {{%r15, %r16}}, [%rd6 + {1024 * i}]; st.shared.v2.b32 [%r6 + {1024 * i}], {{%r15, %r16}};"
        for i in range(n // 32)
    )
    stores = "".join(f"st.global.b32 [%rd7 + {4 * j}], %r{20 + j};" for j in range(n // 2))
    # Bits 62 and 63 are 3 for swizzles of 32 bytes; bits 32 … 45 are the distance of 8 rows in 16 bytes.
    descriptor = 3 << 62 | 16 << 32
    return f"""{ONES} shl.b32 %r6, %r1, 3; mul.wide.u32 %rd6, %r1, 8; add.s64 %rd6, %rd1, %rd6; {copies}
    fence.proxy.async.shared::cta;
    bar.sync 0;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n{n}k8.f32.tf32.tf32 {{{sums}}}, {{%r10, %r10, %r11, %r11}}, {descriptor}, 0, 1, 1;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    mul.wide.u32 %rd7, %r1, {2 * n}; add.s64 %rd7, %rd2, %rd7; {stores}"""


def _swizzled(n: int) -> Array:
    """B [k, j] = j + 64 k as shared memory has it: row j is 8 words, halves swapped in rows 4 … 7 of each 8."""
    B = np.zeros((n, 8), np.float32)
    for j in range(n):
        for k in range(8):
            B[j, (k + 4) % 8 if j % 8 >= 4 else k] = j + 64 * k
    return B


@pytest.mark.parametrize("n", [32, 64])
def test_a_product_of_a_warp_group(n: int) -> None:
    """Warp w of four has rows 16 w … 16 w + 15 of D, laid out as for a warp (PTX ISA, "wgmma.mma_async")."""
    result = np.zeros((128, n // 2), np.float32)
    run(_wgmma(n), _swizzled(n), result, threads=128)
    expected = [
        [_product(j // 4 * 4 + j % 2, thread) for j in range(n // 2)] for thread in range(128)
    ]
    assert result.tolist() == expected


# The line that is taken out, the line after which it is put instead, and the fault.
SWAPS = {
    "shared fence before the stores": ("fence.proxy", "mov.u32 %r1", "since the last fence.proxy.async"),
    "shared fence after the product": ("fence.proxy", "wgmma.mma", "since the last fence.proxy.async"),
    "register fence before the fragments": ("wgmma.fence", "mov.u32 %r1", "after wgmma.fence"),
    "register fence after the product": ("wgmma.fence", "wgmma.mma", "after wgmma.fence"),
    "barrier after the product": ("bar.sync", "wgmma.mma", "since the last barrier"),
    "commit after the wait": ("wgmma.commit", "wgmma.wait", "sums of a wgmma that was waited for"),
    "wait before the commit": ("wgmma.wait", "wgmma.mma", "sums of a wgmma that was waited for"),
}  # fmt: skip


@pytest.mark.parametrize("name", SWAPS)
def test_swapped_order(name: str) -> None:
    moved, behind, message = SWAPS[name]
    lines = [line.strip() for line in _wgmma(32).split(";")]
    [old] = [line for line in lines if line.startswith(moved)]
    lines.remove(old)
    [place] = [i for i, line in enumerate(lines) if line.startswith(behind)]
    lines.insert(place + 1, old)
    with pytest.raises(Fault, match=message):
        run(";".join(lines), _swizzled(32), np.zeros((128, 16), np.float32), threads=128)


# The first 10 threads copy a number each of a row of 10.
MASKED = """setp.lt.u32 %p1, %r1, 10; mov.b32 %r20, 0; @%p1 ld.global.b32 %r20, [%rd4];
setp.lt.u32 %p2, %r1, 10; @%p2 st.global.b32 [%rd5], %r20;"""


def test_a_shifted_mask() -> None:
    """One number too many is past the end of the last row, and the neighbour's in a row before."""
    row, result = np.arange(1, 11, dtype=np.uint32), np.zeros(10, np.uint32)
    run(MASKED, row, result)
    assert result.tolist() == row.tolist()
    for mask, culprit in (("%p1", "ld.global.b32"), ("%p2", "st.global.b32")):
        shifted = MASKED.replace(f"setp.lt.u32 {mask}", f"setp.le.u32 {mask}")
        with pytest.raises(Fault, match=rf"{culprit}.*: expected one of an allocation"):
            run(shifted, row, np.zeros(10, np.uint32))
    # Within the allocation the result alone shows it.
    two_rows = np.zeros(20, np.uint32)
    run(MASKED.replace("lt", "le"), np.arange(1, 21, dtype=np.uint32), two_rows)
    assert two_rows.tolist() == [*range(1, 12), *[0] * 9]


def test_threads_of_one_instruction_write_one_number() -> None:
    with pytest.raises(Fault, match="two threads of one instruction write different values"):
        run("st.global.b32 [%rd2], %r1;", np.zeros(1, np.uint32), np.zeros(1, np.uint32))


BODIES = [
    *STORES,
    ZERO_FILL,
    WARP,
    STMATRIX,
    LDMATRIX,
    MMA,
    _wgmma(32),
    _wgmma(64),
    MASKED,
    *TENSOR_BODIES,
]


@cache
def used(capability: int) -> dict[str, set[str]]:
    """The opcodes of every kernel as compiled for a capability, and the names of the kernels that have them."""
    found: dict[str, set[str]] = {}

    def add(name: str, program: Program) -> None:
        for one in program.instructions:
            found.setdefault(one.opcode, set()).add(name)

    for operation in ("gram", "loss", "recurrence", "tangent", "trials", "update"):
        module = importlib.import_module(f"hpr_kernels.{operation}.triton")
        for precision in PRECISIONS if operation != "trials" else [()]:
            listed = module.specimens(*([precision] if precision else []))
            for one in listed[: len(listed) // 3]:
                add(f"{one.name}, {precision}", compiled(one, capability).program)
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            for prepared in launches(name, capability, patch, inputs=False):
                add(name, prepared.kernel.program)
    return found


@pytest.mark.parametrize(
    "capability", [pytest.param(one, marks=pytest.mark.emulated(one)) for one in (80, 90, 100)]
)
def test_every_opcode_of_the_kernels_has_a_case(capability: int) -> None:
    pytest.importorskip("triton")
    covered = set().union(*(case.opcodes for case in CASES), *map(opcodes, BODIES)) | {"ret"}
    without = {name: by for name, by in used(capability).items() if name not in covered}
    assert not without, without
