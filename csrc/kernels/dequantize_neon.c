/* Blocks of quantised weights, sixteen weights at a time. */
#if defined(__aarch64__)
#include "kernels/kernels.h"

#include <arm_neon.h>

static inline float half(const uint8_t bytes[2]) {
    const float16x4_t bits = vreinterpret_f16_u16(vdup_n_u16(ef_half_bits(bytes)));
    return vgetq_lane_f32(vcvt_f32_f16(bits), 0);
}

/* The bits from `shift` on of each byte, as many as `mask` has. */
static inline uint8x16_t bits_at(uint8x16_t bytes, int shift, uint8_t mask) {
    return vandq_u8(vshlq_u8(bytes, vdupq_n_s8((int8_t)-shift)), vdupq_n_u8(mask));
}

static inline int8x16_t less(uint8x16_t codes, int8_t offset) {
    return vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(offset));
}

/* Sixteen int8 as float32. */
static inline float32x4x4_t widened(int8x16_t codes) {
    const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_s8(vget_high_s8(codes));
    return (float32x4x4_t){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                            vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                            vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                            vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

/* scale * codes */
static inline void store(float *dst, float scale, int8x16_t codes) {
    const float32x4x4_t q = widened(codes);
    for (int v = 0; v < 4; v++)
        vst1q_f32(dst + 4 * v, vmulq_n_f32(q.val[v], scale));
}

/* scale * codes - minimum */
static inline void store_above(float *dst, float scale, int8x16_t codes, float minimum) {
    const float32x4x4_t q = widened(codes);
    for (int v = 0; v < 4; v++)
        vst1q_f32(dst + 4 * v, vsubq_f32(vmulq_n_f32(q.val[v], scale), vdupq_n_f32(minimum)));
}

void ef_dequantize_q4_0_neon(const ef_block_q4_0 *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_BLOCK) {
        const float d = half(src[b].d);
        const uint8x16_t q = vld1q_u8(src[b].q);
        store(dst, d, less(bits_at(q, 0, 15), 8));
        store(dst + 16, d, less(bits_at(q, 4, 15), 8));
    }
}

void ef_dequantize_q8_0_neon(const ef_block_q8_0 *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_BLOCK) {
        const float d = half(src[b].d);
        store(dst, d, vld1q_s8(src[b].q));
        store(dst + 16, d, vld1q_s8(src[b].q + 16));
    }
}

void ef_dequantize_q4_k_neon(const ef_block_q4_k *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_SUPER_BLOCK) {
        const float d = half(src[b].d), least = half(src[b].least);
        uint8_t scales[8], minima[8];
        ef_unpack_q4_k(&src[b], scales, minima);
        for (int run = 0; run < 8; run++) {
            const float scale = d * (float)scales[run], minimum = least * (float)minima[run];
            const uint8_t *q = src[b].q + run / 2 * 32;
            const int shift = run % 2 * 4;
            store_above(dst + 32 * run, scale, less(bits_at(vld1q_u8(q), shift, 15), 0), minimum);
            store_above(dst + 32 * run + 16, scale, less(bits_at(vld1q_u8(q + 16), shift, 15), 0),
                        minimum);
        }
    }
}

void ef_dequantize_q6_k_neon(const ef_block_q6_k *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_SUPER_BLOCK) {
        const float d = half(src[b].d);
        for (int run = 0; run < 16; run++) { /* of 16 weights; h and g as in blocks.h */
            const int h = run / 8, g = run / 2 % 4, i = run % 2 * 16;
            const uint8x16_t low = vld1q_u8(src[b].low + 64 * h + g % 2 * 32 + i);
            const uint8x16_t high = vld1q_u8(src[b].high + 32 * h + i);
            const uint8x16_t q =
                vorrq_u8(bits_at(low, g / 2 * 4, 15), vshlq_n_u8(bits_at(high, 2 * g, 3), 4));
            store(dst + 16 * run, d * (float)src[b].scales[run], less(q, 32));
        }
    }
}
#endif
