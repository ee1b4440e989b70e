/* Projection: y (+)= x panel.
 *
 * Register plan of the tile: 16 accumulators (8 rows x 2 vectors of 16 components), 2 vectors of
 * the panel, 1 broadcast element of x; of 32 registers. 16 independent chains cover the latency of
 * 4 cycles at 2 a cycle twice. Of a single row: 4 accumulators (2 panels x 2 vectors); it is as
 * fast as the panels come from memory. */
#if defined(__x86_64__)
#include "kernels/tile_avx512.h"

/* Transposes 8 rows of 8 elements: dst[i * 8 + r] = rows[r][i]. */
EF_AVX512 static inline void transpose(const float *const *rows, size_t i, float *dst) {
    __m256 pairs[8], quads[8];
    for (int r = 0; r < 8; r += 2) {
        const __m256 even = _mm256_loadu_ps(rows[r] + i), odd = _mm256_loadu_ps(rows[r + 1] + i);
        pairs[r] = _mm256_unpacklo_ps(even, odd);     /* elements 0 1 and 4 5 of two rows */
        pairs[r + 1] = _mm256_unpackhi_ps(even, odd); /* elements 2 3 and 6 7 */
    }
    for (int r = 0; r < 8; r += 4) {
        quads[r] = _mm256_shuffle_ps(pairs[r], pairs[r + 2], 0x44); /* elements 0 and 4 */
        quads[r + 1] = _mm256_shuffle_ps(pairs[r], pairs[r + 2], 0xee);
        quads[r + 2] = _mm256_shuffle_ps(pairs[r + 1], pairs[r + 3], 0x44);
        quads[r + 3] = _mm256_shuffle_ps(pairs[r + 1], pairs[r + 3], 0xee);
    }
    for (int e = 0; e < 4; e++) {
        _mm256_storeu_ps(dst + e * 8, _mm256_permute2f128_ps(quads[e], quads[e + 4], 0x20));
        _mm256_storeu_ps(dst + (e + 4) * 8, _mm256_permute2f128_ps(quads[e], quads[e + 4], 0x31));
    }
}

EF_AVX512 void ef_interleave_f32_avx512(ef_tile shape, const float *const *rows, size_t n,
                                        float *dst) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        transpose(rows, i, dst + i * EF_WIDE_ROWS);
    const float *rest[EF_WIDE_ROWS];
    for (size_t r = 0; r < EF_WIDE_ROWS; r++)
        rest[r] = rows[r] + i;
    ef_interleave_f32_scalar(shape, rest, n - i, dst + i * EF_WIDE_ROWS);
}

EF_AVX512 static inline void store(float *y, row_f32 sum, int first) {
    if (!first) {
        sum.v0 = _mm512_add_ps(_mm512_loadu_ps(y), sum.v0);
        sum.v1 = _mm512_add_ps(_mm512_loadu_ps(y + 16), sum.v1);
    }
    _mm512_storeu_ps(y, sum.v0);
    _mm512_storeu_ps(y + 16, sum.v1);
}

EF_AVX512 void ef_project_f32_avx512(ef_tile shape, const float *x, const float *panel, size_t n,
                                     float *y, size_t y_stride, int first, const float *next) {
    (void)shape;
    enum { STEP = 4 }; /* rows of the panel for each line that is fetched */
    tile_f32 sums = zero_tile_f32();
    for (size_t input = 0; input < n; input += STEP) {
        _mm_prefetch((const char *)(next + 4 * input), _MM_HINT_T1);
        const size_t rows = n - input < STEP ? n - input : STEP;
        sums = multiply_f32(x + input * EF_WIDE_ROWS, EF_WIDE_ROWS, panel + input * EF_WIDE_COLUMNS,
                            rows, sums);
    }
    store(y, sums.r0, first);
    store(y + y_stride, sums.r1, first);
    store(y + 2 * y_stride, sums.r2, first);
    store(y + 3 * y_stride, sums.r3, first);
    store(y + 4 * y_stride, sums.r4, first);
    store(y + 5 * y_stride, sums.r5, first);
    store(y + 6 * y_stride, sums.r6, first);
    store(y + 7 * y_stride, sums.r7, first);
}

EF_AVX512 void ef_project_row_f32_avx512(ef_tile shape, const float *x, const float *panels,
                                         size_t n, float *y, int first) {
    (void)shape;
    const float *second = panels + n * EF_WIDE_COLUMNS;
    row_f32 s0 = zero_f32(), s1 = zero_f32();
#pragma GCC unroll 4
    for (size_t i = 0; i < n; i++, panels += EF_WIDE_COLUMNS, second += EF_WIDE_COLUMNS) {
        s0 = multiply_add_f32(x + i, load_f32(panels), s0);
        s1 = multiply_add_f32(x + i, load_f32(second), s1);
    }
    store(y, s0, first);
    store(y + EF_WIDE_COLUMNS, s1, first);
}
#endif
