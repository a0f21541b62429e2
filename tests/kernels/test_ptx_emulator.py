"""The emulator of tests/ptx_emulator: how it rounds, what it counts, and planted faults that it must catch."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from ptx_cases import run, single
from ptx_emulator import launch as emulated
from ptx_emulator.memory import Fault
from ptx_emulator.program import UnknownOpcodeError, parse

from hpr_kernels import FactoredJacobian
from hpr_kernels.testing import assert_close


def mma(C: float, A: float, truncate: bool) -> float:
    """The first entry of D = A B + C where all entries of A are alike and those of B are 1."""
    body = (
        f"mov.b32 %r10, {single(A)}; mov.b32 %r11, {single(1.0)}; mov.b32 %r12, {single(C)};\n"
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
    "shared past the end": ("[%r4]", "[%r4 + 8192]", "expected one of an allocation"),
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
