// One NTK or one training iteration at a small size, for a count of instructions: see test_native_counts.py
#include "../../kernels/hpr_kernels/native/kernels.c"

// `count` numbers in [-0.1, 0.1]
static real *numbers(int64_t count) {
    real *found = aligned_alloc(64, up(count, W) * 64);
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        found[i] = (real)((int32_t)(state >> 8) - (1 << 23)) / (1 << 23) / 10;
    }
    return found;
}

int main(int arguments, char **argument) {
    enum { N = 100, T = 8, B = 32, N_in = 3, N_out = 3, F = N + N_in, EXAMPLES = 6, O = T * N_out };
    int64_t counter = 0, trials[] = {0}, reach[O], classes[T * B];
    if (arguments > 1 && !strcmp(argument[1], "train")) {
        for (int64_t i = 0; i < T * B; i++) classes[i] = i % N_out;
        real losses[1], accuracies[1];
        Training p = {1, T, B, N, N_in, N_out, 1, N, 0, 0, RELU, 0.9, 1 - 0.9, 0.1 / (T * B), 1.0 / (T * B), 0.003, 0.9,
                      numbers(N * F), numbers(N * F), N * F, F, numbers(N_out * N), numbers(N_out * N), N_out * N, N,
                      NULL, 0, 0, trials, numbers(T * B * N_in), classes, losses, accuracies, 1, &counter};
        return !EXPORT(train)(&p);
    }
    for (int64_t o = 0; o < O; o++) reach[o] = o / N_out;
    real *g = numbers(EXAMPLES * O * T * N), *z = numbers(EXAMPLES * T * F);
    real *packed = numbers(EXAMPLES * up(N, W) * T * O * W), *inputs = numbers(panels(EXAMPLES, T) * F * W);
    int64_t counters[2] = {0};
    EXPORT(pack_rows)(&(Rows){EXAMPLES, O, T, N, g, O * T * N, T * N, N, 1, packed, counters});
    EXPORT(pack_inputs)(&(Inputs){EXAMPLES, T, F, EXAMPLES, z, T * F, F, 1, inputs, counters + 1});
    Gram p = {EXAMPLES, O, T, EXAMPLES, O, T, N, F, 1, 0, EXAMPLES, reach, reach, packed, packed, z, T * F, F, 1,
              inputs, numbers(EXAMPLES * O * EXAMPLES * O), O * EXAMPLES * O, EXAMPLES * O, O, &counter};
    return !EXPORT(gram)(&p);
}
