"""The emulator's tensor memory, mbarriers and products of 10.0: results by hand, and planted faults it must catch."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_cases import run
from ptx_emulator.memory import Fault
from ptx_emulator.program import UnknownOpcodeError
from ptx_emulator.tensor_products import columns_of_product, shared_matrix
from tensor_cases import (
    ALLOC,
    COMMIT,
    DEALLOC,
    FENCE,
    INIT,
    INVAL,
    RELINQUISH,
    SHAPES,
    WAIT,
    WAIT_LD,
    WAIT_ST,
    Shape,
    body,
    halves,
    numbers,
    product,
)

SHARED, TENSOR = SHAPES[:2]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product(shape: Shape) -> None:
    """Rows, columns, swizzles and lanes are those of the PTX ISA (tcgen05, "Layout F", "Matrix fragments")."""
    A, B, D, result = numbers(shape)
    assert product(shape, A, B, D).tolist() == halves(result).tolist()


@pytest.mark.parametrize("shape", SHAPES[:2], ids=["A in shared memory", "A in tensor memory"])
def test_products_round_in_two_ways(shape: Shape) -> None:
    """As those of a warp: 8 · 0.75 · 2⁻²⁶ is 0.75 of the distance from 1 to the next number of fp32."""

    def first(left: float, start: float, truncate: bool) -> float:
        A, B = np.zeros((64, shape.k)), np.ones((shape.n, shape.k))
        A[:, :8] = left
        found = product(shape, A, B, np.full((64, shape.n), start), truncate=truncate)
        assert (found == found[0, 0]).all()
        return float(found[0, 0])

    assert first(0.75 * 2**-26, 1.0, False) == 1 + 2**-23
    assert first(0.75 * 2**-26, 1.0, True) == 1
    # The last 13 bits of a TF32 number do not count.
    assert first(1 + 2**-11, 0.0, False) == 8


COMMITTED = f"@%p3 {COMMIT} [%r10];\n"
ALLOCATED, FREED = f"@%p1 {ALLOC} [%r3], 128;\n", f"@%p1 {DEALLOC} %r4, 128;"
RELINQUISHED = f"@%p1 {RELINQUISH};\n"
BEFORE, AFTER, END = (
    f"bar.sync 0; // {text}\n" for text in ("before the products", "after the products", "before the end")
)  # fmt: skip
LOAD, STORE = (f"tcgen05.{one}.sync.aligned.16x32bx2." for one in ("ld", "st"))
STORE_1, LOAD_1 = f"{STORE}x1.b32 [%r6], 1, {{%r1}};\n", f"{LOAD}x1.b32 {{%r20}}, [%r6], 1;\n"
STORE_A = STORE_1.replace("[%r6]", "[%r6 + 64]")
NOT_WAITED = r"expected a tcgen05\.mma that was waited for"
NOT_ALLOCATED = "of an allocation"
NO_WAIT_LD, NO_WAIT_ST = (rf"expected tcgen05\.wait::{one}" for one in ("ld", "st"))
NO_FENCE = r"since the last fence\.proxy\.async"


def _before(new: str, old: str) -> tuple[str, str]:
    return old, new + old


# The texts that are replaced, each with its replacement, and what is reported.
FAULTS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "no wait for a store": ([(WAIT_ST, "")], r"tcgen05\.mma.*expected tcgen05\.wait::st"),
    "no wait for a load": ([(WAIT_LD, "")], r"tcgen05\.dealloc.*expected tcgen05\.wait::ld"),
    "a register written before the wait": ([_before("mov.b32 %r20, 0;", WAIT_LD)], "before a write of a register"),
    "a store before the wait for a load": ([_before(STORE_1, WAIT_LD)], NO_WAIT_LD),
    "a load before the wait for a store": ([_before(LOAD_1, WAIT_ST)], NO_WAIT_ST),
    "a wait for loads, of a store": ([(WAIT_ST, WAIT_LD)], NO_WAIT_ST),
    "no wait for the product": ([(WAIT, ""), (INVAL, "")], NOT_WAITED),
    "another parity": ([("[%r10], 0;", "[%r10], 1;"), (INVAL, "")], NOT_WAITED),
    "a parity of 2": ([("[%r10], 0;", "[%r10], 2;")], "expected a parity of 0 or 1"),
    "phases that differ": ([("[%r10], 0;", "[%r10], %r5;")], "one mbarrier and one phase of all"),
    "a wait of one warp without a barrier": (
        [_before("@!%p1 bra $END;\n", WAIT), (AFTER, "$END:\n"), (INVAL, "")], NOT_WAITED,
    ),
    "no commit": ([(COMMITTED, "")], "all threads wait for good"),
    "a commit before the product": ([(COMMITTED, ""), (BEFORE, BEFORE + COMMITTED)], NOT_WAITED),
    "two commits of one phase": ([(COMMITTED, 2 * COMMITTED)], "before the arrival of the next"),
    "no proxy fence": ([(FENCE, "")], NO_FENCE),
    "a proxy fence before the copies": ([(FENCE, ""), _before(FENCE, RELINQUISHED)], NO_FENCE),
    "no barrier before the products": ([(BEFORE, "")], "since the last barrier"),
    "no barrier before the end": ([(END, "")], "a warp writes what another read"),
    "no barrier behind the allocation": ([(ALLOCATED + "bar.sync 0;", ALLOCATED)], "reads what another wrote"),
    "lanes of another warp": ([("%r5, 21", "%r5, 20")], "the warp's own quarter"),
    "one warp's lanes for all": ([("shl.b32 %r6, %r5, 21", "mov.b32 %r6, 0")], "the warp's own quarter"),
    "addresses of a warp that differ": ([_before("add.s32 %r6, %r6, %r1;", LOAD)], "one address of all threads"),
    "cells that nobody wrote": ([("[%r6], 16;", "[%r6 + 1], 16;")], "expected cells that were written"),
    "past the allocation": ([("[%r6], 16;", "[%r6 + 128], 16;")], NOT_ALLOCATED),
    "a column that is not the allocation's": ([("add.s32 %r9, %r4, 0", "mov.b32 %r9, 0")], NOT_ALLOCATED),
    "a product past the allocation": ([("kind::tf32 [%r9]", "kind::tf32 [%r9 + 97]")], NOT_ALLOCATED),
    "a product from lane 8 on": ([("kind::tf32 [%r9]", "kind::tf32 [%r9 + 524288]")], "from lane 0 or 16 on"),
    "a part of a warp": ([_before("setp.lt.u32 %p5, %r1, 8; @%p5 ", LOAD)], "all threads of a warp"),
    "a load after the end": ([_before(f"bar.sync 0; {FREED}", LOAD)], NOT_ALLOCATED),
    "an allocation that stays": ([(FREED, "")], "tensor memory to be freed"),
    "an allocation freed in part": ([(FREED, f"@%p1 {DEALLOC} %r4, 64;")], "columns of one allocation"),
    "an allocation freed twice": ([(FREED, 2 * FREED)], "columns of one allocation"),
    "an allocation without the right": ([_before(RELINQUISHED, ALLOCATED)], r"after tcgen05\.relinquish"),
    "an allocation too many": ([(RELINQUISHED, f"@%p1 {ALLOC} [%r3], 512;")], "expected 512 free columns"),
    "an allocation by all warps": ([(f"@%p1 {ALLOC}", ALLOC)], "expected one warp, got 4"),
    "an allocation of 48 columns": ([(ALLOCATED, f"@%p1 {ALLOC} [%r3], 48;")], "of 48 columns"),
    "a product by a warp": ([("@%p3 tcgen05.mma", "@%p1 tcgen05.mma")], "expected one thread, got 32"),
    "A written before the wait": ([_before("bar.sync 0; st.shared.b32 [%r2], %r1;\n", WAIT)], "writes what tcgen05"),
    "A written without a barrier": ([_before("st.shared.b32 [%r2], %r1;\n", WAIT)], "a warp writes what another read"),
    "D written before the wait": ([_before(STORE_1, WAIT)], NOT_WAITED),
    "no mbarrier": ([(INIT, "")], "expected an mbarrier"),
    "an mbarrier of two arrivals": ([("[%r10], 1;", "[%r10], 2;")], r"mbarrier\.init"),
    "an mbarrier made twice": ([(INIT, 2 * INIT)], r"expected mbarrier\.inval"),
    "an mbarrier that others do not know": ([(INIT, ""), (BEFORE, BEFORE + INIT)], "that another made since"),
    "an mbarrier overwritten": ([_before("@%p3 st.shared.b32 [%r10], %r1;\n", WAIT)], "expected an mbarrier"),
    "an mbarrier given up before its arrival": ([(INVAL, ""), _before(INVAL, WAIT)], r"before mbarrier\.inval"),
    "an mbarrier given up while others wait": ([(AFTER, "")], "a warp writes what another read"),
}  # fmt: skip
# Another product, of 8 columns of D, from and into what another product reads or writes.
OTHER = f"{TENSOR.descriptor(TENSOR.matrix_b)}, {Shape(8, 8, True).instruction}, 0;\n"
OF_A, OF_D = (
    f"@%p3 tcgen05.mma.cta_group::1.kind::tf32 {one}, {OTHER}"
    for one in ("[%r9 + 80], [%r9]", "[%r9 + 8], [%r9 + 64]")
)
OF_A_IN_TENSOR_MEMORY = {
    "no wait for A": ([(f"{WAIT_ST}{FENCE}", FENCE)], r"tcgen05\.mma.*expected tcgen05\.wait::st"),
    "A in tensor memory written before the wait": ([_before(STORE_A, WAIT)], NOT_WAITED),
    "A of other lanes": ([("[%r9 + 64]", "[%r9 + 1048640]")], "A and D from the same lane on"),
    "A in D": ([("[%r9 + 64]", "[%r9 + 32]")], "A and D in different cells"),
    "A that nobody wrote": ([("[%r9 + 72]", "[%r9 + 80]")], "expected cells that were written"),
    "A of a product in flight": ([_before(OF_A, COMMITTED)], NOT_WAITED),
    "D of another sum in flight": ([_before(OF_D, COMMITTED)], NOT_WAITED),
    "no barrier behind A": ([(BEFORE, BEFORE + STORE_A + WAIT_ST)], "a barrier after an access of another warp"),
}  # fmt: skip
PLANTED = [(SHARED, name, *fault) for name, fault in FAULTS.items()]
PLANTED += [(TENSOR, name, *fault) for name, fault in OF_A_IN_TENSOR_MEMORY.items()]


@pytest.mark.parametrize(
    ("shape", "replaced", "message"),
    [(shape, replaced, message) for shape, _, replaced, message in PLANTED],
    ids=[name for _, name, *_ in PLANTED],
)
def test_planted_fault_of_tensor_memory(
    shape: Shape, replaced: list[tuple[str, str]], message: str
) -> None:
    text = body(shape)
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises((Fault, UnknownOpcodeError), match=message):
        product(shape, *numbers(shape)[:3], text)


@pytest.mark.parametrize(
    "text",
    [
        f"{LOAD}x2.b32 {{%r20}}, [%r6], 2;",
        f"tcgen05.mma.cta_group::1.kind::tf32 [%r9], 0, 0, {SHARED.instruction}, 1, 0;",
        "elect.sync %r7|%p2, 15;",
        "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r20}, [%r6];",
        "tcgen05.mma.cta_group::1.kind::f16 [%r9], 0, 0, 0, 1;",
        "tcgen05.fence::after_thread_sync;",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(UnknownOpcodeError):
        run(text, np.zeros(1, np.uint32), np.zeros(1, np.uint32))


def test_a_register_may_be_read_before_the_wait() -> None:
    """A load and what depends on its registers are ordered (PTX ISA, "Register dependencies, same thread")."""
    A, B, D, result = numbers(SHARED)
    text = body(SHARED).replace(WAIT_LD, f"add.f32 %r20, %r20, 0f00000000;{WAIT_LD}")
    with pytest.raises(Fault, match="before a write of a register"):
        product(SHARED, A, B, D, text)
    read = body(SHARED).replace(WAIT_LD, f"mov.b32 %r15, %r20; {WAIT_LD}mov.b32 %r20, %r15;")
    assert product(SHARED, A, B, D, read).tolist() == halves(result).tolist()


def test_a_warp_that_waits_for_another_lets_it_go_first() -> None:
    """Warps 1 … 3 reach the wait, which stands before the product, while warp 0 has yet to issue it."""
    A, B, D, result = numbers(SHARED)
    issue = SHARED.products()
    away = f"bra.uni $ISSUE;\n$WAIT:\n{WAIT}bra.uni $ON;\n$ISSUE:\n@!%p1 bra $WAIT;\n"
    text = body(SHARED).replace(issue + WAIT, f"{away}{issue}bra.uni $WAIT;\n$ON:\n")
    assert product(SHARED, A, B, D, text).tolist() == halves(result).tolist()
    with pytest.raises(Fault, match="all threads wait for good"):
        product(SHARED, A, B, D, text.replace(COMMITTED, ""))


def test_an_instruction_descriptor_has_no_other_bit() -> None:
    """Types, sparsity, saturation, signs, transposes, M and the reserved bits are refused, whichever is wrong."""
    right = SHARED.instruction
    assert columns_of_product(right) == 32
    for bit in {*range(32)} - {*range(17, 23)}:
        with pytest.raises(
            UnknownOpcodeError, match=f"instruction descriptor {right ^ 1 << bit:#x}"
        ):
            columns_of_product(right ^ 1 << bit)
    for n in (0, 264, 504):
        with pytest.raises(UnknownOpcodeError, match="instruction descriptor"):
            columns_of_product(right & ~(0x3F << 17) | n // 8 << 17)


def test_a_matrix_descriptor_has_no_other_bit() -> None:
    """Reserved and fixed bits, base offsets, absolute distances along K and other swizzles are refused."""
    right = SHARED.descriptor(256)
    # Rows of 32 bytes, whose halves are swapped in rows 4 … 7 of each 8.
    assert shared_matrix(right, 16)[[0, 1, 4, 8], 0].tolist() == [256, 288, 256 + 128 + 16, 512]
    used = {*range(14), 16, *range(32, 46)}
    for bit in {*range(64)} - used:
        # Of the swizzles of 32, 64 and 128 bytes, 6, 4 and 2, one bit makes another.
        if (right ^ 1 << bit) >> 61 not in (2, 4, 6):
            with pytest.raises(
                UnknownOpcodeError, match=f"matrix descriptor {right ^ 1 << bit:#x}"
            ):
                shared_matrix(right ^ 1 << bit, 16)
    for wrong in (right + 1, right + 8, right + (8 << 32)):
        with pytest.raises(Fault, match="of the first of 8 rows"):
            shared_matrix(wrong, 16)


def test_the_elected_thread_is_one_of_each_warp() -> None:
    result = np.zeros(64, np.uint32)
    given = np.zeros(1, np.uint32)
    run("elect.sync %r20|%p1, -1; @%p1 st.global.b32 [%rd5], 1;", given, result, threads=64)
    assert result.reshape(2, 32).sum(1).tolist() == [1, 1]
    run("elect.sync %r20|%p1, -1; st.global.b32 [%rd5], %r20;", given, result, threads=64)
    assert result.tolist() == [31] * 64
    with pytest.raises(Fault, match="all threads of a warp"):
        run("setp.lt.u32 %p2, %r1, 9; @%p2 elect.sync %r20|%p1, -1;", given, result)
