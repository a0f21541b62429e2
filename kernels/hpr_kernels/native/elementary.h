// Scalar functions of the same bits on every CPU: each operation is rounded once, in the order in which it stands here.
// The compiler may run a loop over them in vectors, which changes no bit.
#pragma once
#include "vec.h"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

// Rounding to nearest, subnormal numbers kept and exceptions masked; returns the caller's mode for `leave_ieee`.
INLINE uint64_t enter_ieee(void) {
    uint64_t mode = 0;
#if defined(__x86_64__)
    mode = _mm_getcsr();
    _mm_setcsr(0x1f80);
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
#endif
    return mode;
}

INLINE void leave_ieee(uint64_t mode) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#endif
}

// a b + c, rounded once
INLINE real fma1(real a, real b, real c) {
    return sizeof(real) == 4 ? (real)__builtin_fmaf((float)a, (float)b, (float)c) : (real)__builtin_fma(a, b, c);
}

// The integers of a number's size; its bits are sign, exponent and `MANTISSA` bits.
#define SINGLE (sizeof(real) == 4)
typedef __typeof__(__builtin_choose_expr(SINGLE, (int32_t)0, (int64_t)0)) whole;
typedef __typeof__(__builtin_choose_expr(SINGLE, (uint32_t)0, (uint64_t)0)) word;
enum { MANTISSA = SINGLE ? 23 : 52 };
INLINE word bits_of(real x) { word bits; memcpy(&bits, &x, sizeof x); return bits; }
INLINE real real_of(word bits) { real x; memcpy(&x, &bits, sizeof x); return x; }

// ln 2 in two parts: multiples of the first by an exponent are exact.
#define LN2_HIGH (real)(SINGLE ? 0.693359375 : 0x1.62e42fee00000p-1)
#define LN2_LOW (real)(SINGLE ? -2.12194440e-4 : 0x1.a39ef35793c76p-33)

// exp(x) = *power (1 + result) for x <= 0, with *power = 2^n and |result| below 0.42; NaN gives NaN.
// The result is the Taylor polynomial of exp(r) - 1 at r = x - n ln 2, |r| <= 0.35.
INLINE real exp_parts(real x, real *power) {
    static const double inverse_factorial[] = {1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040,
        1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
    const real magic = (real)(SINGLE ? 0x1.8p23 : 0x1.8p52), least_ = (real)(SINGLE ? -87.0 : -708.0);
    x = x < least_ ? least_ : x;
    // After this sum the lowest bits of `shifted` are n.
    real shifted = fma1(x, (real)1.44269504088896340736, magic), n = shifted - magic;
    *power = real_of((bits_of(shifted) << MANTISSA) + bits_of((real)1));
    real r = fma1(n, -LN2_LOW, fma1(n, -LN2_HIGH, x)), p = 0;
    UNROLL for (int i = SINGLE ? 5 : 11; i >= 0; i--) p = fma1(p, r, (real)inverse_factorial[i]);
    return fma1(p, r * r, r);
}

// exp of x <= 0; below -87 (fp32) or -708 (fp64) it is exp of that bound.
INLINE real exp1(real x) {
    real power, p = exp_parts(x, &power);
    return fma1(p, power, power);
}

// log of a normal x > 0; NaN and infinity give NaN. With x = 2^e m and s = (m - 1) / (m + 1), it is the series
// e ln 2 + 2 s (1 + s² / 3 + s⁴ / 5 + …), |s| <= 0.18.
INLINE real log1(real x) {
    const word half_root = (word)(SINGLE ? 0x3f3504f3 : 0x3fe6a09e667f3bcd);
    word bits = bits_of(x);
    whole e = (whole)(bits - half_root) >> MANTISSA;
    real f = real_of(bits - ((word)e << MANTISSA)) - 1, s = f / (2 + f), square = s * s, p = 0;
    UNROLL for (int i = SINGLE ? 4 : 10; i >= 1; i--) p = fma1(p, square, (real)(2.0 / (2 * i + 1)));
    real log_m = fma1(s * square, p, 2 * s);
    return fma1((real)e, LN2_HIGH, fma1((real)e, LN2_LOW, log_m)) + (x - x);
}

// tanh(h) = -E / (2 + E) with E = exp(-2 |h|) - 1, and the sign of h
INLINE real tanh1(real h) {
    real size = h < 0 ? -h : h, power, p = exp_parts(-2 * size, &power);
    real E = fma1(p, power, power - 1), value = -E / (2 + E);
    return h < 0 ? -value : value;
}
