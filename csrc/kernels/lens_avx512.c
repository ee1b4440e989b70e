/* The lens: products in int16 to find those worth an exact one.
 *
 * Register plan of the tile: 16 accumulators (8 rows x 2 vectors of 16 columns), 2 vectors of the
 * panel, 1 broadcast pair of a row. One instruction multiplies pairs and adds both products:
 * twice the multiply-adds of a float32 one. */
#if defined(__x86_64__)
#include "kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

/* Eight elements of a row, times the factor, as int16. */
EF_AVX512 static inline __m128 rounded(const float *row, float factor) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(row), _mm256_set1_ps(factor));
    return _mm_castsi128_ps(_mm256_cvtsepi32_epi16(_mm256_cvtps_epi32(scaled)));
}

EF_AVX512 void ef_interleave_i16_avx512(ef_tile shape, const float *const *rows,
                                        const float *factors, size_t n, int16_t *dst, size_t step) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8, dst += 4 * step) {
        for (size_t r = 0; r < EF_WIDE_ROWS; r += 4) { /* four pairs of four rows */
            __m128 a = rounded(rows[r] + i, factors[r]);
            __m128 b = rounded(rows[r + 1] + i, factors[r + 1]);
            __m128 c = rounded(rows[r + 2] + i, factors[r + 2]);
            __m128 d = rounded(rows[r + 3] + i, factors[r + 3]);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps((float *)(dst + 2 * r), a);
            _mm_storeu_ps((float *)(dst + step + 2 * r), b);
            _mm_storeu_ps((float *)(dst + 2 * step + 2 * r), c);
            _mm_storeu_ps((float *)(dst + 3 * step + 2 * r), d);
        }
    }
    const float *rest[EF_WIDE_ROWS];
    for (size_t r = 0; r < EF_WIDE_ROWS; r++)
        rest[r] = rows[r] + i;
    ef_interleave_i16_scalar(shape, rest, factors, n - i, dst, step);
}

/* Sums of a row of the tile with EF_WIDE_COLUMNS columns. */
typedef struct row_i32 {
    __m512i v0, v1;
} row_i32;

EF_AVX512 static inline row_i32 zero_i32(void) {
    return (row_i32){_mm512_setzero_si512(), _mm512_setzero_si512()};
}

EF_AVX512 static inline row_i32 load_i32(const void *source) {
    const char *bytes = source;
    return (row_i32){_mm512_loadu_si512(bytes), _mm512_loadu_si512(bytes + 64)};
}

/* sum + a pair of a row times the pairs of the columns */
EF_AVX512 static inline row_i32 multiply_add_i32(const int16_t *pair, row_i32 columns,
                                                 row_i32 sum) {
    int32_t bits;
    memcpy(&bits, pair, sizeof bits);
    const __m512i p = _mm512_set1_epi32(bits);
    return (row_i32){_mm512_dpwssd_epi32(sum.v0, p, columns.v0),
                     _mm512_dpwssd_epi32(sum.v1, p, columns.v1)};
}

EF_AVX512 static inline void store_i32(int32_t *target, row_i32 sum, int first) {
    if (!first) {
        const row_i32 old = load_i32(target);
        sum.v0 = _mm512_add_epi32(old.v0, sum.v0);
        sum.v1 = _mm512_add_epi32(old.v1, sum.v1);
    }
    _mm512_storeu_si512(target, sum.v0);
    _mm512_storeu_si512(target + 16, sum.v1);
}

EF_AVX512 void ef_multiply_i16_avx512(ef_tile shape, const int16_t *tile, const int16_t *panel,
                                      size_t n, int32_t *sums, int first) {
    (void)shape;
    row_i32 s0 = zero_i32(), s1 = zero_i32(), s2 = zero_i32(), s3 = zero_i32();
    row_i32 s4 = zero_i32(), s5 = zero_i32(), s6 = zero_i32(), s7 = zero_i32();
#pragma GCC unroll 4
    for (size_t i = 0; i < n; i++, tile += 2 * EF_WIDE_ROWS, panel += 2 * EF_WIDE_COLUMNS) {
        const row_i32 columns = load_i32(panel);
        s0 = multiply_add_i32(tile, columns, s0);
        s1 = multiply_add_i32(tile + 2, columns, s1);
        s2 = multiply_add_i32(tile + 4, columns, s2);
        s3 = multiply_add_i32(tile + 6, columns, s3);
        s4 = multiply_add_i32(tile + 8, columns, s4);
        s5 = multiply_add_i32(tile + 10, columns, s5);
        s6 = multiply_add_i32(tile + 12, columns, s6);
        s7 = multiply_add_i32(tile + 14, columns, s7);
    }
    store_i32(sums, s0, first);
    store_i32(sums + EF_WIDE_COLUMNS, s1, first);
    store_i32(sums + 2 * EF_WIDE_COLUMNS, s2, first);
    store_i32(sums + 3 * EF_WIDE_COLUMNS, s3, first);
    store_i32(sums + 4 * EF_WIDE_COLUMNS, s4, first);
    store_i32(sums + 5 * EF_WIDE_COLUMNS, s5, first);
    store_i32(sums + 6 * EF_WIDE_COLUMNS, s6, first);
    store_i32(sums + 7 * EF_WIDE_COLUMNS, s7, first);
}

/* Sixteen bits of a mask. */
EF_AVX512 static inline uint32_t reach(__m512i sums, __m512 scale, __m512 margin,
                                       const float *least) {
    const __m512 most = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sums), margin);
    return _mm512_cmp_ps_mask(most, _mm512_loadu_ps(least), _CMP_GE_OQ);
}

EF_AVX512 void ef_reach_i32_avx512(ef_tile shape, const int32_t *sums, const float *scales,
                                   const float *margins, const float *least, size_t n,
                                   uint32_t *masks) {
    (void)shape;
    for (size_t r = 0; r < n; r++, sums += EF_WIDE_COLUMNS) {
        const row_i32 row = load_i32(sums);
        const __m512 scale = _mm512_set1_ps(scales[r]), margin = _mm512_set1_ps(margins[r]);
        masks[r] = reach(row.v0, scale, margin, least) | reach(row.v1, scale, margin, least + 16)
                                                             << 16;
    }
}
#endif
