// Calls every kernel on odd shapes and prints a hash of each result: builds that keep docs/bits.md print the same lines.
//
// It needs neither Python nor torch, so it runs under sanitizers and on emulated CPUs. Buffers have no slack, so that an
// address sanitizer sees each number read or written beyond them.
#include "../../kernels/hpr_kernels/native/kernels.c"
#include <stdio.h>

static uint64_t state;

// The next number of a linear congruential generator, in [-1, 1); exact in fp32
static real number(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (real)((int32_t)(state >> 40) - (1 << 23)) / (1 << 23);
}

static real *numbers(int64_t count) {
    real *found = malloc(sizeof(real) * count);
    for (int64_t i = 0; i < count; i++) found[i] = number();
    return found;
}

// FNV-1a of the bytes
static void print(const char *name, const real *from, int64_t count) {
    uint64_t hash = 14695981039346656037u;
    const unsigned char *byte = (const unsigned char *)from;
    for (int64_t i = 0; i < count * (int64_t)sizeof(real); i++) hash = (hash ^ byte[i]) * 1099511628211u;
    printf("%s %016llx\n", name, (unsigned long long)hash);
}

// Adjoints beyond the last step that an output reaches are zero.
static void unreached(real *g, int64_t B, int64_t O, int64_t S, int64_t N, const int64_t *reach) {
    for (int64_t b = 0; b < B; b++)
        for (int64_t o = 0; o < O; o++)
            for (int64_t i = (reach[o] + 1) * N; i < S * N; i++) g[(b * O + o) * S * N + i] = 0;
}

static void gram(int64_t B, int64_t O, int64_t S, int64_t C, int64_t O2, int64_t S2, int64_t N, int64_t F, int causal) {
    int64_t tile = most(1, least(C, 128 / S2)), tiles = up(C, tile), counter = 0;
    real *g = numbers(B * O * S * N), *h = numbers(C * O2 * S2 * N), *z = numbers(B * S * F), *y = numbers(C * S2 * F);
    int64_t *reach1 = malloc(8 * O), *reach2 = malloc(8 * O2);
    for (int64_t o = 0; o < O; o++) reach1[o] = causal ? o * S / O : S - 1;
    for (int64_t o = 0; o < O2; o++) reach2[o] = causal ? o * S2 / O2 : S2 - 1;
    unreached(g, B, O, S, N, reach1);
    unreached(h, C, O2, S2, N, reach2);
    real *packed = malloc(sizeof(real) * B * up(N, W) * S * O * W), *other = malloc(sizeof(real) * C * up(N, W) * S2 * O2 * W);
    real *inputs = malloc(sizeof(real) * tiles * panels(tile, S2) * F * W), *K = numbers(B * O * C * O2);
    int64_t counters[3] = {0};
    EXPORT(pack_rows)(&(Rows){B, O, S, N, g, O * S * N, S * N, N, 1, packed, counters});
    EXPORT(pack_rows)(&(Rows){C, O2, S2, N, h, O2 * S2 * N, S2 * N, N, 1, other, counters + 1});
    EXPORT(pack_inputs)(&(Inputs){C, S2, F, tile, y, S2 * F, F, 1, inputs, counters + 2});
    Gram problem = {B, O, S, C, O2, S2, N, F, 0, 1, tile, reach1, reach2, packed, other, z, S * F, F, 1,
                    inputs, K, O * C * O2, C * O2, O2, &counter};
    EXPORT(gram)(&problem);
    print("gram", K, B * O * C * O2);
    free(g); free(h); free(z); free(y); free(reach1); free(reach2); free(packed); free(other); free(inputs); free(K);
}

static void mirrored(int64_t B, int64_t O) {
    int64_t counter = 0, row = B * O;
    real *K = numbers(row * row);
    EXPORT(mirror)(&(Mirror){B, O, K, O * row, row, O, &counter});
    print("mirror", K, row * row);
    free(K);
}

static void products(int64_t M1, int64_t M2, int64_t N, int64_t copies) {
    int64_t counters[2] = {0}, count = M1 * copies * M2 * copies, blocks = up(count, 100);
    real *u = numbers(M1 * N), *v = numbers(M2 * N), *K = numbers(count), *other = numbers(count);
    double *sums = malloc(sizeof(double) * 3 * blocks);
    EXPORT(add_products)(&(Products){M1, M2, N, copies, u, v, K, M2 * copies, counters});
    print("products", K, count);
    EXPORT(kernel_sums)(&(Sums){count, 100, K, other, sums, counters + 1});
    for (int64_t i = 0; i < 3 * blocks; i++) u[0] = (real)sums[i], print("sums", u, 1);
    free(u); free(v); free(K); free(other); free(sums);
}

static void recurrent(int64_t R, int64_t T, int64_t B, int64_t N, int64_t N_in, int64_t outputs, int activation) {
    int64_t F = N + N_in, all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8}, O = outputs * T, counter = 0;
    real *weights = numbers(R * N * F), *trace = numbers(R * (T + 1) * B * F), *readout = numbers(R * outputs * N);
    real *g = numbers(R * T * O * B * N), *swept = numbers(R * T * B * N);
    for (int64_t i = 0; i < R * N * F; i++) weights[i] *= (real)0.25;
    Recurrence p = {R, T, B, N, F, 1, 0, activation, 5, 0.9, 1 - 0.9, 0.3, weights, N * F, F, trace, (T + 1) * B * F, B * F, F,
                    NULL, 0, 0, 0, NULL, NULL, &counter};
    EXPORT(recurrence_forward)(&p);
    print("forward", trace, R * (T + 1) * B * F);
    counter = 0;
    p.g = swept, p.g_run = T * B * N, p.g_step = B * N, p.g_row = N;
    EXPORT(recurrence_back)(&p);
    print("sweep", swept, R * T * B * N);
    counter = 0;
    p.g = g, p.g_run = T * O * B * N, p.g_step = O * B * N, p.g_row = N;
    p.O = O, p.outputs = outputs, p.readout = readout, p.steps = all;
    EXPORT(recurrence_back)(&p);
    print("adjoints", g, R * T * O * B * N);
    free(weights); free(trace); free(readout); free(g); free(swept);
}

static void training(int64_t R, int64_t T, int64_t B, int64_t N, int64_t N_in, int64_t N_out, int layers, int squared,
                     int constrained, int64_t first) {
    int64_t count = 3, recurrent = layers ? 0 : N, F = recurrent + N_in, rows = R * count * T * B, counter = 0;
    real *weights = numbers(R * N * F), *readout = numbers(R * N_out * N), *x = numbers(rows * N_in);
    real *velocity = calloc(R * N * F, sizeof(real)), *readout_velocity = calloc(R * N_out * N, sizeof(real));
    real *outputs = numbers(rows * N_out), *losses = malloc(sizeof(real) * R * count), *accuracies = malloc(sizeof(real) * R * count);
    int64_t *classes = malloc(8 * rows), *trials = malloc(8 * R);
    int8_t *kinds = malloc(R * N * F);
    for (int64_t i = 0; i < rows; i++) classes[i] = i * i % N_out;
    for (int64_t r = 0; r < R; r++) trials[r] = R - 1 - r;
    for (int64_t i = 0; i < R * N * F; i++) kinds[i] = i % 4 - 1;
    for (int64_t i = 0; constrained && i < R * N * F; i++)
        if (kinds[i] == -1 || kinds[i] == 1) weights[i] = kinds[i] * (weights[i] < 0 ? -weights[i] : weights[i]);
    double K = (double)(T - first) * B, rho = layers ? 0 : 0.9;
    Training p = {R, T, B, N, N_in, N_out, count, recurrent, first, squared, RELU, rho, 1 - rho, (1 - rho) / K, 1 / K,
                  0.1, 0.9, weights, velocity, N * F, F, readout, readout_velocity, N_out * N, N,
                  constrained ? kinds : NULL, N * F, F, trials, x, squared ? (void *)outputs : (void *)classes,
                  losses, squared ? NULL : accuracies, count, &counter};
    EXPORT(train)(&p);
    print("weights", weights, R * N * F);
    print("velocity", velocity, R * N * F);
    print("readout", readout, R * N_out * N);
    print("losses", losses, R * count);
    if (!squared) print("accuracies", accuracies, R * count);
    free(weights); free(readout); free(x); free(velocity); free(readout_velocity); free(outputs); free(losses);
    free(accuracies); free(classes); free(trials); free(kinds);
}

int main(void) {
    gram(3, 5, 4, 2, 7, 6, 19, 6, 0);
    gram(2, 24, 8, 2, 24, 8, 33, 3, 1);
    gram(2, 1, 70, 3, 1, 1, 16, 5, 0);
    gram(1, 13, 1, 1, 2, 3, 5, 1, 1);
    mirrored(7, 5);
    mirrored(50, 1);
    mirrored(1, 3);
    products(67, 50, 5, 3);
    products(1, 1, 1, 1);
    for (int activation = LINEAR; activation <= TANH; activation++) {
        recurrent(2, 3, 7, 33, 2, 3, activation);
        recurrent(1, 9, 1, 1, 1, 1, activation);
        recurrent(3, 1, 13, 17, 5, 2, activation);
    }
    training(2, 4, 7, 33, 2, 3, 0, 0, 0, 0);
    training(1, 1, 1, 1, 1, 1, 0, 0, 0, 0);
    training(2, 3, 5, 17, 3, 2, 0, 1, 1, 2);
    training(1, 9, 33, 19, 1, 5, 0, 0, 1, 8);
    training(3, 1, 6, 20, 7, 2, 1, 1, 0, 0);
    return 0;
}
