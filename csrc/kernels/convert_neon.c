/* Conversions between element types, four or eight at a time. */
#if defined(__aarch64__)
#include "kernels/kernels.h"

#include <arm_neon.h>

void ef_f16_to_f32_neon(const uint16_t *src, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(dst + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(src + i))));
    ef_f16_to_f32_scalar(src + i, dst + i, n - i);
}

void ef_bf16_to_f32_neon(const uint16_t *src, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(dst + i, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(src + i), 16)));
    ef_bf16_to_f32_scalar(src + i, dst + i, n - i);
}

void ef_f32_to_f64_neon(const float *src, double *dst, size_t n) {
    size_t i = 0;
    for (; i + 2 <= n; i += 2)
        vst1q_f64(dst + i, vcvt_f64_f32(vld1_f32(src + i)));
    ef_f32_to_f64_scalar(src + i, dst + i, n - i);
}

void ef_f64_to_f32_neon(const double *src, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 2 <= n; i += 2)
        vst1_f32(dst + i, vcvt_f32_f64(vld1q_f64(src + i)));
    ef_f64_to_f32_scalar(src + i, dst + i, n - i);
}

void ef_f32_to_f16_neon(const float *src, uint16_t *dst, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(dst + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(src + i))));
    ef_f32_to_f16_scalar(src + i, dst + i, n - i);
}

void ef_f32_to_bf16_neon(const float *src, uint16_t *dst, size_t n) {
    const uint32x4_t one = vdupq_n_u32(1), half = vdupq_n_u32(0x7fff), quiet = vdupq_n_u32(0x40);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float32x4_t value = vld1q_f32(src + i);
        const uint32x4_t bits = vreinterpretq_u32_f32(value);
        const uint32x4_t high = vshrq_n_u32(bits, 16);
        const uint32x4_t odd = vandq_u32(high, one);
        const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(half, odd)), 16);
        const uint32x4_t is_number = vceqq_f32(value, value);
        vst1_u16(dst + i, vmovn_u32(vbslq_u32(is_number, rounded, vorrq_u32(high, quiet))));
    }
    ef_f32_to_bf16_scalar(src + i, dst + i, n - i);
}

void ef_centre_f32_neon(const float *src, const float *mean, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(dst + i, vsubq_f32(vld1q_f32(src + i), vld1q_f32(mean + i)));
    ef_centre_f32_scalar(src + i, mean + i, dst + i, n - i);
}

void ef_centre_f64_neon(const double *src, const float *mean, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 2 <= n; i += 2) {
        const float64x2_t wide = vcvt_f64_f32(vld1_f32(mean + i));
        vst1_f32(dst + i, vcvt_f32_f64(vsubq_f64(vld1q_f64(src + i), wide)));
    }
    ef_centre_f64_scalar(src + i, mean + i, dst + i, n - i);
}
#endif
