/* The lens: exact products, and the same in int16 to find those worth it.
 *
 * Register plan of the tile: 8 accumulators (4 rows x 2 vectors of 8 columns), 2 vectors of the
 * panel, 1 broadcast pair of a row, 1 product. An int16 product of pairs does twice the
 * multiply-adds of a float32 one. */
#if defined(__x86_64__)
#include "kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

EF_AVX2 float ef_dot_f32_avx2(const float *a, const float *b, size_t n) {
    __m256 v0 = _mm256_setzero_ps(), v1 = v0, v2 = v0, v3 = v0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        v0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), v0);
        v1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), v1);
        v2 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16), v2);
        v3 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24), v3);
    }
    float s[32];
    if (i < n) {
        _mm256_storeu_ps(s, v0);
        _mm256_storeu_ps(s + 8, v1);
        _mm256_storeu_ps(s + 16, v2);
        _mm256_storeu_ps(s + 24, v3);
        for (; i < n; i++)
            s[i % 32] = _mm_cvtss_f32(
                _mm_fmadd_ss(_mm_set_ss(a[i]), _mm_set_ss(b[i]), _mm_set_ss(s[i % 32])));
        v0 = _mm256_loadu_ps(s);
        v1 = _mm256_loadu_ps(s + 8);
        v2 = _mm256_loadu_ps(s + 16);
        v3 = _mm256_loadu_ps(s + 24);
    }
    const __m256 t = _mm256_add_ps(_mm256_add_ps(v0, v1), _mm256_add_ps(v2, v3));
    /* t0+t4 t1+t5 t2+t6 t3+t7; then their sums two apart, then the last two */
    const __m128 u = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
    const __m128 v = _mm_add_ps(u, _mm_movehl_ps(u, u));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}

/* Eight elements of a row, times the factor, as int32. */
EF_AVX2 static inline __m256i rounded(const float *row, float factor) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(row), _mm256_set1_ps(factor)));
}

EF_AVX2 void ef_interleave_i16_avx2(ef_tile shape, const float *const *rows, const float *factors,
                                    size_t n, int16_t *dst, size_t step) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8, dst += 4 * step) {
        /* In either half two pairs of a row, then two of the next: a0 a1 b0 b1, c0 c1 d0 d1. */
        const __m256 ab = _mm256_castsi256_ps(
            _mm256_packs_epi32(rounded(rows[0] + i, factors[0]), rounded(rows[1] + i, factors[1])));
        const __m256 cd = _mm256_castsi256_ps(
            _mm256_packs_epi32(rounded(rows[2] + i, factors[2]), rounded(rows[3] + i, factors[3])));
        const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(ab, cd, 0x88));
        const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(ab, cd, 0xdd));
        _mm_storeu_si128((__m128i *)dst, _mm256_castsi256_si128(even));
        _mm_storeu_si128((__m128i *)(dst + step), _mm256_castsi256_si128(odd));
        _mm_storeu_si128((__m128i *)(dst + 2 * step), _mm256_extracti128_si256(even, 1));
        _mm_storeu_si128((__m128i *)(dst + 3 * step), _mm256_extracti128_si256(odd, 1));
    }
    const float *const rest[EF_TILE_ROWS] = {rows[0] + i, rows[1] + i, rows[2] + i, rows[3] + i};
    ef_interleave_i16_scalar(shape, rest, factors, n - i, dst, step);
}

/* Sums of a row of the tile with EF_LENS_COLUMNS columns. */
typedef struct row_i32 {
    __m256i v0, v1;
} row_i32;

EF_AVX2 static inline row_i32 zero_i32(void) {
    return (row_i32){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

EF_AVX2 static inline row_i32 load_i32(const void *source) {
    const __m256i *vectors = source;
    return (row_i32){_mm256_loadu_si256(vectors), _mm256_loadu_si256(vectors + 1)};
}

/* sum + a pair of a row times the pairs of the columns */
EF_AVX2 static inline row_i32 multiply_add_i32(const int16_t *pair, row_i32 columns, row_i32 sum) {
    int32_t bits;
    memcpy(&bits, pair, sizeof bits);
    const __m256i p = _mm256_set1_epi32(bits);
    return (row_i32){_mm256_add_epi32(sum.v0, _mm256_madd_epi16(p, columns.v0)),
                     _mm256_add_epi32(sum.v1, _mm256_madd_epi16(p, columns.v1))};
}

EF_AVX2 static inline void store_i32(int32_t *target, row_i32 sum, int first) {
    if (!first) {
        const row_i32 old = load_i32(target);
        sum.v0 = _mm256_add_epi32(old.v0, sum.v0);
        sum.v1 = _mm256_add_epi32(old.v1, sum.v1);
    }
    _mm256_storeu_si256((__m256i *)target, sum.v0);
    _mm256_storeu_si256((__m256i *)(target + 8), sum.v1);
}

EF_AVX2 void ef_multiply_i16_avx2(ef_tile shape, const int16_t *tile, const int16_t *panel,
                                  size_t n, int32_t *sums, int first) {
    (void)shape;
    row_i32 s0 = zero_i32(), s1 = zero_i32(), s2 = zero_i32(), s3 = zero_i32();
#pragma GCC unroll 2
    for (size_t i = 0; i < n; i++, tile += 2 * EF_TILE_ROWS, panel += 2 * EF_LENS_COLUMNS) {
        const row_i32 columns = load_i32(panel);
        s0 = multiply_add_i32(tile, columns, s0);
        s1 = multiply_add_i32(tile + 2, columns, s1);
        s2 = multiply_add_i32(tile + 4, columns, s2);
        s3 = multiply_add_i32(tile + 6, columns, s3);
    }
    store_i32(sums, s0, first);
    store_i32(sums + EF_LENS_COLUMNS, s1, first);
    store_i32(sums + 2 * EF_LENS_COLUMNS, s2, first);
    store_i32(sums + 3 * EF_LENS_COLUMNS, s3, first);
}

/* Eight bits of a mask. */
EF_AVX2 static inline uint32_t reach(__m256i sums, __m256 scale, __m256 margin,
                                     const float *least) {
    const __m256 most = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sums), margin);
    const __m256 reached = _mm256_cmp_ps(most, _mm256_loadu_ps(least), _CMP_GE_OQ);
    return (uint32_t)_mm256_movemask_ps(reached);
}

EF_AVX2 void ef_reach_i32_avx2(ef_tile shape, const int32_t *sums, const float *scales,
                               const float *margins, const float *least, size_t n,
                               uint32_t *masks) {
    (void)shape;
    for (size_t r = 0; r < n; r++, sums += EF_LENS_COLUMNS) {
        const row_i32 row = load_i32(sums);
        const __m256 scale = _mm256_broadcast_ss(scales + r);
        const __m256 margin = _mm256_broadcast_ss(margins + r);
        masks[r] = reach(row.v0, scale, margin, least) | reach(row.v1, scale, margin, least + 8)
                                                             << 8;
    }
}
#endif
