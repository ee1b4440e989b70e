/* Projection: y (+)= x panel.
 *
 * Register plan of the tile: 12 accumulators (4 rows x 3 vectors of 8 components), 3 vectors
 * of the panel, 1 broadcast element of x: all 16 registers. Of a single row: 6 accumulators
 * (2 panels x 3 vectors), so that its chains cover their latency; it is as fast as the panels
 * come from memory. */
#if defined(__x86_64__)
#include "kernels/tile_avx2.h"

/* The eight elements of each of four rows that begin at `i`: (8, 4). */
EF_AVX2 static inline void transpose_f32(const float *const *rows, size_t i, float *dst) {
    const __m256 r0 = _mm256_loadu_ps(rows[0] + i), r1 = _mm256_loadu_ps(rows[1] + i);
    const __m256 r2 = _mm256_loadu_ps(rows[2] + i), r3 = _mm256_loadu_ps(rows[3] + i);
    /* Pairs of two rows: elements 0, 1 and 4, 5 of each, then 2, 3 and 6, 7. */
    const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(r0, r1));
    const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(r2, r3));
    const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1));
    const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3));
    /* Element j of all rows in the low half, j + 4 in the high one. */
    const __m256 e0 = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
    const __m256 e1 = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
    const __m256 e2 = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
    const __m256 e3 = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
    _mm256_storeu_ps(dst, _mm256_permute2f128_ps(e0, e1, 0x20));
    _mm256_storeu_ps(dst + 8, _mm256_permute2f128_ps(e2, e3, 0x20));
    _mm256_storeu_ps(dst + 16, _mm256_permute2f128_ps(e0, e1, 0x31));
    _mm256_storeu_ps(dst + 24, _mm256_permute2f128_ps(e2, e3, 0x31));
}

EF_AVX2 void ef_interleave_f32_avx2(ef_tile shape, const float *const *rows, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        transpose_f32(rows, i, dst + i * EF_TILE_ROWS);
    const float *const rest[EF_TILE_ROWS] = {rows[0] + i, rows[1] + i, rows[2] + i, rows[3] + i};
    ef_interleave_f32_scalar(shape, rest, n - i, dst + i * EF_TILE_ROWS);
}

EF_AVX2 static inline void store(float *y, row_f32 sum, int first) {
    if (!first) {
        sum.v0 = _mm256_add_ps(_mm256_loadu_ps(y), sum.v0);
        sum.v1 = _mm256_add_ps(_mm256_loadu_ps(y + 8), sum.v1);
        sum.v2 = _mm256_add_ps(_mm256_loadu_ps(y + 16), sum.v2);
    }
    _mm256_storeu_ps(y, sum.v0);
    _mm256_storeu_ps(y + 8, sum.v1);
    _mm256_storeu_ps(y + 16, sum.v2);
}

EF_AVX2 void ef_project_f32_avx2(ef_tile shape, const float *x, const float *panel, size_t n,
                                 float *y, size_t y_stride, int first, const float *next) {
    (void)shape;
    enum { STEP = 4 }; /* rows of the panel for each line that is fetched */
    tile_f32 sums = zero_tile_f32();
    for (size_t input = 0; input < n; input += STEP) {
        _mm_prefetch((const char *)(next + 4 * input), _MM_HINT_T1);
        const size_t rows = n - input < STEP ? n - input : STEP;
        sums = multiply_f32(x + input * EF_TILE_ROWS, EF_TILE_ROWS, panel + input * EF_TILE_COLUMNS,
                            rows, sums);
    }
    store(y, sums.r0, first);
    store(y + y_stride, sums.r1, first);
    store(y + 2 * y_stride, sums.r2, first);
    store(y + 3 * y_stride, sums.r3, first);
}

EF_AVX2 void ef_project_row_f32_avx2(ef_tile shape, const float *x, const float *panels, size_t n,
                                     float *y, int first) {
    (void)shape;
    const float *second = panels + n * EF_TILE_COLUMNS;
    row_f32 s0 = zero_f32(), s1 = zero_f32();
    for (size_t i = 0; i < n; i++, panels += EF_TILE_COLUMNS, second += EF_TILE_COLUMNS) {
        s0 = multiply_add_f32(x + i, load_f32(panels), s0);
        s1 = multiply_add_f32(x + i, load_f32(second), s1);
    }
    store(y, s0, first);
    store(y + EF_TILE_COLUMNS, s1, first);
}
#endif
