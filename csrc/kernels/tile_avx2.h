/* Parts of the AVX2 micro-kernels: a row of EF_TILE_COLUMNS sums in registers. */
#ifndef EMBEDFILTER_TILE_AVX2_H
#define EMBEDFILTER_TILE_AVX2_H

#include "kernels/kernels.h"

#include <immintrin.h>

/* EF_TILE_COLUMNS float32 in three registers. */
typedef struct row_f32 {
    __m256 v0, v1, v2;
} row_f32;

EF_AVX2 static inline row_f32 zero_f32(void) {
    return (row_f32){_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
}

/* 32-byte aligned */
EF_AVX2 static inline row_f32 load_f32(const float *source) {
    return (row_f32){_mm256_load_ps(source), _mm256_load_ps(source + 8),
                     _mm256_load_ps(source + 16)};
}

/* sum + element * row */
EF_AVX2 static inline row_f32 multiply_add_f32(const float *element, row_f32 row, row_f32 sum) {
    const __m256 e = _mm256_broadcast_ss(element);
    return (row_f32){_mm256_fmadd_ps(e, row.v0, sum.v0), _mm256_fmadd_ps(e, row.v1, sum.v1),
                     _mm256_fmadd_ps(e, row.v2, sum.v2)};
}

/* EF_TILE_ROWS rows of sums in registers. */
typedef struct tile_f32 {
    row_f32 r0, r1, r2, r3;
} tile_f32;

EF_AVX2 static inline tile_f32 zero_tile_f32(void) {
    const row_f32 zero = zero_f32();
    return (tile_f32){zero, zero, zero, zero};
}

/* The product that the Gram matrix and the projection share: sums += x^T panel, over n rows of the
 * panel. Row r of the sums takes the elements r, step + r, 2 step + r ... of x. */
EF_AVX2 static inline __attribute__((always_inline)) tile_f32
multiply_f32(const float *x, size_t step, const float *panel, size_t n, tile_f32 sums) {
#pragma GCC unroll 4
    for (size_t i = 0; i < n; i++, x += step, panel += EF_TILE_COLUMNS) {
        const row_f32 columns = load_f32(panel);
        sums.r0 = multiply_add_f32(x, columns, sums.r0);
        sums.r1 = multiply_add_f32(x + 1, columns, sums.r1);
        sums.r2 = multiply_add_f32(x + 2, columns, sums.r2);
        sums.r3 = multiply_add_f32(x + 3, columns, sums.r3);
    }
    return sums;
}

#endif
