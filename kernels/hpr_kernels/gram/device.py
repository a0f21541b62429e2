"""K_ij = Σ_{s,s'} ⟨g_s^i, g_s'^j⟩ ⟨z_s^b, z_s'^b'⟩ on a GPU: a tile of K stays in registers until its sum is complete.

Rows are output-major in memory, (o, b) with b fastest, so the weights Ft = ⟨z_s^b, z_s'^b'⟩ of a tile of rows are a
contiguous block, the same for every output. K is written example-major. Programs share no data, and every sum has a
fixed order, so a network's kernel is the same bit for bit in any pack. docs/gpu.md has a picture and the counts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hpr_kernels.recurrence.split_products import plus_product

# A row of J has 10⁵ entries. Sums of partial sums of CHUNK terms round no worse than a library's product does.
CHUNK = tl.constexpr(512)


@triton.jit
def _product(
    left, right, first, last, N,
    TILE: tl.constexpr, TILE_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """⟨u_i, v_j⟩, [TILE, TILE], over the terms first … last - 1 of rows of N that start at `left` and `right`."""
    n = tl.arange(0, TILE_N)
    product = tl.zeros((TILE, TILE), tl.float32)
    for k in range(first, last, TILE_N):
        inside = (k + n < N)[None, :]
        u = tl.load(left[:, None] + (k + n)[None, :], mask=inside, other=0.0)
        v = tl.load(right[:, None] + (k + n)[None, :], mask=inside, other=0.0)
        product = plus_product(product, u, v.T, PRECISION)
    return product


@triton.jit
def _rows(g, network, steps, rows, i, stride):
    """Pointers to rows `i` of the first step of `network`, in g [R, steps, rows, N] with row stride `stride`.

    Indices beyond the last row wrap around to the first, whose numbers are finite; their results are not stored.
    """
    return (
        g
        + tl.cast(rows, tl.int64) * stride * steps * network
        + tl.cast(i % rows, tl.int64) * stride
    )


@triton.jit
def _contraction(
    left, right, Ft, b, c, start, stop1, stop2, step1, step2, S2, B1, B2, N,
    TILE: tl.constexpr, TILE_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ_{s,s'} ⟨g_s^i, h_s'^j⟩ Ft[s, b(i), s', c(j)], [TILE, TILE], s = start … stop1 - 1, s' = 0 … stop2 - 1.

    `left` and `right` point to the rows of step 0; the strides of a step are `step1` and `step2`. Ft [·, B1, S2, B2]
    starts at step `start`.
    """
    weight_row = tl.cast(S2, tl.int64) * B2
    block = Ft + (b * weight_row)[:, None] + c[None, :]
    total = tl.zeros((TILE, TILE), tl.float32)
    for s in range(start, stop1):
        for t in range(stop2):
            u, v = left + s * step1, right + t * step2
            product = _product(u, v, 0, N, N, TILE, TILE_N, PRECISION)
            # Ft is loaded after the product, because the product needs all registers.
            total += product * tl.load(block + ((s - start) * B1 * weight_row + t * B2))
    return total


@triton.jit
def gram_kernel(
    g, h, Ft, K, tiles, reach1, reach2, count, start, stop, S1, S2, rows1, rows2, stride1, stride2,
    quads1, quads2, quads, B1, B2, O1, O2, P,
    SYMMETRIC: tl.constexpr, ADD: tl.constexpr,
    TILE: tl.constexpr, TILE_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write, or with ADD add to, the tile `tiles[:, p]` of K [R, B1 O1, B2 O2]; with SYMMETRIC also its transpose.

    Without Ft, K is ⟨g_i, h_j⟩. Padded sizes and strides are passed divided by four, so that the compiler knows that
    every load starts at a multiple of 16 bytes.
    """
    p, network = tl.program_id(0) % count, tl.cast(tl.program_id(0) // count, tl.int64)
    tile1, tile2 = tl.load(tiles + p), tl.load(tiles + count + p)
    i, j = tile1 * TILE + tl.arange(0, TILE), tile2 * TILE + tl.arange(0, TILE)
    B, C, N = 4 * quads1, 4 * quads2, 4 * quads
    b, c = i % B, j % C
    left = _rows(g, network, S1, rows1, i, 4 * stride1)
    right = _rows(h, network, S2, rows2, j, 4 * stride2)
    if Ft is None:
        total = tl.zeros((TILE, TILE), tl.float32)
        for first in range(0, N, CHUNK):
            last = min(first + CHUNK, N)
            total += _product(left, right, first, last, N, TILE, TILE_N, PRECISION)
    else:
        last1 = tl.load(reach1 + network % P * tl.cdiv(rows1, TILE) + tile1)
        last2 = tl.load(reach2 + network % P * tl.cdiv(rows2, TILE) + tile2)
        weights = Ft + network // P * (stop - start) * B * S2 * C
        total = _contraction(
            left, right, weights, b, c, start, min(stop, last1 + 1), last2 + 1,
            tl.cast(rows1, tl.int64) * 4 * stride1, tl.cast(rows2, tl.int64) * 4 * stride2,
            S2, B, C, N, TILE, TILE_N, PRECISION,
        )  # fmt: skip
    row, column = b * O1 + i // B, c * O2 + j // C
    inside = ((i < rows1) & (b < B1))[:, None] & ((j < rows2) & (c < B2))[None, :]
    if SYMMETRIC:
        # A tile on the diagonal has both triangles, summed in different orders. Only the lower one is stored.
        inside = inside & (i[:, None] >= j[None, :])
    M1, M2 = tl.cast(B1, tl.int64) * O1, tl.cast(B2, tl.int64) * O2
    K += network * M1 * M2
    place = K + (row * M2)[:, None] + column[None, :]
    if ADD:
        total += tl.load(place, mask=inside)
    tl.store(place, total, mask=inside)
    if SYMMETRIC:
        tl.store(K + row[:, None] + (column * M2)[None, :], total, mask=inside)


@triton.jit
def _kernel_tile(
    g, h, Ft, rates1, rates2, diagonal1, diagonal2, i, j, network, last1, last2, S, t, rows1, rows2,
    stride1, stride2, B, C, N, N_out, TILE: tl.constexpr, TILE_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of a tangent kernel: the contraction, minus the diagonal of W_h, plus the products of rates by w."""
    K = _contraction(
        _rows(g, network, S, rows1, i, stride1), _rows(h, network, S, rows2, j, stride2),
        Ft + network * S * B * S * C, i % B, j % C, 0, last1 + 1, last2 + 1,
        tl.cast(rows1, tl.int64) * stride1, tl.cast(rows2, tl.int64) * stride2,
        S, B, C, N, TILE, TILE_N, PRECISION,
    )  # fmt: skip
    if diagonal1 is not None:
        d = _rows(diagonal1, network, 1, rows1, i, stride1)
        e = _rows(diagonal2, network, 1, rows2, j, stride2)
        K -= _product(d, e, 0, N, N, TILE, TILE_N, PRECISION)
    if rates1 is not None:
        o, p = i // B, j // C
        # ∂y_{t,k}/∂w_k is the rate at t + 1, which is the same row for all k.
        a = _rows(rates1, network, 1, t * B, o // N_out * B + i % B, stride1)
        b = _rows(rates2, network, 1, t * C, p // N_out * C + j % C, stride2)
        product = _product(a, b, 0, N, N, TILE, TILE_N, PRECISION)
        K += tl.where((o % N_out)[:, None] == (p % N_out)[None, :], product, 0.0)
    return K


@triton.jit
def alignment_kernel(
    g, h, Ft, rates1, rates2, diagonal1, diagonal2, sums, tiles, reach1, reach2, count, R, S, t,
    rows1, rows2, stride1, stride2, quads1, quads2, quads, B1, B2, N_out,
    SYMMETRIC: tl.constexpr, TILE: tl.constexpr, TILE_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write Σ K_f K_0, Σ K_f², Σ K_0² over a tile to sums [R, count, 3]; network r has K_0, network R + r has K_f."""
    p, r = tl.program_id(0) % count, tl.cast(tl.program_id(0) // count, tl.int64)
    tile1, tile2 = tl.load(tiles + p), tl.load(tiles + count + p)
    i, j = tile1 * TILE + tl.arange(0, TILE), tile2 * TILE + tl.arange(0, TILE)
    last1, last2 = tl.load(reach1 + tile1), tl.load(reach2 + tile2)
    B, C, N = 4 * quads1, 4 * quads2, 4 * quads
    K_0 = tl.zeros((TILE, TILE), tl.float32)
    # `K_f = K_0` would be one value under two names, of which Triton carries only one through the loop.
    K_f = tl.zeros((TILE, TILE), tl.float32)
    # Two calls instead of a loop would double the program and its registers.
    for which in range(2):
        K_0 = K_f
        K_f = _kernel_tile(
            g, h, Ft, rates1, rates2, diagonal1, diagonal2, i, j, r + which * R, last1, last2, S, t,
            rows1, rows2, 4 * stride1, 4 * stride2, B, C, N, N_out, TILE, TILE_N, PRECISION,
        )  # fmt: skip
    inside = ((i < rows1) & (i % B < B1))[:, None] & ((j < rows2) & (j % C < B2))[None, :]
    K_0 = tl.where(inside, K_0, 0.0).to(tl.float64)
    K_f = tl.where(inside, K_f, 0.0).to(tl.float64)
    weight = 1.0
    if SYMMETRIC:
        # A tile off the diagonal counts for its transpose, too.
        weight += tile1 != tile2
    place = sums + 3 * (r * count + p)
    tl.store(place, weight * tl.sum(K_f * K_0))
    tl.store(place + 1, weight * tl.sum(K_f * K_f))
    tl.store(place + 2, weight * tl.sum(K_0 * K_0))
