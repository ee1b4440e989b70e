/* Parts of the AVX-512 micro-kernels: a row of EF_WIDE_COLUMNS sums in registers. */
#ifndef EMBEDFILTER_TILE_AVX512_H
#define EMBEDFILTER_TILE_AVX512_H

#include "kernels/kernels.h"

#include <immintrin.h>

/* EF_WIDE_COLUMNS float32 in two registers. */
typedef struct row_f32 {
    __m512 v0, v1;
} row_f32;

EF_AVX512 static inline row_f32 zero_f32(void) {
    return (row_f32){_mm512_setzero_ps(), _mm512_setzero_ps()};
}

/* 64-byte aligned */
EF_AVX512 static inline row_f32 load_f32(const float *source) {
    return (row_f32){_mm512_load_ps(source), _mm512_load_ps(source + 16)};
}

/* sum + element * row */
EF_AVX512 static inline row_f32 multiply_add_f32(const float *element, row_f32 row, row_f32 sum) {
    const __m512 e = _mm512_set1_ps(*element);
    return (row_f32){_mm512_fmadd_ps(e, row.v0, sum.v0), _mm512_fmadd_ps(e, row.v1, sum.v1)};
}

/* EF_WIDE_ROWS rows of sums in registers. */
typedef struct tile_f32 {
    row_f32 r0, r1, r2, r3, r4, r5, r6, r7;
} tile_f32;

EF_AVX512 static inline tile_f32 zero_tile_f32(void) {
    const row_f32 zero = zero_f32();
    return (tile_f32){zero, zero, zero, zero, zero, zero, zero, zero};
}

/* The product that the Gram matrix and the projection share: sums += x^T panel, over n rows of the
 * panel. Row r of the sums takes the elements r, step + r, 2 step + r ... of x. */
EF_AVX512 static inline __attribute__((always_inline)) tile_f32
multiply_f32(const float *x, size_t step, const float *panel, size_t n, tile_f32 sums) {
#pragma GCC unroll 4
    for (size_t i = 0; i < n; i++, x += step, panel += EF_WIDE_COLUMNS) {
        const row_f32 columns = load_f32(panel);
        sums.r0 = multiply_add_f32(x, columns, sums.r0);
        sums.r1 = multiply_add_f32(x + 1, columns, sums.r1);
        sums.r2 = multiply_add_f32(x + 2, columns, sums.r2);
        sums.r3 = multiply_add_f32(x + 3, columns, sums.r3);
        sums.r4 = multiply_add_f32(x + 4, columns, sums.r4);
        sums.r5 = multiply_add_f32(x + 5, columns, sums.r5);
        sums.r6 = multiply_add_f32(x + 6, columns, sums.r6);
        sums.r7 = multiply_add_f32(x + 7, columns, sums.r7);
    }
    return sums;
}

#endif
