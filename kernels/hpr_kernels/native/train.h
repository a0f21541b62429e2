// SGD iterations with momentum of a pack of networks, each wholly in the cache of one thread.
//
// Each thread makes one call, and the calls take networks from one counter. Weights stand in the panels of
// `pack_forward`, so that neither the forward product nor the update moves them.
#pragma once
#include "recurrence.h"

// Examples that pass through all steps together, and columns of z whose gradients are summed together
enum { STATE_ROWS = 96, GRADIENT_COLUMNS = 48 };

typedef struct {
    int64_t R, T, B, N, N_in, N_out, count;  // count: iterations
    int64_t recurrent;                       // columns of the weights before the inputs': N, or 0 with two layers
    int64_t first, squared, activation;      // the loss counts the steps from `first` on
    double rho, rest, scale, readout_scale, learning_rate, momentum;
    real *weights, *velocity;                // [R, N, recurrent + N_in] with these strides, and 1 between columns
    int64_t run, row;
    real *readout, *readout_velocity;        // [R, N_out, N] likewise
    int64_t readout_run, readout_row;
    const int8_t *constraint;                // as `weights`, or NULL; -1, 1: keeps this sign, 2: frozen, 0: free
    int64_t constraint_run, constraint_row;
    const int64_t *trials;                   // [R]: the trials of x and targets that a network takes
    const real *x;                           // [trials, count, T, B, N_in]
    const void *targets;                     // [trials, count, T, B] int64, or [trials, count, T, B, N_out] real
    real *losses, *accuracies;               // [R, count], losses_run apart
    int64_t losses_run;
    int64_t *counter;                        // zero before the first call
} Training;

typedef struct {
    int64_t F, Z, Q, O, K;                   // columns of weights; widths of rows of z, of g and of y; rows of the loss
    real *w, *v, *back;                      // weights, velocity and recurrent weights in panels
    real *readout, *readout_velocity, *readout_sums, *readout_columns;  // [N_out, Q], and [N, O]
    real *z, *h, *g, *y, *log_p, *sums;      // [T + 1, B, Z], -, [T, B, Q], [K, O], [N_out + 2, K], -
    real *gradient;                          // in panels
    int8_t *kinds;                           // constraints in panels
} Work;

// The width of a row of at least n numbers. An odd number of lines spreads rows over all sets of a cache.
INLINE int64_t row_width(int64_t n) { return (up(n, W) | 1) * W; }

// Sets the sizes of `m` and, where `memory` is given, the pointers; returns how many numbers they take.
static int64_t lay_out(const Training *p, Work *m, real *memory) {
    int64_t N = p->N, at = 0;
    m->F = p->recurrent + p->N_in;
    m->Z = row_width(most(N, m->F));
    m->Q = row_width(N);
    m->O = up(p->N_out, LANES) * LANES;
    m->K = (p->T - p->first) * p->B;
    int64_t panels = panel_numbers(m->F, N);
    struct { real **pointer; int64_t numbers; } parts[] = {
        {&m->w, panels}, {&m->v, panels}, {&m->back, panel_numbers(p->recurrent, N)},
        {&m->readout, p->N_out * m->Q}, {&m->readout_velocity, p->N_out * m->Q}, {&m->readout_sums, p->N_out * m->Q},
        {&m->readout_columns, N * m->O}, {&m->z, (p->T + 1) * p->B * m->Z}, {&m->h, panel_numbers(p->B, N)},
        {&m->g, p->T * p->B * m->Q}, {&m->y, m->K * m->O}, {&m->log_p, m->K * (p->N_out + 2)},
        {&m->sums, p->B * PANEL}, {&m->gradient, panels}, {(real **)&m->kinds, up(panels, sizeof(real))},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (memory) *parts[i].pointer = memory + at;
        at += up(parts[i].numbers, W) * W;
    }
    return at;
}

// K ∂loss/∂y in place of y [K, O] for classes; adds to loss and hits. The target's output must exceed all others.
static void cross_entropy(int64_t K, int64_t N_out, int64_t O, const int64_t *targets, real *y, real *work,
                          double *loss, double *hits) {
    real *restrict top = work, *restrict sum = work + K, *restrict log_p = work + 2 * K;
    for (int64_t k = 0; k < N_out; k++)
        for (int64_t i = 0; i < K; i++) log_p[k * K + i] = y[i * O + k];
    for (int64_t i = 0; i < K; i++) top[i] = log_p[i], sum[i] = 0;
    for (int64_t k = 1; k < N_out; k++)
        for (int64_t i = 0; i < K; i++) top[i] = log_p[k * K + i] > top[i] ? log_p[k * K + i] : top[i];
    for (int64_t k = 0; k < N_out; k++)
        for (int64_t i = 0; i < K; i++) {
            log_p[k * K + i] -= top[i];
            sum[i] += exp1(log_p[k * K + i]);
        }
    for (int64_t i = 0; i < K; i++) sum[i] = log1(sum[i]);
    for (int64_t k = 0; k < N_out; k++)
        for (int64_t i = 0; i < K; i++) log_p[k * K + i] -= sum[i];
    for (int64_t i = 0; i < K; i++) {
        real picked = log_p[targets[i] * K + i];
        int64_t above = 0;
        for (int64_t k = 0; k < N_out; k++) above += log_p[k * K + i] >= picked;
        *loss -= picked;
        *hits += above == 1;
    }
    for (int64_t k = 0; k < N_out; k++)
        for (int64_t i = 0; i < K; i++) log_p[k * K + i] = exp1(log_p[k * K + i]);
    for (int64_t i = 0; i < K; i++) {
        for (int64_t k = 0; k < N_out; k++) y[i * O + k] = log_p[k * K + i];
        y[i * O + targets[i]] -= 1;
    }
}

// K ∂loss/∂y in place of y [K, O] for the mean of (y - target)² over rows and outputs; adds to loss.
static void squared_error(int64_t K, int64_t N_out, int64_t O, const real *targets, real *y, double *loss) {
    real twice = (real)(2.0 / N_out);
    for (int64_t i = 0; i < K; i++)
        for (int64_t k = 0; k < N_out; k++) {
            real difference = y[i * O + k] - targets[i * N_out + k];
            *loss += (double)difference * difference / N_out;
            y[i * O + k] = difference * twice;
        }
}

// v ← momentum v + scale s and w ← w - rate v, within the constraints `kinds` where they are given
INLINE void descend(int64_t count, real momentum, real scale, real rate, const real *restrict s,
                    const int8_t *restrict kinds, real *restrict v, real *restrict w) {
    for (int64_t i = 0; i < count; i++) {
        real velocity = fma1(scale, s[i], momentum * v[i]);
        if (kinds) velocity = kinds[i] == 2 ? 0 : velocity;
        real weight = fma1(-rate, velocity, w[i]);
        if (kinds) {
            // A weight that would cross zero is reflected.
            int crossed = (kinds[i] == 1 && weight < 0) || (kinds[i] == -1 && weight > 0);
            velocity = crossed ? -velocity : velocity;
            weight = crossed ? -weight : weight;
        }
        v[i] = velocity;
        w[i] = weight;
    }
}

static void descend_block(const Training *p, const Work *m, int64_t at, int64_t count) {
    real momentum = (real)p->momentum, scale = (real)p->scale, rate = (real)p->learning_rate;
    // A constant argument gives a loop for free weights.
    if (p->constraint) descend(count, momentum, scale, rate, m->gradient + at, m->kinds + at, m->v + at, m->w + at);
    else descend(count, momentum, scale, rate, m->gradient + at, NULL, m->v + at, m->w + at);
}

// Outputs, loss and the gradients K ∂loss/∂a in g, and the readout's update; `targets` are of one iteration.
static void readout(const Training *p, const Work *m, const void *targets, real *loss, real *accuracy) {
    int64_t N = p->N, K = m->K, before = p->first * p->B;
    const real *rates = m->z + (before + p->B) * m->Z;
    double loss_sum = 0, hits = 0;
    for (int64_t k = 0; k < p->N_out; k++)
        for (int64_t n = 0; n < N; n++) m->readout_columns[n * m->O + k] = m->readout[k * m->Q + n];
    product(K, m->O / LANES, N, rates, m->Z, 1, m->readout_columns, m->O, m->y, m->O, 0);
    if (p->squared)
        squared_error(K, p->N_out, m->O, (const real *)targets + before * p->N_out, m->y, &loss_sum);
    else
        cross_entropy(K, p->N_out, m->O, (const int64_t *)targets + before, m->y, m->log_p, &loss_sum, &hits);
    *loss = (real)(loss_sum / K);
    if (accuracy) *accuracy = (real)(hits / K);
    memset(m->g, 0, sizeof(real) * before * m->Q);
    product(K, up(N, LANES), p->N_out, m->y, m->O, 1, m->readout, m->Q, m->g + before * m->Q, m->Q, 0);
    product(p->N_out, up(N, LANES), K, m->y, 1, m->O, rates, m->Z, m->readout_sums, m->Q, 0);
    for (int64_t k = 0; k < p->N_out; k++)
        descend(N, (real)p->momentum, (real)p->readout_scale, (real)p->learning_rate, m->readout_sums + k * m->Q, NULL,
                m->readout_velocity + k * m->Q, m->readout + k * m->Q);
}

// The recurrent weights from the panels of `pack_forward` to those of `pack_back`
static void turn_panels(int64_t N, int64_t F, const real *panels, real *back) {
    for (int64_t n = 0; n < N; n += PANEL)
        for (int64_t m = 0; m < N; m += PANEL)
            transpose(least(PANEL, N - m), least(PANEL, N - n), panels + n * F + m * PANEL, PANEL,
                      back + m * N + n * PANEL, PANEL);
}

// The update of the weights, whose gradient is Σ z g over steps and examples, in blocks of TERMS rows whose z stays in L1
static void update(const Training *p, const Work *m) {
    const int64_t all = p->T * p->B;
    for (int64_t begin = 0; begin < all; begin += TERMS)
        for (int64_t k = 0, columns; k < m->F; k += columns) {
            int recurrent = k < p->recurrent;
            columns = rows_of((recurrent ? p->recurrent : m->F) - k, GRADIENT_COLUMNS);
            // As a_0 = 0, the first step has a gradient for the input weights alone.
            int64_t from = begin + (recurrent ? p->B : 0), rows = least(all - from, TERMS);
            for (int64_t n = 0; n < p->N; n += PANEL) {
                int64_t at = n * m->F + k * PANEL;
                if (rows > 0)
                    product(columns, registers_of(p->N - n), rows, m->z + from * m->Z + k, 1, m->Z,
                            m->g + from * m->Q + n, m->Q, m->gradient + at, PANEL, begin > 0);
                if (begin + TERMS >= all) descend_block(p, m, at, columns * PANEL);
            }
        }
}

static void iterate(const Training *p, const Work *m, const real *x, const void *targets, real *loss, real *accuracy) {
    int64_t N = p->N, B = p->B, T = p->T, Z = m->Z, Q = m->Q;
    real rho = (real)p->rho, rest = (real)p->rest;
    for (int64_t i = 0; i < T * B; i++) memcpy(m->z + i * Z + p->recurrent, x + i * p->N_in, sizeof(real) * p->N_in);
    for (int64_t b = 0, rows; b < B; b += rows) {
        rows = rows_of(B - b, STATE_ROWS);
        for (int64_t t = 0; t < T; t++) {
            real *z = m->z + (t * B + b) * Z;
            step_forward(rows, N, m->F, t ? 0 : p->recurrent, !t, p->activation, rho, rest, z, Z, m->w, m->h, m->sums,
                         z + B * Z);
        }
    }
    readout(p, m, targets, loss, accuracy);
    if (T > 1) turn_panels(N, m->F, m->w, m->back);
    for (int64_t b = 0, rows; b < B; b += rows) {
        rows = rows_of(B - b, STATE_ROWS);
        for (int64_t s = T - 1; s >= 0; s--) {
            real *g = m->g + (s * B + b) * Q;
            step_back(rows, N, p->activation, rho, rest, m->back, s < T - 1 ? g + B * Q : NULL, Q, b, B,
                      m->z + (s + 1) * B * Z, Z, m->sums, g);
        }
    }
    update(p, m);
}

// Copies network r to the work memory, or with `out` back.
static void move_network(const Training *p, const Work *m, int64_t r, int out) {
    real *outside[] = {p->weights + r * p->run, p->velocity + r * p->run}, *inside[] = {m->w, m->v};
    for (int i = 0; i < 2; i++)
        for (int64_t n = 0; n < p->N; n += PANEL) {
            int64_t count = least(PANEL, p->N - n);
            real *w = outside[i] + n * p->row, *panel = inside[i] + n * m->F;
            if (out) transpose(m->F, count, panel, PANEL, w, p->row);
            else transpose(count, m->F, w, p->row, panel, PANEL);
        }
    real *outer[] = {p->readout + r * p->readout_run, p->readout_velocity + r * p->readout_run};
    real *inner[] = {m->readout, m->readout_velocity};
    for (int i = 0; i < 2; i++)
        for (int64_t k = 0; k < p->N_out; k++) {
            real *o = outer[i] + k * p->readout_row, *w = inner[i] + k * m->Q;
            memcpy(out ? o : w, out ? w : o, sizeof(real) * p->N);
        }
    for (int64_t n = 0; p->constraint && !out && n < p->N; n++)
        for (int64_t k = 0; k < m->F; k++)
            m->kinds[(n / PANEL * m->F + k) * PANEL + n % PANEL] =
                p->constraint[r * p->constraint_run + n * p->constraint_row + k];
}

// Returns whether there was memory.
int EXPORT(train)(const Training *p) {
    Work m;
    size_t bytes = sizeof(real) * lay_out(p, &m, NULL);
    real *memory = aligned_alloc(64, bytes);
    if (!memory) return 0;
    uint64_t mode = enter_ieee();
    lay_out(p, &m, memory);
    for (int64_t r; (r = take(p->counter)) < p->R;) {
        // Rates before the first step are zero, and a network that diverged leaves nothing behind.
        memset(memory, 0, bytes);
        move_network(p, &m, r, 0);
        int64_t rows = p->T * p->B, begin = p->trials[r] * p->count;
        for (int64_t i = 0; i < p->count; i++) {
            int64_t row = (begin + i) * rows;
            const void *targets = p->squared ? (const void *)((const real *)p->targets + row * p->N_out)
                                             : (const void *)((const int64_t *)p->targets + row);
            int64_t at = r * p->losses_run + i;
            iterate(p, &m, p->x + row * p->N_in, targets, p->losses + at, p->accuracies ? p->accuracies + at : NULL);
        }
        move_network(p, &m, r, 1);
    }
    free(memory);
    leave_ieee(mode);
    return 1;
}
