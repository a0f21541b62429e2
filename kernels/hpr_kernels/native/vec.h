// A register of numbers, and the tiles of fused multiply-adds that every kernel is made of.
//
// kernels.c is compiled once per instruction set and type. REAL names the type, and the compiler's own macros name the
// instruction set. Each number of a result is one chain of fused multiply-adds in a documented order (docs/bits.md), and a
// register only puts independent chains side by side. So its width has no effect on the bits.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 64")

// W numbers are a line of 64 bytes. Rows are padded to whole lines, and sums over a row keep W partial sums.
// TILE_ROWS x TILE_REGISTERS and, for rows up to PAIR_ROWS, rows x PAIR_COLUMNS(rows) accumulators fit the registers.
#if defined(__AVX512F__)
#include <immintrin.h>
#define REGISTER 64
#define TILE_ROWS 8
#define TILE_REGISTERS 3
#define PAIR_ROWS 5
#define PAIR_COLUMNS(rows) (rows == 5 ? 5 : rows == 4 ? 6 : 8)
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define REGISTER 32
#define TILE_ROWS 6
#define TILE_REGISTERS 2
#define PAIR_ROWS 3
#define PAIR_COLUMNS(rows) (rows == 3 ? 4 : rows == 2 ? 6 : 8)
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define REGISTER 16
#define TILE_ROWS 6
#define TILE_REGISTERS 4
#define PAIR_ROWS 5
#define PAIR_COLUMNS(rows) (rows == 5 ? 5 : rows == 4 ? 6 : 8)
#else
#define REGISTER 16
#define TILE_ROWS 3
#define TILE_REGISTERS 4
#define PAIR_ROWS 3
#define PAIR_COLUMNS(rows) (rows == 3 ? 4 : rows == 2 ? 6 : 8)
#endif

typedef REAL real;
enum { W = 64 / sizeof(real), LANES = REGISTER / sizeof(real), PARTS = 64 / REGISTER };
typedef real vec __attribute__((vector_size(REGISTER)));
typedef vec vec_unaligned __attribute__((aligned(sizeof(real)), may_alias));

INLINE vec load(const real *p) { return *(const vec_unaligned *)p; }
INLINE void store(real *p, vec a) { *(vec_unaligned *)p = a; }
INLINE vec set(real a) { return a - (vec){0}; }

// Keeps a loaded value in its register, where GCC would read it from memory at every use.
#if defined(__AVX512F__)
#define KEEP(a) __asm__("" : "+v"(a))
#elif defined(__x86_64__)
#define KEEP(a) __asm__("" : "+x"(a))
#elif defined(__ARM_NEON)
#define KEEP(a) __asm__("" : "+w"(a))
#else
#define KEEP(a)
#endif

// a b + c, rounded once
INLINE vec fma_(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    if (sizeof(real) == 4) return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
    return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__) && defined(__FMA__)
    if (sizeof(real) == 4) return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__ARM_NEON)
    if (sizeof(real) == 4) return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    UNROLL for (int l = 0; l < LANES; l++)
        c[l] = sizeof(real) == 4 ? (real)__builtin_fmaf(a[l], b[l], c[l]) : (real)__builtin_fma(a[l], b[l], c[l]);
    return c;
#endif
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The next task; the calls of all threads share the counter.
INLINE int64_t take(int64_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

// The rows of the next block where `left` remain: blocks of at most `limit` rows and of about one size
INLINE int64_t rows_of(int64_t left, int64_t limit) { return up(left, up(left, limit)); }

// CASE(first, n) for the constant n that `value` is, of 1 … `limit`, which is at most 8
#define CASE_OF(value, limit, CASE, first)                                                          \
    switch (value) {                                                                                \
    case 1: CASE(first, 1) break;                                                                   \
    case 2: if (limit >= 2) CASE(first, 2) break;                                                   \
    case 3: if (limit >= 3) CASE(first, 3) break;                                                   \
    case 4: if (limit >= 4) CASE(first, 4) break;                                                   \
    case 5: if (limit >= 5) CASE(first, 5) break;                                                   \
    case 6: if (limit >= 6) CASE(first, 6) break;                                                   \
    case 7: if (limit >= 7) CASE(first, 7) break;                                                   \
    default: if (limit >= 8) CASE(first, 8)                                                         \
    }

// A sum of more terms than this is cut into blocks of so many terms, whose sums are added in order (docs/bits.md).
enum { TERMS = 128 };

// A block of NV registers and MR rows of `product`, and `terms` terms
#define PRODUCT(NV, MR)                                                                             \
    {                                                                                               \
        vec acc[MR][NV];                                                                            \
        UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) acc[i][j] = (vec){0}; \
        for (int64_t k = 0; k < terms; k++) {                                                       \
            vec right[NV];                                                                          \
            UNROLL for (int j = 0; j < NV; j++) {                                                   \
                right[j] = load(b + k * step + j * LANES);                                          \
                KEEP(right[j]);                                                                     \
            }                                                                                       \
            UNROLL for (int i = 0; i < MR; i++) {                                                   \
                vec left = set(from[i * row + k * column]);                                         \
                UNROLL for (int j = 0; j < NV; j++) acc[i][j] = fma_(left, right[j], acc[i][j]);    \
            }                                                                                       \
        }                                                                                           \
        UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) {                   \
            real *at = to + i * width + j * LANES;                                                  \
            store(at, add ? load(at) + acc[i][j] : acc[i][j]);                                      \
        }                                                                                           \
    }

// out[i, c] = Σ_k a[i row + k column] b[k step + c] of at most TERMS terms, for `rows` rows i and NV registers of c;
// with `add` the sums are added to `out`.
#define PRODUCT_ROWS(NV)                                                                            \
    for (int64_t i = 0, count; i < rows; i += count, from += count * row, to += count * width) {    \
        count = rows_of(rows - i, TILE_ROWS);                                                       \
        CASE_OF(count, TILE_ROWS, PRODUCT, NV)                                                      \
    }

// out[i, c] = Σ_k a[i row + k column] b[k step + c] over K terms in blocks of TERMS, for `rows` rows i and `registers`
// registers of c; with `add` the blocks are added to `out`. Rows of `out` are `width` apart.
static void product(int64_t rows, int64_t registers, int64_t K, const real *a, int64_t row, int64_t column,
                    const real *all, int64_t step, real *out, int64_t width, int add_all) {
    for (int64_t some; registers; registers -= some, all += some * LANES, out += some * LANES) {
        some = registers < TILE_REGISTERS ? 1 : TILE_REGISTERS;
        // One block of b stays in L1 while all rows pass by.
        int64_t first = 0;
        do {
            const real *from = a + first * column, *b = all + first * step;
            int64_t terms = least(K - first, TERMS);
            real *to = out;
            int add = add_all || first;
            if (some == 1) PRODUCT_ROWS(1)
            else PRODUCT_ROWS(TILE_REGISTERS)
        } while ((first += TERMS) < K);
    }
}
