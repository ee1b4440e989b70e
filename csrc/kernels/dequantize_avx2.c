/* Blocks of quantised weights, sixteen weights at a time. */
#if defined(__x86_64__)
#include "kernels/kernels.h"

#include <immintrin.h>

EF_AVX2 static inline __m256 half(const uint8_t bytes[2]) {
    return _mm256_set1_ps(_cvtsh_ss(ef_half_bits(bytes)));
}

EF_AVX2 static inline __m128i load(const void *bytes) {
    return _mm_loadu_si128(bytes);
}

/* The bits from `shift` on of each byte, as many as `mask` has. */
EF_AVX2 static inline __m128i bits_at(__m128i bytes, int shift, char mask) {
    return _mm_and_si128(_mm_srli_epi16(bytes, shift), _mm_set1_epi8(mask));
}

/* scale * codes, sixteen int8. */
EF_AVX2 static inline void store(float *dst, __m256 scale, __m128i codes) {
    const __m256i low = _mm256_cvtepi8_epi32(codes);
    const __m256i high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes));
    _mm256_storeu_ps(dst, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(low)));
    _mm256_storeu_ps(dst + 8, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(high)));
}

/* scale * codes - minimum */
EF_AVX2 static inline void store_above(float *dst, __m256 scale, __m128i codes, __m256 minimum) {
    const __m256i low = _mm256_cvtepi8_epi32(codes);
    const __m256i high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes));
    _mm256_storeu_ps(dst, _mm256_sub_ps(_mm256_mul_ps(scale, _mm256_cvtepi32_ps(low)), minimum));
    _mm256_storeu_ps(dst + 8,
                     _mm256_sub_ps(_mm256_mul_ps(scale, _mm256_cvtepi32_ps(high)), minimum));
}

EF_AVX2 void ef_dequantize_q4_0_avx2(const ef_block_q4_0 *src, float *dst, size_t n) {
    const __m128i eight = _mm_set1_epi8(8);
    for (size_t b = 0; b < n; b++, dst += EF_BLOCK) {
        const __m256 d = half(src[b].d);
        const __m128i q = load(src[b].q);
        store(dst, d, _mm_sub_epi8(bits_at(q, 0, 15), eight));
        store(dst + 16, d, _mm_sub_epi8(bits_at(q, 4, 15), eight));
    }
}

EF_AVX2 void ef_dequantize_q8_0_avx2(const ef_block_q8_0 *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_BLOCK) {
        const __m256 d = half(src[b].d);
        store(dst, d, load(src[b].q));
        store(dst + 16, d, load(src[b].q + 16));
    }
}

EF_AVX2 void ef_dequantize_q4_k_avx2(const ef_block_q4_k *src, float *dst, size_t n) {
    for (size_t b = 0; b < n; b++, dst += EF_SUPER_BLOCK) {
        const __m256 d = half(src[b].d), least = half(src[b].least);
        uint8_t scales[8], minima[8];
        ef_unpack_q4_k(&src[b], scales, minima);
        for (int run = 0; run < 8; run++) {
            const __m256 scale = _mm256_mul_ps(d, _mm256_set1_ps((float)scales[run]));
            const __m256 minimum = _mm256_mul_ps(least, _mm256_set1_ps((float)minima[run]));
            const uint8_t *q = src[b].q + run / 2 * 32;
            const int shift = run % 2 * 4;
            store_above(dst + 32 * run, scale, bits_at(load(q), shift, 15), minimum);
            store_above(dst + 32 * run + 16, scale, bits_at(load(q + 16), shift, 15), minimum);
        }
    }
}

EF_AVX2 void ef_dequantize_q6_k_avx2(const ef_block_q6_k *src, float *dst, size_t n) {
    const __m128i offset = _mm_set1_epi8(32);
    for (size_t b = 0; b < n; b++, dst += EF_SUPER_BLOCK) {
        const __m256 d = half(src[b].d);
        for (int run = 0; run < 16; run++) { /* of 16 weights; h and g as in blocks.h */
            const int h = run / 8, g = run / 2 % 4, i = run % 2 * 16;
            const __m128i low = load(src[b].low + 64 * h + g % 2 * 32 + i);
            const __m128i high = load(src[b].high + 32 * h + i);
            const __m128i q = _mm_or_si128(bits_at(low, g / 2 * 4, 15),
                                           _mm_slli_epi16(bits_at(high, 2 * g, 3), 4));
            const __m256 scale = _mm256_mul_ps(d, _mm256_set1_ps((float)src[b].scales[run]));
            store(dst + 16 * run, scale, _mm_sub_epi8(q, offset));
        }
    }
}
#endif
