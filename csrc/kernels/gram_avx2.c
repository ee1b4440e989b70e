/* Gram tile, tile += a^T b, and the peeling of rows.
 *
 * Register plan of the tiles: 4 rows at a time and, in float32, all 24 columns, in float64
 * half of them: 12 accumulators, 3 vectors of b, 1 broadcast element of a; all 16 registers.
 * 12 independent chains of fused multiply-adds cover the latency of 4 cycles at 2 a cycle. */
#if defined(__x86_64__)
#include "kernels/chains.h"
#include "kernels/tile_avx2.h"

enum { DOTS = 4 }; /* chains of products at a time: the latency of 4 cycles at 2 loads each */

/* target[0..23] += sum, in float64 */
EF_AVX2 static inline void flush_f32(double *target, row_f32 sum) {
    const __m256 parts[3] = {sum.v0, sum.v1, sum.v2};
    for (int v = 0; v < 3; v++, target += 8) {
        const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(parts[v]));
        const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(parts[v], 1));
        _mm256_storeu_pd(target, _mm256_add_pd(_mm256_loadu_pd(target), low));
        _mm256_storeu_pd(target + 4, _mm256_add_pd(_mm256_loadu_pd(target + 4), high));
    }
}

/* Four rows of sums, kept in float32 between two parts of a run. */
EF_AVX2 static inline tile_f32 kept_f32(const float *kept) {
    return (tile_f32){load_f32(kept), load_f32(kept + EF_TILE_COLUMNS),
                      load_f32(kept + 2 * EF_TILE_COLUMNS), load_f32(kept + 3 * EF_TILE_COLUMNS)};
}

EF_AVX2 static inline void keep_f32(float *kept, row_f32 sum) {
    _mm256_store_ps(kept, sum.v0);
    _mm256_store_ps(kept + 8, sum.v1);
    _mm256_store_ps(kept + 16, sum.v2);
}

/* Four rows of the tile, over n rows of the panels; `a` points at the first of their columns.
 * `next` are 8 n bytes to fetch into the cache meanwhile: one line every STEP / LINES rows, as
 * more at a time would stall the loads. */
EF_AVX2 static inline tile_f32 rows_f32(const float *a, const float *b, size_t n, tile_f32 sums,
                                        const char *next) {
    enum { STEP = 32, LINES = 4, LINE_BYTES = 64 };
    for (size_t first = 0; first < n; first += STEP) {
        for (size_t i = 0; i < LINES; i++, next += LINE_BYTES)
            _mm_prefetch(next, _MM_HINT_T0);
        const size_t rows = n - first < STEP ? n - first : STEP;
        sums = multiply_f32(a + first * EF_TILE_COLUMNS, EF_TILE_COLUMNS,
                            b + first * EF_TILE_COLUMNS, rows, sums);
    }
    return sums;
}

/* Part by part of the run, so that what six passes read of two panels fits the L1 cache. */
EF_AVX2 void ef_gram_f32_avx2(ef_tile shape, const float *a, const float *b, size_t n, double *tile,
                              const float *next) {
    (void)shape;
    enum { PART = 64 };
    _Alignas(32) float kept[EF_TILE_COLUMNS * EF_TILE_COLUMNS];
    const char *bytes = (const char *)next; /* the passes fetch half a panel */
    for (size_t first = 0; first < n; first += PART) {
        const size_t rows = n - first < PART ? n - first : PART;
        for (size_t i = 0; i < EF_TILE_COLUMNS; i += EF_TILE_ROWS, bytes += 8 * rows) {
            float *own = kept + i * EF_TILE_COLUMNS;
            tile_f32 sums = first == 0 ? zero_tile_f32() : kept_f32(own);
            sums = rows_f32(a + first * EF_TILE_COLUMNS + i, b + first * EF_TILE_COLUMNS, rows,
                            sums, bytes);
            if (first + rows < n) {
                keep_f32(own, sums.r0);
                keep_f32(own + EF_TILE_COLUMNS, sums.r1);
                keep_f32(own + 2 * EF_TILE_COLUMNS, sums.r2);
                keep_f32(own + 3 * EF_TILE_COLUMNS, sums.r3);
                continue;
            }
            double *target = tile + i * EF_TILE_COLUMNS;
            flush_f32(target, sums.r0);
            flush_f32(target + EF_TILE_COLUMNS, sums.r1);
            flush_f32(target + 2 * EF_TILE_COLUMNS, sums.r2);
            flush_f32(target + 3 * EF_TILE_COLUMNS, sums.r3);
        }
    }
}

/* Half a row of the tile: 12 columns. */
typedef struct half_f64 {
    __m256d v0, v1, v2;
} half_f64;

EF_AVX2 static inline half_f64 zero_f64(void) {
    return (half_f64){_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
}

EF_AVX2 static inline half_f64 load_f64(const double *source) {
    return (half_f64){_mm256_loadu_pd(source), _mm256_loadu_pd(source + 4),
                      _mm256_loadu_pd(source + 8)};
}

/* sum + element * columns */
EF_AVX2 static inline half_f64 multiply_add_f64(const double *element, half_f64 columns,
                                                half_f64 sum) {
    const __m256d e = _mm256_broadcast_sd(element);
    return (half_f64){_mm256_fmadd_pd(e, columns.v0, sum.v0),
                      _mm256_fmadd_pd(e, columns.v1, sum.v1),
                      _mm256_fmadd_pd(e, columns.v2, sum.v2)};
}

EF_AVX2 static inline void flush_f64(double *target, half_f64 sum) {
    const half_f64 old = load_f64(target);
    _mm256_storeu_pd(target, _mm256_add_pd(old.v0, sum.v0));
    _mm256_storeu_pd(target + 4, _mm256_add_pd(old.v1, sum.v1));
    _mm256_storeu_pd(target + 8, _mm256_add_pd(old.v2, sum.v2));
}

/* Four rows and twelve columns of the tile; `a` and `b` point at the first of each. */
EF_AVX2 static void rows_f64(const double *a, const double *b, size_t n, double *tile) {
    half_f64 s0 = zero_f64(), s1 = zero_f64(), s2 = zero_f64(), s3 = zero_f64();
    for (size_t r = 0; r < n; r++, a += EF_TILE_COLUMNS, b += EF_TILE_COLUMNS) {
        const half_f64 columns = load_f64(b);
        s0 = multiply_add_f64(a, columns, s0);
        s1 = multiply_add_f64(a + 1, columns, s1);
        s2 = multiply_add_f64(a + 2, columns, s2);
        s3 = multiply_add_f64(a + 3, columns, s3);
    }
    flush_f64(tile, s0);
    flush_f64(tile + EF_TILE_COLUMNS, s1);
    flush_f64(tile + 2 * EF_TILE_COLUMNS, s2);
    flush_f64(tile + 3 * EF_TILE_COLUMNS, s3);
}

EF_AVX2 void ef_gram_f64_avx2(ef_tile shape, const double *a, const double *b, size_t n,
                              double *tile) {
    (void)shape;
    for (size_t j = 0; j < EF_TILE_COLUMNS; j += EF_TILE_COLUMNS / 2)
        for (size_t i = 0; i < EF_TILE_COLUMNS; i += EF_TILE_ROWS)
            rows_f64(a + i, b + j, n, tile + i * EF_TILE_COLUMNS + j);
}

/* The products of a row and n_parts directions: each is a chain, whose latency the others hide. */
EF_AVX2 static inline __attribute__((always_inline)) void
dots_f32(const float *row, size_t n, const float *basis, size_t n_parts, float *parts) {
    __m256 sums[DOTS];
    for (size_t q = 0; q < n_parts; q++)
        sums[q] = _mm256_setzero_ps();
    size_t end = 0;
    for (; end + 8 <= n; end += 8) {
        const __m256 x = _mm256_loadu_ps(row + end);
        for (size_t q = 0; q < n_parts; q++)
            sums[q] = _mm256_fmadd_ps(x, _mm256_loadu_ps(basis + q * n + end), sums[q]);
    }
    for (size_t q = 0; q < n_parts; q++) {
        float s[8];
        _mm256_storeu_ps(s, sums[q]);
        for (size_t i = end; i < n; i++)
            s[i % 8] = _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(row[i]), _mm_set_ss(basis[q * n + i]),
                                                  _mm_set_ss(s[i % 8])));
        parts[q] = ef_sum_of_8_f32(s);
    }
}

EF_AVX2 void ef_peel_f32_avx2(float *row, size_t n, const float *basis, size_t p, float *parts) {
    size_t first = 0;
    for (; first + DOTS <= p; first += DOTS)
        dots_f32(row, n, basis + first * n, DOTS, parts + first);
    for (; first < p; first++)
        dots_f32(row, n, basis + first * n, 1, parts + first);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 rest = _mm256_loadu_ps(row + i);
        for (size_t q = 0; q < p; q++)
            rest = _mm256_fnmadd_ps(_mm256_broadcast_ss(parts + q),
                                    _mm256_loadu_ps(basis + q * n + i), rest);
        _mm256_storeu_ps(row + i, rest);
    }
    for (; i < n; i++)
        for (size_t q = 0; q < p; q++)
            row[i] = _mm_cvtss_f32(_mm_fnmadd_ss(_mm_set_ss(parts[q]), _mm_set_ss(basis[q * n + i]),
                                                 _mm_set_ss(row[i])));
}

EF_AVX2 void ef_panel_f32_avx2(ef_tile shape, const float *src, size_t stride, size_t n,
                               float *dst) {
    (void)shape;
    for (size_t r = 0; r < n; r++, src += stride, dst += EF_TILE_COLUMNS)
        for (size_t i = 0; i < EF_TILE_COLUMNS; i += 8)
            _mm256_store_ps(dst + i, _mm256_loadu_ps(src + i));
}
#endif
