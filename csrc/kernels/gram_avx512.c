/* Gram tile, sums += a^T b.
 *
 * Register plan of the tiles: in float32 8 rows at a time and all 32 columns, 16 accumulators,
 * 2 vectors of b, 1 broadcast element of a; in float64 4 rows and all columns, 16 accumulators and
 * 4 vectors of b. 16 independent chains of fused multiply-adds cover the latency of 4 cycles at 2
 * a cycle twice. */
#if defined(__x86_64__)
#include "kernels/tile_avx512.h"

enum { ROWS_F64 = 4 };

/* target[0..15] += sum, in float64 */
EF_AVX512 static inline void flush_16(double *target, __m512 sum) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(sum));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(sum, 1));
    _mm512_storeu_pd(target, _mm512_add_pd(_mm512_loadu_pd(target), low));
    _mm512_storeu_pd(target + 8, _mm512_add_pd(_mm512_loadu_pd(target + 8), high));
}

EF_AVX512 static inline void flush_f32(double *target, row_f32 sum) {
    flush_16(target, sum.v0);
    flush_16(target + 16, sum.v1);
}

/* Eight rows of the sums; `a` points at their first column. `next` are bytes to fetch into the
 * cache meanwhile: a few lines every STEP rows, as more at a time would stall the loads. */
EF_AVX512 static void rows_f32(const float *a, const float *b, size_t n, double *sums,
                               const char *next) {
    enum { STEP = 16, LINES = 4, LINE_BYTES = 64 };
    for (size_t i = 0; i < EF_WIDE_ROWS * EF_WIDE_COLUMNS; i += 8) /* needed at the end */
        _mm_prefetch((const char *)(sums + i), _MM_HINT_T0);
    tile_f32 tile = zero_tile_f32();
    for (size_t first = 0; first < n; first += STEP) {
        for (size_t i = 0; i < LINES; i++, next += LINE_BYTES)
            _mm_prefetch(next, _MM_HINT_T0);
        const size_t rows = n - first < STEP ? n - first : STEP;
        tile = multiply_f32(a + first * EF_WIDE_COLUMNS, EF_WIDE_COLUMNS,
                            b + first * EF_WIDE_COLUMNS, rows, tile);
    }
    flush_f32(sums, tile.r0);
    flush_f32(sums + EF_WIDE_COLUMNS, tile.r1);
    flush_f32(sums + 2 * EF_WIDE_COLUMNS, tile.r2);
    flush_f32(sums + 3 * EF_WIDE_COLUMNS, tile.r3);
    flush_f32(sums + 4 * EF_WIDE_COLUMNS, tile.r4);
    flush_f32(sums + 5 * EF_WIDE_COLUMNS, tile.r5);
    flush_f32(sums + 6 * EF_WIDE_COLUMNS, tile.r6);
    flush_f32(sums + 7 * EF_WIDE_COLUMNS, tile.r7);
}

EF_AVX512 void ef_gram_f32_avx512(ef_tile shape, const float *a, const float *b, size_t n,
                                  double *sums, const float *next) {
    (void)shape;
    /* The four calls fetch half a panel: 16 bytes for each row. */
    const char *bytes = (const char *)next;
    for (size_t i = 0; i < EF_WIDE_COLUMNS; i += EF_WIDE_ROWS, bytes += n * 16)
        rows_f32(a + i, b, n, sums + i * EF_WIDE_COLUMNS, bytes);
}

/* A row of EF_WIDE_COLUMNS float64. */
typedef struct row_f64 {
    __m512d v0, v1, v2, v3;
} row_f64;

EF_AVX512 static inline row_f64 zero_f64(void) {
    const __m512d zero = _mm512_setzero_pd();
    return (row_f64){zero, zero, zero, zero};
}

EF_AVX512 static inline row_f64 load_f64(const double *source) {
    return (row_f64){_mm512_loadu_pd(source), _mm512_loadu_pd(source + 8),
                     _mm512_loadu_pd(source + 16), _mm512_loadu_pd(source + 24)};
}

/* sum + element * columns */
EF_AVX512 static inline row_f64 multiply_add_f64(const double *element, row_f64 columns,
                                                 row_f64 sum) {
    const __m512d e = _mm512_set1_pd(*element);
    return (row_f64){_mm512_fmadd_pd(e, columns.v0, sum.v0), _mm512_fmadd_pd(e, columns.v1, sum.v1),
                     _mm512_fmadd_pd(e, columns.v2, sum.v2),
                     _mm512_fmadd_pd(e, columns.v3, sum.v3)};
}

EF_AVX512 static inline void flush_f64(double *target, row_f64 sum) {
    const row_f64 old = load_f64(target);
    _mm512_storeu_pd(target, _mm512_add_pd(old.v0, sum.v0));
    _mm512_storeu_pd(target + 8, _mm512_add_pd(old.v1, sum.v1));
    _mm512_storeu_pd(target + 16, _mm512_add_pd(old.v2, sum.v2));
    _mm512_storeu_pd(target + 24, _mm512_add_pd(old.v3, sum.v3));
}

/* Four rows of the sums; `a` points at their first column. */
EF_AVX512 static void rows_f64(const double *a, const double *b, size_t n, double *sums) {
    row_f64 s0 = zero_f64(), s1 = zero_f64(), s2 = zero_f64(), s3 = zero_f64();
#pragma GCC unroll 2
    for (size_t r = 0; r < n; r++, a += EF_WIDE_COLUMNS, b += EF_WIDE_COLUMNS) {
        const row_f64 columns = load_f64(b);
        s0 = multiply_add_f64(a, columns, s0);
        s1 = multiply_add_f64(a + 1, columns, s1);
        s2 = multiply_add_f64(a + 2, columns, s2);
        s3 = multiply_add_f64(a + 3, columns, s3);
    }
    flush_f64(sums, s0);
    flush_f64(sums + EF_WIDE_COLUMNS, s1);
    flush_f64(sums + 2 * EF_WIDE_COLUMNS, s2);
    flush_f64(sums + 3 * EF_WIDE_COLUMNS, s3);
}

EF_AVX512 void ef_gram_f64_avx512(ef_tile shape, const double *a, const double *b, size_t n,
                                  double *sums) {
    (void)shape;
    for (size_t i = 0; i < EF_WIDE_COLUMNS; i += ROWS_F64)
        rows_f64(a + i, b, n, sums + i * EF_WIDE_COLUMNS);
}

EF_AVX512 void ef_panel_f32_avx512(ef_tile shape, const float *src, size_t stride, size_t n,
                                   float *dst) {
    (void)shape;
    for (size_t r = 0; r < n; r++, src += stride, dst += EF_WIDE_COLUMNS) {
        _mm512_store_ps(dst, _mm512_loadu_ps(src));
        _mm512_store_ps(dst + 16, _mm512_loadu_ps(src + 16));
    }
}
#endif
