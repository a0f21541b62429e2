// K[b, o, b', o'] = Σ_{s, s'} ⟨g[b, o, s], h[b', o', s']⟩ ⟨z[b, s], y[b', s']⟩ by the order "propagate".
//
// P[s, o'] = Σ_s' ⟨z_s, y_s'⟩ h[o', s'] of some units is made in registers, kept in L1, and multiplied by g at once.
// Each thread makes one call, and the calls take tasks from one counter.
#pragma once
#include "elementary.h"

typedef struct {
    int64_t B1, O1, S1, B2, O2, S2, N, F;
    int64_t symmetric;               // only pairs of examples b <= b' then
    int64_t add;                     // add to K
    int64_t tile;                    // right examples of a task
    const int64_t *reach1, *reach2;  // [O]: the last step that an output reaches, ascending
    const real *g, *h;               // of `pack_rows`: [B, lines, S, O, W]
    const real *z;                   // [B1, S1, F] with these strides
    int64_t z_example, z_step, z_column;
    const real *y;                   // of `pack_inputs`: [tiles, panels, F, W]
    real *K;                         // [B1, O1, B2, O2] with these strides, and 1 between right outputs
    int64_t K_example, K_output, K_other;
    int64_t *counter;                // zero before the first call
} Gram;

// Panels of W lanes that hold the rows (example, step) of one tile
INLINE int64_t panels(int64_t tile, int64_t S) { return up(tile * S, W); }

// Adjoints of example b to [lines, S, O, W], with zeros beyond N
void EXPORT(pack_rows)(int64_t b, int64_t O, int64_t S, int64_t N, const real *g, int64_t example, int64_t output,
                       int64_t step, int64_t unit, real *out) {
    int64_t lines = up(N, W);
    g += b * example;
    out += b * lines * S * O * W;
    for (int64_t s = 0; s < S; s++)
        for (int64_t o = 0; o < O; o++) {
            const real *from = g + s * step + o * output;
            real *to = out + (s * O + o) * W;
            for (int64_t line = 0; line < lines; line++, to += S * O * W) {
                int64_t count = least(W, N - line * W);
                if (count == W && unit == 1) memcpy(to, from + line * W, sizeof(real) * W);
                else for (int64_t l = 0; l < W; l++) to[l] = l < count ? from[(line * W + l) * unit] : 0;
            }
        }
}

// Inputs of one tile of right examples to [panels, F, W]: a lane is a row (example, step), zeros beyond the last
void EXPORT(pack_inputs)(int64_t number, int64_t tile, int64_t B, int64_t S, int64_t F, const real *y, int64_t example,
                         int64_t step, int64_t column, real *out) {
    int64_t rows = least(tile, B - number * tile) * S, lanes = panels(tile, S) * W;
    out += number * lanes * F;
    for (int64_t row = 0; row < lanes; row++) {
        const real *from = y + (number * tile + row / S) * example + row % S * step;
        real *to = out + row / W * F * W + row % W;
        for (int64_t f = 0; f < F; f++) to[f * W] = row < rows ? from[f * column] : 0;
    }
}

// The sum of a line: its second half is added to its first until one number is left.
INLINE real line_sum(const real *p) {
    real sums[W / 2];
    for (int l = 0; l < W / 2; l++) sums[l] = p[l] + p[l + W / 2];
    for (int width = W / 4; width; width /= 2)
        for (int l = 0; l < width; l++) sums[l] += sums[l + width];
    return sums[0];
}

// A block of MO left and NO right outputs of `contract`, in one register of the line. The next block's adjoints of a
// step are fetched ahead: they are far from those of the next step, so the processor does not foresee them.
#define CONTRACT(MO, NO)                                                                            \
    {                                                                                               \
        vec acc[MO][NO];                                                                            \
        UNROLL for (int i = 0; i < MO; i++) UNROLL for (int j = 0; j < NO; j++)                     \
            acc[i][j] = load(sums + (i * right + j) * W);                                           \
        for (int64_t line = 0; line < lines; line++) {                                              \
            const real *u = g + line * S * left * W, *v = P + line * S * right * W;                 \
            for (int64_t s = 0; s < steps; s++, u += left * W, v += right * W) {                    \
                vec g_[MO];                                                                         \
                UNROLL for (int i = 0; i < MO; i++) {                                               \
                    __builtin_prefetch(u + (MO + i) * W);                                           \
                    g_[i] = load(u + i * W);                                                        \
                    KEEP(g_[i]);                                                                    \
                }                                                                                   \
                UNROLL for (int j = 0; j < NO; j++) {                                               \
                    vec p_ = load(v + j * W);                                                       \
                    KEEP(p_);                                                                       \
                    UNROLL for (int i = 0; i < MO; i++) acc[i][j] = fma_(g_[i], p_, acc[i][j]);     \
                }                                                                                   \
            }                                                                                       \
        }                                                                                           \
        UNROLL for (int i = 0; i < MO; i++) UNROLL for (int j = 0; j < NO; j++)                     \
            store(sums + (i * right + j) * W, acc[i][j]);                                           \
    }
// sums[o, o', W] += Σ over some lines and all steps of g[line, s, o] P[line, s, o'], for `left` and `right` outputs
static void contract(int64_t lines, int64_t S, int64_t left, int64_t right, const int64_t *reach, const real *g_all,
                     const real *P_all, real *all) {
    for (int64_t o = 0, rows; o < left; o += rows) {
        rows = rows_of(left - o, PAIR_ROWS);
        int64_t steps = reach[o + rows - 1] + 1;
        for (int64_t p = 0, columns; p < right; p += columns) {
            columns = rows_of(right - p, PAIR_COLUMNS(rows));
            for (int part = 0; part < PARTS; part++) {
                const real *g = g_all + o * W + part * LANES, *P = P_all + p * W + part * LANES;
                real *sums = all + (o * right + p) * W + part * LANES;
                switch (rows) {
                case 1: CASE_OF(columns, PAIR_COLUMNS(1), CONTRACT, 1) break;
                case 2: CASE_OF(columns, PAIR_COLUMNS(2), CONTRACT, 2) break;
                case 3: CASE_OF(columns, PAIR_COLUMNS(3), CONTRACT, 3) break;
                case 4: if (PAIR_ROWS >= 4) CASE_OF(columns, PAIR_COLUMNS(4), CONTRACT, 4) break;
                default: if (PAIR_ROWS >= 5) CASE_OF(columns, PAIR_COLUMNS(5), CONTRACT, 5)
                }
            }
        }
    }
}

// One left example b with the right examples of one tile
static void block(const Gram *p, int64_t b, int64_t number, real *Ft, real *P, real *sums, int64_t right, int64_t together) {
    int64_t first = number * p->tile, width = panels(p->tile, p->S2) * W, lines = up(p->N, W);
    int64_t from = p->symmetric ? most(first, b) : first, to = least(first + p->tile, p->B2);
    int64_t S = p->reach1[p->O1 - 1] + 1;
    const real *g = p->g + b * lines * p->S1 * p->O1 * W, *y = p->y + number * width * p->F;
    for (int64_t c = (from - first) * p->S2 / W * W; c < (to - first) * p->S2; c += W)
        product(S, PARTS, p->F, p->z + b * p->z_example, p->z_step, p->z_column, y + c * p->F, W, Ft + c, width, 0);
    for (int64_t other = from; other < to; other++) {
        const real *h = p->h + other * lines * p->S2 * p->O2 * W, *factors = Ft + (other - first) * p->S2;
        real *K = p->K + b * p->K_example + other * p->K_other;
        for (int64_t start = 0, outputs; start < p->O2; start += outputs) {
            outputs = rows_of(p->O2 - start, right);
            memset(sums, 0, sizeof(real) * p->O1 * outputs * W);
            for (int64_t line = 0, some; line < lines; line += some) {
                some = least(together, lines - line);
                for (int64_t q = 0; q < some; q++)
                    for (int64_t o = start, end; o < start + outputs; o = end) {
                        for (end = o + 1; end < start + outputs && p->reach2[end] == p->reach2[o];) end++;
                        product(S, (end - o) * PARTS, p->reach2[o] + 1, factors, width, 1,
                                h + ((line + q) * p->S2 * p->O2 + o) * W, p->O2 * W,
                                P + (q * p->S1 * outputs + o - start) * W, outputs * W, 0);
                    }
                contract(some, p->S1, p->O1, outputs, p->reach1, g + line * p->S1 * p->O1 * W, P, sums);
            }
            for (int64_t o = 0; o < p->O1; o++)
                for (int64_t q = 0; q < outputs; q++) {
                    real *target = K + o * p->K_output + start + q, sum = line_sum(sums + (o * outputs + q) * W);
                    *target = p->add ? *target + sum : sum;
                }
        }
    }
}

// Returns whether there was memory.
int EXPORT(gram)(const Gram *p) {
    // P takes at most this many lines, 15 KiB, so that it stays in L1 with what is read beside it.
    const int64_t near = 240;
    int64_t right = rows_of(p->O2, most(4, least(12, near / p->S1)));
    int64_t together = most(1, near / (p->S1 * right));
    int64_t Ft = p->S1 * panels(p->tile, p->S2), P = together * p->S1 * right, sums = p->O1 * right;
    real *memory = aligned_alloc(64, 64 * (Ft + P + sums));
    if (!memory) return 0;
    uint64_t mode = enter_ieee();
    int64_t tiles = up(p->B2, p->tile);
    for (int64_t task; (task = __atomic_fetch_add(p->counter, 1, __ATOMIC_RELAXED)) < tiles * p->B1;) {
        int64_t number = task / p->B1, b = task % p->B1;
        if (!p->symmetric || b < (number + 1) * p->tile)
            block(p, b, number, memory, memory + Ft * W, memory + (Ft + P) * W, right, together);
    }
    leave_ieee(mode);
    free(memory);
    return 1;
}
