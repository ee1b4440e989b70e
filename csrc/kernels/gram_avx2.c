/* Gram tile in float64: tile += a^T b.
 *
 * Register plan: 4 rows of the tile at a time. 12 accumulators (4 rows x 3 vectors of 4
 * columns), 3 vectors of b, 1 broadcast element of a: all 16 registers. 12 independent
 * chains of fused multiply-adds cover the latency of 4 cycles at 2 a cycle. */
#if defined(__x86_64__)
#include "kernels.h"

#include <immintrin.h>

enum { PANEL = EF_GRAM_PANEL, ROWS = 4 };

/* A row of the tile: EF_GRAM_PANEL columns. */
typedef struct tile_row {
    __m256d v0, v1, v2;
} tile_row;

EF_AVX2 static inline tile_row zero(void) {
    return (tile_row){_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
}

EF_AVX2 static inline tile_row load(const double *source) {
    return (tile_row){_mm256_loadu_pd(source), _mm256_loadu_pd(source + 4),
                      _mm256_loadu_pd(source + 8)};
}

/* sum + element * columns */
EF_AVX2 static inline tile_row multiply_add(const double *element, tile_row columns, tile_row sum) {
    const __m256d e = _mm256_broadcast_sd(element);
    return (tile_row){_mm256_fmadd_pd(e, columns.v0, sum.v0),
                      _mm256_fmadd_pd(e, columns.v1, sum.v1),
                      _mm256_fmadd_pd(e, columns.v2, sum.v2)};
}

EF_AVX2 static inline void add_to(double *target, tile_row sum) {
    const tile_row old = load(target);
    _mm256_storeu_pd(target, _mm256_add_pd(old.v0, sum.v0));
    _mm256_storeu_pd(target + 4, _mm256_add_pd(old.v1, sum.v1));
    _mm256_storeu_pd(target + 8, _mm256_add_pd(old.v2, sum.v2));
}

/* Four rows of the tile; `a` points at their first column. */
EF_AVX2 static void quarter_tile(const double *a, const double *b, size_t n, double *tile,
                                 size_t stride) {
    tile_row s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
    for (size_t r = 0; r < n; r++, a += PANEL, b += PANEL) {
        const tile_row columns = load(b);
        s0 = multiply_add(a, columns, s0);
        s1 = multiply_add(a + 1, columns, s1);
        s2 = multiply_add(a + 2, columns, s2);
        s3 = multiply_add(a + 3, columns, s3);
    }
    add_to(tile, s0);
    add_to(tile + stride, s1);
    add_to(tile + 2 * stride, s2);
    add_to(tile + 3 * stride, s3);
}

EF_AVX2 void ef_gram_f64_avx2(const double *a, const double *b, size_t n, double *tile,
                              size_t stride) {
    for (size_t i = 0; i < PANEL; i += ROWS)
        quarter_tile(a + i, b, n, tile + i * stride, stride);
}
#endif
