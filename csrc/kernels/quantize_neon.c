/* The last steps of a projected row, four or eight values at a time. */
#if defined(__aarch64__)
#include "kernels/chains.h"
#include "kernels/kernels.h"

#include <arm_neon.h>

double ef_squares_f32_neon(const float *y, size_t n) {
    double s[8];
    float64x2_t sum[4];
    for (int v = 0; v < 4; v++)
        sum[v] = vdupq_n_f64(0.0);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (int v = 0; v < 4; v++) {
            /* The square of a float32 is exact in float64: fused or not is the same. */
            const float64x2_t wide = vcvt_f64_f32(vld1_f32(y + i + 2 * v));
            sum[v] = vfmaq_f64(sum[v], wide, wide);
        }
    }
    for (int v = 0; v < 4; v++)
        vst1q_f64(s + 2 * v, sum[v]);
    for (; i < n; i++)
        s[i % 8] += (double)y[i] * (double)y[i];
    return ef_sum_of_8_f64(s);
}

float ef_abs_max_f32_neon(const float *y, size_t n) {
    float32x4_t largest = vdupq_n_f32(0.0f);
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        largest = vmaxq_f32(largest, vabsq_f32(vld1q_f32(y + i)));
    const float rest = ef_abs_max_f32_scalar(y + i, n - i);
    const float vectors = vmaxvq_f32(largest);
    return rest > vectors ? rest : vectors;
}

void ef_scale_f32_neon(const float *y, double factor, float *dst, size_t n) {
    const float64x2_t f = vdupq_n_f64(factor);
    size_t i = 0;
    for (; i + 2 <= n; i += 2)
        vst1_f32(dst + i, vcvt_f32_f64(vmulq_f64(vcvt_f64_f32(vld1_f32(y + i)), f)));
    ef_scale_f32_scalar(y + i, factor, dst + i, n - i);
}

/* trunc(clamp((y - start) / step - offset, least, most)) of four values, as int32. */
static inline int32x4_t level(const float *y, const float *starts, const float *steps, float offset,
                              float least, float most) {
    float32x4_t value = vsubq_f32(vld1q_f32(y), vld1q_f32(starts));
    value = vdivq_f32(value, vld1q_f32(steps));
    value = vsubq_f32(value, vdupq_n_f32(offset));
    value = vminq_f32(vmaxq_f32(value, vdupq_n_f32(least)), vdupq_n_f32(most));
    return vcvtq_s32_f32(value);
}

void ef_to_i8_neon(const float *y, const float *starts, const float *steps, int8_t *dst, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const int32x4_t low = level(y + i, starts + i, steps + i, 128.0f, -128.0f, 127.0f);
        const int32x4_t high =
            level(y + i + 4, starts + i + 4, steps + i + 4, 128.0f, -128.0f, 127.0f);
        vst1_s8(dst + i, vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high))));
    }
    ef_to_i8_scalar(y + i, starts + i, steps + i, dst + i, n - i);
}

void ef_to_u8_neon(const float *y, const float *starts, const float *steps, uint8_t *dst,
                   size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const int32x4_t low = level(y + i, starts + i, steps + i, 0.0f, 0.0f, 255.0f);
        const int32x4_t high = level(y + i + 4, starts + i + 4, steps + i + 4, 0.0f, 0.0f, 255.0f);
        vst1_u8(dst + i,
                vmovn_u16(vreinterpretq_u16_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high)))));
    }
    ef_to_u8_scalar(y + i, starts + i, steps + i, dst + i, n - i);
}

void ef_to_bits_neon(const float *y, uint8_t *dst, size_t n) {
    static const uint32_t weights[8] = {128, 64, 32, 16, 8, 4, 2, 1};
    const uint32x4_t left = vld1q_u32(weights), right = vld1q_u32(weights + 4);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const uint32x4_t low = vandq_u32(vcgtzq_f32(vld1q_f32(y + i)), left);
        const uint32x4_t high = vandq_u32(vcgtzq_f32(vld1q_f32(y + i + 4)), right);
        dst[i / 8] = (uint8_t)vaddvq_u32(vaddq_u32(low, high));
    }
    ef_to_bits_scalar(y + i, dst + i / 8, n - i);
}
#endif
