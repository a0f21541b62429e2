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

typedef struct {
    int64_t B, O, S, N;
    const real *g;                   // [B, O, S, N] with these strides
    int64_t example, output, step, unit;
    real *out;                       // [B, lines, S, O, W], with zeros beyond N
    int64_t *counter;                // zero before the first call
} Rows;

int EXPORT(pack_rows)(const Rows *p) {
    int64_t lines = up(p->N, W), O = p->O, S = p->S;
    for (int64_t task; (task = take(p->counter)) < p->B;)
        for (int64_t s = 0; s < S; s++)
            for (int64_t o = 0; o < O; o++) {
                const real *from = p->g + task * p->example + s * p->step + o * p->output;
                real *to = p->out + ((task * lines * S + s) * O + o) * W;
                for (int64_t line = 0; line < lines; line++, to += S * O * W) {
                    int64_t first = line * W, count = least(W, p->N - first);
                    if (count == W && p->unit == 1) memcpy(to, from + first, sizeof(real) * W);
                    else for (int64_t l = 0; l < W; l++) to[l] = l < count ? from[(first + l) * p->unit] : 0;
                }
            }
    return 1;
}

typedef struct {
    int64_t B, S, F, tile;           // tile: examples of one
    const real *y;                   // [B, S, F] with these strides
    int64_t example, step, column;
    real *out;                       // [tiles, panels, F, W]: a lane is a row (example, step), zeros beyond the last
    int64_t *counter;                // zero before the first call
} Inputs;

int EXPORT(pack_inputs)(const Inputs *p) {
    int64_t lanes = panels(p->tile, p->S) * W;
    for (int64_t task; (task = take(p->counter)) < up(p->B, p->tile);) {
        int64_t first = task * p->tile, rows = least(p->tile, p->B - first) * p->S;
        for (int64_t row = 0; row < lanes; row++) {
            const real *from = p->y + (first + row / p->S) * p->example + row % p->S * p->step;
            real *to = p->out + (task * lanes + row / W * W) * p->F + row % W;
            for (int64_t f = 0; f < p->F; f++) to[f * W] = row < rows ? from[f * p->column] : 0;
        }
    }
    return 1;
}

typedef struct {
    int64_t B, O;
    real *K;                         // [B, O, B, O] with these strides, and 1 between right outputs
    int64_t example, output, other;
    int64_t *counter;                // zero before the first call
} Mirror;

// Makes K exactly symmetric from its pairs of examples b <= b'. A task reads some rows of K, of which lines stay in L1.
int EXPORT(mirror)(const Mirror *p) {
    if (!p->O) return 1;
    uint64_t mode = enter_ieee();
    int64_t O = p->O, row = p->output, some = most(1, 32 / O);
    for (int64_t task; (task = take(p->counter)) < up(p->B, some);)
        for (int64_t other = task * some; other < p->B; other++)
            for (int64_t b = task * some; b <= least(other, task * some + some - 1); b++) {
                real *from = p->K + b * p->example + other * p->other, *to = p->K + other * p->example + b * p->other;
                for (int64_t q = 0; q < O; q++)
                    if (b < other)
                        for (int64_t o = 0; o < O; o++) to[q * row + o] = from[o * row + q];
                    else
                        for (int64_t o = 0; o < q; o++)
                            to[q * row + o] = from[o * row + q] = (to[q * row + o] + from[o * row + q]) / 2;
            }
    leave_ieee(mode);
    return 1;
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
    for (int64_t task; (task = take(p->counter)) < tiles * p->B1;) {
        int64_t number = task / p->B1, b = task % p->B1;
        if (!p->symmetric || b < (number + 1) * p->tile)
            block(p, b, number, memory, memory + Ft * W, memory + (Ft + P) * W, right, together);
    }
    leave_ieee(mode);
    free(memory);
    return 1;
}
