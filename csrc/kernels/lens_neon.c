/* The lens: exact products, and the same in int16 to find those worth it.
 *
 * Register plan of the tile: 16 accumulators (4 rows x 4 vectors of 4 columns), 4 vectors of the
 * panel, its pairs taken apart, 1 vector with a pair of each row. */
#if defined(__aarch64__)
#include "kernels/kernels.h"

#include <arm_neon.h>

float ef_dot_f32_neon(const float *a, const float *b, size_t n) {
    float32x4_t v[8];
    for (int j = 0; j < 8; j++)
        v[j] = vdupq_n_f32(0.0f);
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++)
            v[j] = vfmaq_f32(v[j], vld1q_f32(a + i + 4 * j), vld1q_f32(b + i + 4 * j));
    if (i < n) {
        float s[32];
        for (int j = 0; j < 8; j++)
            vst1q_f32(s + 4 * j, v[j]);
        for (; i < n; i++)
            s[i % 32] = __builtin_fmaf(a[i], b[i], s[i % 32]);
        for (int j = 0; j < 8; j++)
            v[j] = vld1q_f32(s + 4 * j);
    }
    const float32x4_t low = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[4], v[6]));
    const float32x4_t high = vaddq_f32(vaddq_f32(v[1], v[3]), vaddq_f32(v[5], v[7]));
    /* t0+t4 t1+t5 t2+t6 t3+t7; then their sums two apart, then the last two */
    const float32x4_t u = vaddq_f32(low, high);
    const float32x2_t w = vadd_f32(vget_low_f32(u), vget_high_f32(u));
    return vget_lane_f32(w, 0) + vget_lane_f32(w, 1);
}

/* Eight elements of a row, times the factor, as int16: four pairs. */
static inline int32x4_t rounded(const float *row, float factor) {
    const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(row), factor));
    const int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(row + 4), factor));
    return vreinterpretq_s32_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high)));
}

void ef_interleave_i16_neon(ef_tile shape, const float *const *rows, const float *factors, size_t n,
                            int16_t *dst, size_t step) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8, dst += 4 * step) {
        const int32x4x4_t pairs = {
            {rounded(rows[0] + i, factors[0]), rounded(rows[1] + i, factors[1]),
             rounded(rows[2] + i, factors[2]), rounded(rows[3] + i, factors[3])}};
        int32_t turned[16];
        vst4q_s32(turned, pairs); /* pair by pair, the four rows beside one another */
        for (size_t p = 0; p < 4; p++)
            vst1q_s16(dst + p * step, vreinterpretq_s16_s32(vld1q_s32(turned + 4 * p)));
    }
    const float *const rest[EF_TILE_ROWS] = {rows[0] + i, rows[1] + i, rows[2] + i, rows[3] + i};
    ef_interleave_i16_scalar(shape, rest, factors, n - i, dst, step);
}

/* Sums of a row of the tile with EF_LENS_COLUMNS columns. */
typedef struct row_i32 {
    int32x4_t v0, v1, v2, v3;
} row_i32;

static inline row_i32 zero_i32(void) {
    const int32x4_t z = vdupq_n_s32(0);
    return (row_i32){z, z, z, z};
}

static inline void store_i32(int32_t *target, row_i32 sum, int first) {
    if (!first)
        sum = (row_i32){
            vaddq_s32(vld1q_s32(target), sum.v0), vaddq_s32(vld1q_s32(target + 4), sum.v1),
            vaddq_s32(vld1q_s32(target + 8), sum.v2), vaddq_s32(vld1q_s32(target + 12), sum.v3)};
    vst1q_s32(target, sum.v0);
    vst1q_s32(target + 4, sum.v1);
    vst1q_s32(target + 8, sum.v2);
    vst1q_s32(target + 12, sum.v3);
}

/* sum + element `lane` of the rows' pairs times that element of the columns' pairs; `lane` is a
 * constant, as the instruction wants it. */
#define MULTIPLY_ADD(sum, rows, lane, low, high)                                                   \
    (row_i32) {                                                                                    \
        vmlal_laneq_s16((sum).v0, vget_low_s16(low), rows, lane),                                  \
            vmlal_high_laneq_s16((sum).v1, low, rows, lane),                                       \
            vmlal_laneq_s16((sum).v2, vget_low_s16(high), rows, lane),                             \
            vmlal_high_laneq_s16((sum).v3, high, rows, lane)                                       \
    }

void ef_multiply_i16_neon(ef_tile shape, const int16_t *tile, const int16_t *panel, size_t n,
                          int32_t *sums, int first) {
    (void)shape;
    row_i32 s0 = zero_i32(), s1 = zero_i32(), s2 = zero_i32(), s3 = zero_i32();
    for (size_t i = 0; i < n; i++, tile += 2 * EF_TILE_ROWS, panel += 2 * EF_LENS_COLUMNS) {
        const int16x8_t rows = vld1q_s16(tile);
        const int16x8x2_t low = vld2q_s16(panel), high = vld2q_s16(panel + EF_LENS_COLUMNS);
        s0 = MULTIPLY_ADD(s0, rows, 0, low.val[0], high.val[0]);
        s1 = MULTIPLY_ADD(s1, rows, 2, low.val[0], high.val[0]);
        s2 = MULTIPLY_ADD(s2, rows, 4, low.val[0], high.val[0]);
        s3 = MULTIPLY_ADD(s3, rows, 6, low.val[0], high.val[0]);
        s0 = MULTIPLY_ADD(s0, rows, 1, low.val[1], high.val[1]);
        s1 = MULTIPLY_ADD(s1, rows, 3, low.val[1], high.val[1]);
        s2 = MULTIPLY_ADD(s2, rows, 5, low.val[1], high.val[1]);
        s3 = MULTIPLY_ADD(s3, rows, 7, low.val[1], high.val[1]);
    }
    store_i32(sums, s0, first);
    store_i32(sums + EF_LENS_COLUMNS, s1, first);
    store_i32(sums + 2 * EF_LENS_COLUMNS, s2, first);
    store_i32(sums + 3 * EF_LENS_COLUMNS, s3, first);
}

void ef_reach_i32_neon(ef_tile shape, const int32_t *sums, const float *scales,
                       const float *margins, const float *least, size_t n, uint32_t *masks) {
    (void)shape;
    const uint32x4_t bits = {1, 2, 4, 8};
    for (size_t r = 0; r < n; r++, sums += EF_LENS_COLUMNS) {
        const float32x4_t scale = vdupq_n_f32(scales[r]), margin = vdupq_n_f32(margins[r]);
        masks[r] = 0;
        for (size_t c = 0; c < EF_LENS_COLUMNS; c += 4) {
            const float32x4_t most = vfmaq_f32(margin, scale, vcvtq_f32_s32(vld1q_s32(sums + c)));
            const uint32x4_t reached = vcgeq_f32(most, vld1q_f32(least + c));
            masks[r] |= vaddvq_u32(vandq_u32(reached, bits)) << c;
        }
    }
}
#endif
