// The machine's peak of fused multiply-adds, the yardstick of benchmarks
#include "vec.h"

// Runs `rounds` rounds of independent fused multiply-adds in registers; returns the multiply-adds of one round.
int EXPORT(peak)(int64_t rounds) {
    enum { CHAINS = 12 };
    vec sums[CHAINS], a = set((real)0.5), b = set((real)0.25);
    UNROLL for (int i = 0; i < CHAINS; i++) sums[i] = set((real)i);
    for (int64_t round = 0; round < rounds; round++)
        UNROLL for (int i = 0; i < CHAINS; i++) {
            sums[i] = fma_(a, b, sums[i]);
            KEEP(sums[i]);
        }
    // The sums are positive. The compiler would drop them if the result did not depend on them.
    vec total = sums[0];
    UNROLL for (int i = 1; i < CHAINS; i++) total += sums[i];
    return total[0] < 0 ? 0 : CHAINS * LANES;
}
