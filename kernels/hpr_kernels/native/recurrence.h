// The leaky recurrence, its reverse sweep and its adjoints, in the layouts of hpr_kernels.layout.
//
// Lanes run over units, so that rows (examples, or pairs of output and example) are independent tasks. Weights are
// copied once per network into panels of PANEL columns, which the products read from front to back.
#pragma once
#include "elementary.h"

enum { LINEAR, RELU, TANH };
enum { PANEL = TILE_REGISTERS * LANES };

// Numbers of the panels that hold `columns` columns of `rows` rows
INLINE int64_t panel_numbers(int64_t rows, int64_t columns) { return up(columns, PANEL) * PANEL * rows; }
INLINE int64_t registers_of(int64_t columns) { return up(least(columns, PANEL), LANES); }

// to[c step + r] = from[r row + c]
static void transpose(int64_t rows, int64_t columns, const real *from, int64_t row, real *to, int64_t step) {
    for (int64_t r = 0, some; r < rows; r += some) {
        some = least(W, rows - r);
        for (int64_t c = 0; c < columns; c++)
            for (int64_t q = r; q < r + some; q++) to[c * step + q] = from[q * row + c];
    }
}

// The transpose of w [N, F] in panels [N / PANEL][F][PANEL]: a lane is a unit. Lanes beyond N are left.
static void pack_forward(int64_t N, int64_t F, const real *w, int64_t row, real *panels) {
    for (int64_t n = 0; n < N; n += PANEL, w += PANEL * row, panels += PANEL * F)
        transpose(least(PANEL, N - n), F, w, row, panels, PANEL);
}

// w [N, N] in panels [N / PANEL][N][PANEL]: a lane is a column. Lanes beyond N are left.
static void pack_back(int64_t N, const real *w, int64_t row, real *panels) {
    for (int64_t m = 0; m < N; m += PANEL)
        for (int64_t n = 0; n < N; n++, panels += PANEL)
            memcpy(panels, w + n * row + m, sizeof(real) * least(PANEL, N - m));
}

// DO(count, activation) where both are constants, so that the compiler makes a loop in vectors for each case
#define EPILOGUE(count, activation, DO)                                                             \
    switch ((activation) * 2 + ((count) == PANEL)) {                                                \
    case RELU * 2 + 1: DO(PANEL, RELU) break;                                                       \
    case RELU * 2: DO(count, RELU) break;                                                           \
    case TANH * 2 + 1: DO(PANEL, TANH) break;                                                       \
    case TANH * 2: DO(count, TANH) break;                                                           \
    case LINEAR * 2 + 1: DO(PANEL, LINEAR) break;                                                   \
    default: DO(count, LINEAR)                                                                      \
    }

// h ← rho h + rest s, or rest s at the first step, and rates f(h)
INLINE void leak(int64_t count, int activation, int start, real rho, real rest, const real *restrict s,
                 real *restrict h, real *restrict rates) {
    for (int64_t l = 0; l < count; l++) {
        real value = start ? rest * s[l] : fma1(rest, s[l], rho * h[l]);
        h[l] = value;
        rates[l] = activation == TANH ? tanh1(value) : activation == RELU && value < 0 ? 0 : value;
    }
}

// One step of `rows` examples: rates f(h) of the next step from the columns first … F - 1 of z [rows, F]. Rows of z and
// of rates lie `row` apart; h is [N / PANEL][rows][PANEL], and sums [rows][PANEL].
static void step_forward(int64_t rows, int64_t N, int64_t F, int64_t first, int start, int activation, real rho, real rest,
                         const real *z, int64_t row, const real *panels, real *h, real *sums, real *rates) {
#define LEAK(count, activation)                                                                     \
    for (int64_t i = 0; i < rows; i++)                                                              \
        leak(count, activation, start, rho, rest, sums + i * PANEL, h + i * PANEL, rates + i * row + n);
    for (int64_t n = 0; n < N; n += PANEL, panels += F * PANEL, h += rows * PANEL) {
        int64_t count = least(PANEL, N - n);
        product(rows, registers_of(count), F - first, z + first, row, 1, panels + first * PANEL, PANEL, sums, PANEL, 0);
        EPILOGUE(count, activation, LEAK)
    }
}

// here ← f'(h) (here + rest s) + rho later, from the rates f(h); without s and later at the last step
INLINE void slope(int64_t count, int activation, int last, real rho, real rest, const real *restrict rates,
                  const real *restrict s, const real *restrict later, real *restrict here) {
    for (int64_t l = 0; l < count; l++) {
        real value = last ? here[l] : fma1(rest, s[l], here[l]);
        if (activation == TANH) value *= fma1(-rates[l], rates[l], 1);
        if (activation == RELU) value = rates[l] <= 0 ? 0 : value;
        here[l] = last ? value : fma1(rho, later[l], value);
    }
}

// One step back of `rows` rows: here ← f'(h) (here + rest later W) + rho later, or f'(h) here where `later` is NULL.
// Rows lie `row` apart. Row i belongs to the example (begin + i) % B, whose rates lie `rates_row` apart.
static void step_back(int64_t rows, int64_t N, int activation, real rho, real rest, const real *panels,
                      const real *later, int64_t row, int64_t begin, int64_t B, const real *rates, int64_t rates_row,
                      real *sums, real *here) {
#define SLOPE(count, activation)                                                                    \
    for (int64_t i = 0, b = begin % B; i < rows; i++, b = b + 1 < B ? b + 1 : 0) {                  \
        const real *a = rates + b * rates_row + m;                                                  \
        if (later)                                                                                  \
            slope(count, activation, 0, rho, rest, a, sums + i * PANEL, later + i * row + m, here + i * row + m); \
        else slope(count, activation, 1, rho, rest, a, sums, sums, here + i * row + m);             \
    }
    for (int64_t m = 0; m < N; m += PANEL, panels += N * PANEL) {
        int64_t count = least(PANEL, N - m);
        if (later) product(rows, registers_of(count), N, later, row, 1, panels, PANEL, sums, PANEL, 0);
        EPILOGUE(count, activation, SLOPE)
    }
}

typedef struct {
    int64_t R, T, B, N, F;                  // F: columns of weights and trace that count
    int64_t O, outputs;                     // adjoints: rows per example, and outputs per step that is read
    int64_t activation, task_rows;          // task_rows: rows of a task, at most
    double rho, rest, scale;                // scale: the adjoints are multiplied by it at the end
    const real *weights;                    // [R, N, F] with these strides, and 1 between columns
    int64_t weights_run, weights_row;
    real *trace;                            // [R, T + 1, B, F] likewise
    int64_t trace_run, trace_step, trace_row;
    real *g;                                // [R, T, O B, N] likewise, O = 1 in the sweep
    int64_t g_run, g_step, g_row;
    const real *readout;                    // [R, outputs, N] without gaps
    const int64_t *steps;                   // [O / outputs], ascending
    int64_t *counter;                       // zero before the first call; the calls of all threads share it
} Recurrence;

typedef struct { real *panels, *h, *sums; } Memory;

static void forward_task(const Recurrence *p, int64_t r, int64_t begin, int64_t rows, Memory m) {
    real *z = p->trace + r * p->trace_run + begin * p->trace_row;
    for (int64_t t = 0; t < p->T; t++, z += p->trace_step) {
        real *next = z + p->trace_step;
        // h_0 = 0, so the first step has inputs alone.
        step_forward(rows, p->N, p->F, t ? 0 : p->N, !t, p->activation, (real)p->rho, (real)p->rest,
                     z, p->trace_row, m.panels, m.h, m.sums, next);
    }
}

INLINE void scale_rows(int64_t rows, int64_t N, real scale, real *g, int64_t row) {
    for (int64_t i = 0; i < rows; i++, g += row)
        for (int64_t n = 0; n < N; n++) g[n] *= scale;
}

static void back_task(const Recurrence *p, int64_t r, int64_t begin, int64_t rows, Memory m) {
    const real *trace = p->trace + r * p->trace_run;
    real *g = p->g + r * p->g_run;
    for (int64_t s = p->T - 1, later = p->steps ? p->O : 0; s >= 0; s--) {
        real *here = g + s * p->g_step;
        const real *rates = trace + (s + 1) * p->trace_step;
        // Rows from `follow` on go back from the step after s; those between `open` and `follow` begin at s.
        int64_t follow = most(begin, later * p->B), open, end = begin + rows;
        if (p->steps) {
            while (later && p->steps[later / p->outputs - 1] == s) later -= p->outputs;
            open = least(end, most(begin, later * p->B));
            follow = least(end, follow);
            for (int64_t i = begin; i < end; i++) {
                real *to = here + i * p->g_row;
                if (i < open || i >= follow) memset(to, 0, sizeof(real) * p->N);
                else memcpy(to, p->readout + (r * p->outputs + i / p->B % p->outputs) * p->N, sizeof(real) * p->N);
            }
        } else {
            open = begin;
            follow = s < p->T - 1 ? begin : end;
        }
        step_back(follow - open, p->N, p->activation, (real)p->rho, (real)p->rest, m.panels, NULL, p->g_row,
                  open, p->B, rates, p->trace_row, m.sums, here + open * p->g_row);
        if (follow < end)
            step_back(end - follow, p->N, p->activation, (real)p->rho, (real)p->rest, m.panels,
                      here + p->g_step + follow * p->g_row, p->g_row,
                      follow, p->B, rates, p->trace_row, m.sums, here + follow * p->g_row);
        if (!p->steps) continue;
        // No earlier step needs those of the step after s.
        real *from = here + begin * p->g_row;
        if (s < p->T - 1) scale_rows(rows, p->N, (real)p->scale, from + p->g_step, p->g_row);
        if (!s) scale_rows(rows, p->N, (real)p->scale, from, p->g_row);
    }
}

// Takes tasks, some rows of one network, until none is left; returns whether there was memory.
static int recurrence(const Recurrence *p, int back) {
    uint64_t mode = enter_ieee();
    int64_t all = (back ? p->O : 1) * p->B, parts = up(all, p->task_rows), rows = up(all, parts);
    int64_t panels = panel_numbers(back ? p->N : p->F, p->N), h = back ? 0 : panel_numbers(rows, p->N);
    real *memory = aligned_alloc(64, sizeof(real) * up(panels + h + rows * PANEL, W) * W);
    if (memory) {
        memset(memory, 0, sizeof(real) * panels);
        Memory m = {memory, memory + panels, memory + panels + h};
        int64_t packed = -1;
        for (int64_t task; (task = take(p->counter)) < p->R * parts;) {
            int64_t r = task / parts, begin = task % parts * rows;
            const real *w = p->weights + r * p->weights_run;
            if (r != packed) {
                if (back) pack_back(p->N, w, p->weights_row, m.panels);
                else pack_forward(p->N, p->F, w, p->weights_row, m.panels);
                packed = r;
            }
            (back ? back_task : forward_task)(p, r, begin, least(rows, all - begin), m);
        }
        free(memory);
    }
    leave_ieee(mode);
    return memory != NULL;
}

int EXPORT(recurrence_forward)(const Recurrence *p) { return recurrence(p, 0); }
int EXPORT(recurrence_back)(const Recurrence *p) { return recurrence(p, 1); }
