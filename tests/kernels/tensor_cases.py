"""A product of 10.0 as PTX: D [64, n] = A [64, k] B [n, k]ᵀ + D in tensor memory, by 128 threads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ptx_cases import run
from ptx_emulator.memory import Array

ALLOC = "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32"
RELINQUISH = "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned"
DEALLOC = "tcgen05.dealloc.cta_group::1.sync.aligned.b32"
COMMIT = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64"
TRY_WAIT = "mbarrier.try_wait.parity.shared::cta.b64"
FENCE = "fence.proxy.async.shared::cta;"
INIT = "@%p3 mbarrier.init.shared::cta.b64 [%r10], 1;\n"
INVAL = "@%p3 mbarrier.inval.shared::cta.b64 [%r10];\n"
WAIT = f"""{{
.reg .pred complete;
waitLoop:
{TRY_WAIT} complete, [%r10], 0;
@!complete bra.uni waitLoop;
}}
"""
WAIT_LD, WAIT_ST = (f"tcgen05.wait::{one}.sync.aligned;\n" for one in ("ld", "st"))
# Columns of the allocation of 128 where A begins; D begins at 0.
A_COLUMN = 64
# By the bytes of a row: the swizzle's number in a descriptor, and how many rows share a permutation of 16 bytes.
SWIZZLES = {32: (6, 4), 64: (4, 2), 128: (2, 1)}


class Shape(NamedTuple):
    """Sizes of a product. A is in tensor memory or not, and the matrices there begin at a lane, 0 or 16."""

    n: int
    k: int
    in_tensor: bool
    lane: int = 0

    @property
    def matrix_b(self) -> int:
        """The address of B in shared memory, behind A."""
        return 64 * 4 * self.k

    @property
    def barrier(self) -> int:
        """The address of the mbarrier. The word of the allocation follows it."""
        return self.matrix_b + self.n * 4 * self.k

    @property
    def instruction(self) -> int:
        """The instruction descriptor: sums of fp32, A and B of tf32, N and M = 64."""
        return 1 << 4 | 2 << 7 | 2 << 10 | self.n // 8 << 17 | 64 // 16 << 24

    def descriptor(self, start: int) -> int:
        """The descriptor of a matrix whose rows, in groups of 8, lie side by side."""
        width = 4 * self.k
        return SWIZZLES[width][0] << 61 | 1 << 46 | 8 * width // 16 << 32 | start // 16

    def products(self) -> str:
        """The instructions for each 8 of k, and their commit."""
        text = ""
        for step in range(self.k // 8):
            left = (
                f"[%r9 + {A_COLUMN + 8 * step}]"
                if self.in_tensor
                else f"{self.descriptor(32 * step)}"
            )
            right = self.descriptor(self.matrix_b + 32 * step)
            text += f"@%p3 tcgen05.mma.cta_group::1.kind::tf32 [%r9], {left}, {right}, {self.instruction}, 1;\n"
        return f"{text}@%p3 {COMMIT} [%r10];\n"


def _registers(count: int) -> str:
    return "{" + ", ".join(f"%r{20 + j}" for j in range(count)) + "}"


def body(shape: Shape) -> str:
    """Store D, and A where it is in tensor memory, multiply, and give each thread its half of a row of D."""
    n, k = shape.n // 2, shape.k // 2
    words = (64 + shape.n) * shape.k
    copies = "".join(
        f"ld.global.b32 %r15, [%rd4 + {512 * i}]; st.shared.b32 [%r2 + {512 * i}], %r15;\n"
        for i in range(words // 128)
    )
    starts = "".join(f"ld.global.b32 %r{20 + j}, [%rd7 + {4 * j}];" for j in range(n))
    lefts = "".join(f"ld.global.b32 %r{20 + j}, [%rd8 + {4 * j}];" for j in range(k))
    left = f"""{lefts}
tcgen05.st.sync.aligned.16x32bx2.x{k}.b32 [%r6 + {A_COLUMN}], {k}, {_registers(k)};
{WAIT_ST}"""
    results = "".join(f"st.global.b32 [%rd9 + {4 * j}], %r{20 + j};" for j in range(n))
    return f"""mov.b32 %r10, {shape.barrier}; mov.b32 %r3, {shape.barrier + 8}; setp.lt.u32 %p1, %r1, 32;
mul.wide.u32 %rd6, %r1, {4 * n}; add.s64 %rd7, %rd1, %rd6; add.s64 %rd9, %rd2, %rd6;
add.s64 %rd7, %rd7, {4 * words};
mul.wide.u32 %rd6, %r1, {4 * k}; add.s64 %rd8, %rd1, %rd6; add.s64 %rd8, %rd8, {4 * (words + 128 * n)};
@%p1 {ALLOC} [%r3], 128;
bar.sync 0;
ld.shared.b32 %r4, [%r3];
bar.sync 0;
@%p1 {RELINQUISH};
{copies}
add.s32 %r9, %r4, {shape.lane << 16}; shr.u32 %r5, %r1, 5; shl.b32 %r6, %r5, 21; add.s32 %r6, %r6, %r9;
{starts}
tcgen05.st.sync.aligned.16x32bx2.x{n}.b32 [%r6], {n}, {_registers(n)};
{WAIT_ST}{left if shape.in_tensor else ""}{FENCE}
elect.sync %r7|%p2, -1; and.pred %p3, %p1, %p2;
{INIT}bar.sync 0; // before the products
{shape.products()}{WAIT}bar.sync 0; // after the products
{INVAL}tcgen05.ld.sync.aligned.16x32bx2.x{n}.b32 {_registers(n)}, [%r6], {n};
{WAIT_LD}{results}
bar.sync 0; // before the end
@%p1 {DEALLOC} %r4, 128;"""


def swizzled(matrix: Array) -> Array:
    """A matrix as shared memory has it: in row r, 16 bytes number i are where i xor (r / rows) would be."""
    rows, k = matrix.shape
    per, pieces = SWIZZLES[4 * k][1], k // 4
    found = np.zeros((rows, pieces, 4), np.float32)
    for r in range(rows):
        for i in range(pieces):
            found[r, i ^ (r // per % pieces)] = matrix[r, 4 * i : 4 * i + 4]
    return found.ravel()


def halves(matrix: Array) -> Array:
    """What each thread has of 64 rows: warp w has rows 16 w … 16 w + 15, and lane l half l / 16 of row l % 16."""
    half = matrix.shape[1] // 2
    threads = [matrix[16 * (t // 32) + t % 16, half * (t % 32 // 16) :][:half] for t in range(128)]
    return np.stack(threads).astype(np.float32)


def product(
    shape: Shape, A: Array, B: Array, D: Array, text: str | None = None, *, truncate: bool = False
) -> Array:
    """The result by threads, as `halves` has it, of the body or of `text` in its place."""
    parts = [swizzled(A), swizzled(B), halves(D).ravel(), halves(A).ravel()]
    given, result = np.concatenate(parts), np.zeros((128, shape.n // 2), np.float32)
    run(text or body(shape), given, result, 128, shared=shape.barrier + 16, truncate=truncate)
    return result


def numbers(shape: Shape) -> tuple[Array, Array, Array, Array]:
    """A, B, D and the result. A row m of A is m / k + 1 at m % k, so that the result is that times a column of B."""
    A = np.zeros((64, shape.k), np.float32)
    for m in range(64):
        A[m, m % shape.k] = m // shape.k + 1
    B = np.array([[j + 4 * i for i in range(shape.k)] for j in range(shape.n)], np.float32)
    D = np.array([[100 * m + j for j in range(shape.n)] for m in range(64)], np.float32)
    result = [
        [(m // shape.k + 1) * (j + 4 * (m % shape.k)) + 100 * m + j for j in range(shape.n)]
        for m in range(64)
    ]
    return A, B, D, np.array(result, np.float32)


SHAPES = [
    Shape(32, 8, False),
    Shape(64, 16, True),
    Shape(32, 32, True, 16),
    Shape(64, 32, False, 16),
]
# The opcodes of these count as covered.
TENSOR_BODIES = [body(shape) for shape in SHAPES]
