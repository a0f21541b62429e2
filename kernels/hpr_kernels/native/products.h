// Products of rows that are added to a kernel, and the sums of an alignment of two kernels.
#pragma once
#include "recurrence.h"

typedef struct {
    int64_t M1, M2, N, copies;
    const real *u, *v;               // [M1, N] and [M2, N] without gaps
    real *K;                         // [M1 copies, M2 copies], `row` between rows
    int64_t row;
    int64_t *counter;                // zero before the first call
} Products;

// K[i copies + k, j copies + k] += ⟨u_i, v_j⟩ for k < copies; a task is a panel of rows j. Returns whether there was memory.
int EXPORT(add_products)(const Products *p) {
    enum { ROWS = 64 };
    uint64_t mode = enter_ieee();
    int64_t N = p->N, copies = p->copies;
    real *panel = aligned_alloc(64, sizeof(real) * up((N + ROWS) * PANEL, W) * W), *sums = panel + N * PANEL;
    if (panel) {
        memset(panel, 0, sizeof(real) * N * PANEL);
        for (int64_t task; (task = take(p->counter)) < up(p->M2, PANEL);) {
            int64_t first = task * PANEL, count = least(PANEL, p->M2 - first);
            transpose(count, N, p->v + first * N, N, panel, PANEL);
            for (int64_t i = 0, rows; i < p->M1; i += rows) {
                rows = least(ROWS, p->M1 - i);
                product(rows, registers_of(count), N, p->u + i * N, N, 1, panel, PANEL, sums, PANEL, 0);
                for (int64_t q = 0; q < rows; q++)
                    for (int64_t j = 0; j < count; j++) {
                        real *to = p->K + ((i + q) * p->row + first + j) * copies;
                        for (int64_t k = 0; k < copies; k++, to += p->row + 1) *to += sums[q * PANEL + j];
                    }
            }
        }
        free(panel);
    }
    leave_ieee(mode);
    return panel != NULL;
}

typedef struct {
    int64_t count, block;            // numbers of a and b, and those of a task
    const real *a, *b;
    double *sums;                    // [blocks, 3]
    int64_t *counter;                // zero before the first call
} Sums;

// Σ a b, Σ b² and Σ a² in fp64 of each block; number i belongs to the partial sum i % 8, and the sums are added in halves.
int EXPORT(kernel_sums)(const Sums *p) {
    uint64_t mode = enter_ieee();
    for (int64_t task; (task = take(p->counter)) < up(p->count, p->block);) {
        int64_t first = task * p->block, count = least(p->block, p->count - first);
        const real *a = p->a + first, *b = p->b + first;
        double sums[3][8] = {{0}};
#define ADD(lanes)                                                                                  \
    for (int64_t l = 0; l < lanes; l++) {                                                           \
        double x = a[i + l], y = b[i + l];                                                          \
        sums[0][l] += x * y, sums[1][l] += y * y, sums[2][l] += x * x;                              \
    }
        int64_t i = 0;
        for (; i + 8 <= count; i += 8) ADD(8)
        ADD(count - i)
        for (int q = 0; q < 3; q++) {
            for (int half = 4; half; half /= 2)
                for (int l = 0; l < half; l++) sums[q][l] += sums[q][l + half];
            p->sums[task * 3 + q] = sums[q][0];
        }
    }
    leave_ieee(mode);
    return 1;
}
