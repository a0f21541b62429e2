"""The reader of compiled kernels finds the quantities that budgets limit."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import pytest

from hpr_kernels.checks import Precision
from hpr_kernels.compiled import CAPABILITIES, PAPER_SIZES, Specimen, compile_for, specialise

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


def products_of_a_tile(specimen: Specimen) -> int:
    """Multiply-adds of one round of each loop over terms that a kernel has, of TF32 numbers at "tf32x3"."""
    sizes = {k: v for k, v in specimen.arguments.items() if k.startswith(("TILE", "BLOCK"))}
    # The contraction and the rates; the outputs and ∂L/∂a.
    loops = 2 if specimen.name.startswith(("tangent", "cross", "squared")) else 1
    each = 3 if specimen.arguments["PRECISION"] == "tf32x3" else 1
    return prod(sizes.values()) * sizes.get("TILE", 1) * loops * each


def launches_with_products(precision: Precision) -> list[Specimen]:
    """The launches of each kernel at the first of the paper's sizes, and that of two-layer regressions."""
    from hpr_kernels.gram import triton as gram
    from hpr_kernels.loss import triton as loss
    from hpr_kernels.recurrence import triton as recurrence
    from hpr_kernels.tangent import triton as tangent
    from hpr_kernels.update import triton as update

    losses = loss.specimens(precision)
    found = [losses[0], losses[-1], tangent.specimens(precision)[0]]
    for one in (gram, recurrence, update):
        found += one.specimens(precision)[:3]
    return found


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
def test_no_product_is_made_twice(precision: Precision, capability: int) -> None:
    """Warps that share rows of a tile would issue more tensor instructions than the tile has."""
    for specimen in launches_with_products(precision):
        made = compile_for(specimen, capability).tensor_products(specimen.num_warps)
        # At "tf32" the pipelined loops with UTCHMMA have their first round before the loop, too.
        pipelined = specimen.name.startswith(("gram", "tangent"))
        copies = 2 if pipelined and (precision, capability) == ("tf32", 100) else 1
        assert made == products_of_a_tile(specimen) * copies, specimen.name


def test_no_product_is_made_twice_on_ordinary_units() -> None:
    """The instructions beyond a tile's products, of momentum, the leak or a logarithm, are a tenth of these at most."""
    for specimen in launches_with_products("ieee"):
        made = 32 * specimen.num_warps * compile_for(specimen, 80).count("FFMA")
        assert made <= 1.1 * products_of_a_tile(specimen), specimen.name


# Of 17 to 32 outputs, y's tile is square: four warps cover 64 rows of its 32, so that y is made twice. No run has them.
MADE = {1: 1, 16: 1, 17: 1.5, 32: 1.5, 33: 1, 128: 1}


@pytest.mark.parametrize("N_out", MADE)
def test_products_of_a_loss(N_out: int) -> None:
    from hpr_kernels.loss import triton

    for classes in (True, False):
        size = replace(PAPER_SIZES[0], N_out=N_out)
        specimen = triton._specimen(size, "tf32x3", classes)
        made = compile_for(specimen, 80).tensor_products(specimen.num_warps)
        assert made == products_of_a_tile(specimen) * MADE[N_out], specimen.name
