/* Gram tile, tile += a^T b, and the peeling of rows.
 *
 * Register plan of the tiles: 4 rows at a time and, in float32, all 24 columns, in float64
 * half of them: 24 accumulators, 6 vectors of b, 1 or 2 broadcast elements of a; all 32
 * registers. */
#if defined(__aarch64__)
#include "kernels/chains.h"
#include "kernels/tile_neon.h"

/* target[0..23] += sum, in float64 */
static inline void flush_f32(double *target, row_f32 sum) {
    const float32x4_t parts[6] = {sum.v0, sum.v1, sum.v2, sum.v3, sum.v4, sum.v5};
    for (int v = 0; v < 6; v++, target += 4) {
        const float64x2_t low = vcvt_f64_f32(vget_low_f32(parts[v]));
        const float64x2_t high = vcvt_high_f64_f32(parts[v]);
        vst1q_f64(target, vaddq_f64(vld1q_f64(target), low));
        vst1q_f64(target + 2, vaddq_f64(vld1q_f64(target + 2), high));
    }
}

/* Four rows of the tile; `a` points at their first column. */
static void rows_f32(const float *a, const float *b, size_t n, double *tile) {
    const tile_f32 sums = multiply_f32(a, EF_TILE_COLUMNS, b, n, zero_tile_f32());
    flush_f32(tile, sums.r0);
    flush_f32(tile + EF_TILE_COLUMNS, sums.r1);
    flush_f32(tile + 2 * EF_TILE_COLUMNS, sums.r2);
    flush_f32(tile + 3 * EF_TILE_COLUMNS, sums.r3);
}

void ef_gram_f32_neon(ef_tile shape, const float *a, const float *b, size_t n, double *tile,
                      const float *next) {
    (void)shape;
    (void)next;
    for (size_t i = 0; i < EF_TILE_COLUMNS; i += EF_TILE_ROWS)
        rows_f32(a + i, b, n, tile + i * EF_TILE_COLUMNS);
}

/* Half a row of the tile: 12 columns. */
typedef struct half_f64 {
    float64x2_t v0, v1, v2, v3, v4, v5;
} half_f64;

static inline half_f64 zero_f64(void) {
    const float64x2_t z = vdupq_n_f64(0.0);
    return (half_f64){z, z, z, z, z, z};
}

static inline half_f64 load_f64(const double *source) {
    return (half_f64){vld1q_f64(source),     vld1q_f64(source + 2), vld1q_f64(source + 4),
                      vld1q_f64(source + 6), vld1q_f64(source + 8), vld1q_f64(source + 10)};
}

/* sum + element * columns */
static inline half_f64 multiply_add_f64(const double *element, half_f64 columns, half_f64 sum) {
    const float64x2_t e = vld1q_dup_f64(element);
    return (half_f64){vfmaq_f64(sum.v0, e, columns.v0), vfmaq_f64(sum.v1, e, columns.v1),
                      vfmaq_f64(sum.v2, e, columns.v2), vfmaq_f64(sum.v3, e, columns.v3),
                      vfmaq_f64(sum.v4, e, columns.v4), vfmaq_f64(sum.v5, e, columns.v5)};
}

static inline void flush_f64(double *target, half_f64 sum) {
    const half_f64 old = load_f64(target);
    vst1q_f64(target, vaddq_f64(old.v0, sum.v0));
    vst1q_f64(target + 2, vaddq_f64(old.v1, sum.v1));
    vst1q_f64(target + 4, vaddq_f64(old.v2, sum.v2));
    vst1q_f64(target + 6, vaddq_f64(old.v3, sum.v3));
    vst1q_f64(target + 8, vaddq_f64(old.v4, sum.v4));
    vst1q_f64(target + 10, vaddq_f64(old.v5, sum.v5));
}

/* Four rows and twelve columns of the tile; `a` and `b` point at the first of each. */
static void rows_f64(const double *a, const double *b, size_t n, double *tile) {
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

void ef_gram_f64_neon(ef_tile shape, const double *a, const double *b, size_t n, double *tile) {
    (void)shape;
    for (size_t j = 0; j < EF_TILE_COLUMNS; j += EF_TILE_COLUMNS / 2)
        for (size_t i = 0; i < EF_TILE_COLUMNS; i += EF_TILE_ROWS)
            rows_f64(a + i, b + j, n, tile + i * EF_TILE_COLUMNS + j);
}

/* The product of a row and one direction. */
static float dot(const float *row, const float *direction, size_t n) {
    float32x4_t low = vdupq_n_f32(0.0f), high = vdupq_n_f32(0.0f);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        low = vfmaq_f32(low, vld1q_f32(row + i), vld1q_f32(direction + i));
        high = vfmaq_f32(high, vld1q_f32(row + i + 4), vld1q_f32(direction + i + 4));
    }
    float s[8];
    vst1q_f32(s, low);
    vst1q_f32(s + 4, high);
    for (; i < n; i++)
        s[i % 8] = __builtin_fmaf(row[i], direction[i], s[i % 8]);
    return ef_sum_of_8_f32(s);
}

void ef_peel_f32_neon(float *row, size_t n, const float *basis, size_t p, float *parts) {
    for (size_t q = 0; q < p; q++)
        parts[q] = dot(row, basis + q * n, n);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t rest = vld1q_f32(row + i);
        for (size_t q = 0; q < p; q++)
            rest = vfmsq_f32(rest, vld1q_dup_f32(parts + q), vld1q_f32(basis + q * n + i));
        vst1q_f32(row + i, rest);
    }
    for (; i < n; i++)
        for (size_t q = 0; q < p; q++)
            row[i] = __builtin_fmaf(-parts[q], basis[q * n + i], row[i]);
}
#endif
