"""The reader of compiled kernels finds the quantities that budgets limit."""

from __future__ import annotations

from typing import Any

import pytest

from hpr_kernels.compiled import CAPABILITIES, Specimen, compile_for, specialise

triton = pytest.importorskip("triton")
tl = triton.language


@triton.jit
def add_kernel(x, y, row, columns, scale, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    n = tl.arange(0, BLOCK)
    here = n < columns
    offsets = tl.program_id(0) * row + n
    total = tl.load(x + offsets, mask=here) + scale * tl.load(y + offsets, mask=here)
    tl.store(x + offsets, total, mask=here)


def specimen(**changes: Any) -> Specimen:
    arguments = {"x": "*fp32", "y": "*fp32", "row": 304, "columns": 304, "scale": 2.0, "BLOCK": 512}
    return Specimen("add", add_kernel, arguments | changes, (1,), 4, 3, 0, 0)


def test_arguments_are_specialised_as_in_a_launch() -> None:
    signature, constants, attributes = specialise(specimen(row=1, columns=300))
    assert signature == {
        "x": "*fp32",
        "y": "*fp32",
        "row": "constexpr",
        "columns": "i32",
        "scale": "fp32",
        "BLOCK": "constexpr",
    }
    assert constants == {(2,): 1, (5,): 512}
    assert set(attributes) == {(0,), (1,)}
    assert set(specialise(specimen())[2]) == {(0,), (1,), (2,), (3,)}
    assert specialise(specimen(row=1 << 31))[0]["row"] == "i64"


def test_missing_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"arguments: expected those of add.*\['size'\]"):
        specialise(specimen(size=3))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_report(capability: int) -> None:
    compiled = compile_for(specimen(), capability)
    assert 0 < compiled.registers < 64
    assert (compiled.stack, compiled.local, compiled.spills) == (0, 0, 0)
    assert compiled.global_loads() == {128: 2}
    assert compiled.count("STG") == 1
    assert compiled.tensor_core == 0


def test_spills_are_seen() -> None:
    """The block is too large for its threads' registers."""
    compiled = compile_for(specimen(BLOCK=1 << 16, columns=1 << 16), 80)
    assert compiled.stack > 0
    assert compiled.spills > 0


def test_unaligned_rows_are_seen() -> None:
    assert set(compile_for(specimen(row=303), 90).global_loads()) == {32}
