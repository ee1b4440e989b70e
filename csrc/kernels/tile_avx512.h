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

#endif
