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

#endif
