/* Oracle of the blocks' decoding, one weight at a time. */
#include "kernels/kernels.h"

static float half(const uint8_t bytes[2]) {
    const uint16_t bits = ef_half_bits(bytes);
    float value;
    ef_f16_to_f32_scalar(&bits, &value, 1);
    return value;
}

/* The bits from `shift` on, as many as `mask` has. */
static int bits_at(uint8_t byte, int shift, int mask) {
    return byte >> shift & mask;
}

void ef_dequantize_q4_0_scalar(const ef_block_q4_0 *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_BLOCK) {
        const float d = half(src[b].d);
        for (int i = 0; i < EF_BLOCK; i++)
            dst[i] = d * (float)(bits_at(src[b].q[i % 16], i / 16 * 4, 15) - 8);
    }
}

void ef_dequantize_q8_0_scalar(const ef_block_q8_0 *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_BLOCK) {
        const float d = half(src[b].d);
        for (int i = 0; i < EF_BLOCK; i++)
            dst[i] = d * (float)src[b].q[i];
    }
}

void ef_dequantize_q4_k_scalar(const ef_block_q4_k *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_SUPER_BLOCK) {
        const float d = half(src[b].d), least = half(src[b].least);
        uint8_t scales[8], minima[8];
        ef_unpack_q4_k(&src[b], scales, minima);
        for (int i = 0; i < EF_SUPER_BLOCK; i++) {
            const int run = i / 32;
            const int q = bits_at(src[b].q[run / 2 * 32 + i % 32], run % 2 * 4, 15);
            dst[i] = d * (float)scales[run] * (float)q - least * (float)minima[run];
        }
    }
}

void ef_dequantize_q6_k_scalar(const ef_block_q6_k *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_SUPER_BLOCK) {
        const float d = half(src[b].d);
        for (int i = 0; i < EF_SUPER_BLOCK; i++) {
            const int h = i / 128, g = i / 32 % 4;
            const int low = bits_at(src[b].low[64 * h + i % 64], g / 2 * 4, 15);
            const int high = bits_at(src[b].high[32 * h + i % 32], 2 * g, 3);
            dst[i] = d * (float)src[b].scales[i / 16] * (float)((low | high << 4) - 32);
        }
    }
}
