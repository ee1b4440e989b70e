/* Conversions between element types, eight at a time. */
#if defined(__x86_64__)
#include "kernels/kernels.h"

#include <immintrin.h>

EF_AVX2 void ef_f16_to_f32_avx2(const uint16_t *src, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(src + i))));
    ef_f16_to_f32_scalar(src + i, dst + i, n - i);
}

EF_AVX2 void ef_bf16_to_f32_avx2(const uint16_t *src, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(src + i)));
        _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
    }
    ef_bf16_to_f32_scalar(src + i, dst + i, n - i);
}

EF_AVX2 void ef_f32_to_f64_avx2(const float *src, double *dst, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        _mm256_storeu_pd(dst + i, _mm256_cvtps_pd(_mm_loadu_ps(src + i)));
    ef_f32_to_f64_scalar(src + i, dst + i, n - i);
}

EF_AVX2 void ef_f64_to_f32_avx2(const double *src, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        _mm_storeu_ps(dst + i, _mm256_cvtpd_ps(_mm256_loadu_pd(src + i)));
    ef_f64_to_f32_scalar(src + i, dst + i, n - i);
}

EF_AVX2 void ef_f32_to_f16_avx2(const float *src, uint16_t *dst, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(dst + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
    ef_f32_to_f16_scalar(src + i, dst + i, n - i);
}

EF_AVX2 void ef_f32_to_bf16_avx2(const float *src, uint16_t *dst, size_t n) {
    const __m256i one = _mm256_set1_epi32(1), half = _mm256_set1_epi32(0x7fff);
    const __m256i quiet = _mm256_set1_epi32(0x40);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 value = _mm256_loadu_ps(src + i);
        const __m256i bits = _mm256_castps_si256(value);
        const __m256i high = _mm256_srli_epi32(bits, 16);
        const __m256i odd = _mm256_and_si256(high, one);
        const __m256i rounded =
            _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(half, odd)), 16);
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
        const __m256i result = _mm256_blendv_epi8(rounded, _mm256_or_si256(high, quiet), is_nan);
        const __m256i packed = _mm256_packus_epi32(result, result); /* 0-3 0-3 | 4-7 4-7 */
        _mm_storeu_si128((__m128i *)(dst + i),
                         _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
    }
    ef_f32_to_bf16_scalar(src + i, dst + i, n - i);
}

EF_AVX2 void ef_centre_f32_avx2(const float *src, const float *mean, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i,
                         _mm256_sub_ps(_mm256_loadu_ps(src + i), _mm256_loadu_ps(mean + i)));
    ef_centre_f32_scalar(src + i, mean + i, dst + i, n - i);
}

EF_AVX2 void ef_centre_f64_avx2(const double *src, const float *mean, float *dst, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const __m256d wide = _mm256_cvtps_pd(_mm_loadu_ps(mean + i));
        _mm_storeu_ps(dst + i, _mm256_cvtpd_ps(_mm256_sub_pd(_mm256_loadu_pd(src + i), wide)));
    }
    ef_centre_f64_scalar(src + i, mean + i, dst + i, n - i);
}
#endif
