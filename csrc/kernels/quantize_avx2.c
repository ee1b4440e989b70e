/* The last steps of a projected row, eight values at a time. */
#if defined(__x86_64__)
#include "kernels/chains.h"
#include "kernels/kernels.h"

#include <immintrin.h>

EF_AVX2 double ef_squares_f32_avx2(const float *y, size_t n) {
    double s[8];
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        /* The square of a float32 is exact in float64: fused or not is the same. */
        const __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(y + i));
        const __m256d b = _mm256_cvtps_pd(_mm_loadu_ps(y + i + 4));
        low = _mm256_fmadd_pd(a, a, low);
        high = _mm256_fmadd_pd(b, b, high);
    }
    _mm256_storeu_pd(s, low);
    _mm256_storeu_pd(s + 4, high);
    for (; i < n; i++)
        s[i % 8] += (double)y[i] * (double)y[i];
    return ef_sum_of_8_f64(s);
}

EF_AVX2 float ef_abs_max_f32_avx2(const float *y, size_t n) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 largest = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        largest = _mm256_max_ps(largest, _mm256_and_ps(magnitude, _mm256_loadu_ps(y + i)));
    float lanes[8];
    _mm256_storeu_ps(lanes, largest);
    const float rest = ef_abs_max_f32_scalar(y + i, n - i);
    const float vectors = ef_abs_max_f32_scalar(lanes, 8);
    return rest > vectors ? rest : vectors;
}

EF_AVX2 void ef_scale_f32_avx2(const float *y, double factor, float *dst, size_t n) {
    const __m256d f = _mm256_set1_pd(factor);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const __m256d wide = _mm256_cvtps_pd(_mm_loadu_ps(y + i));
        _mm_storeu_ps(dst + i, _mm256_cvtpd_ps(_mm256_mul_pd(wide, f)));
    }
    ef_scale_f32_scalar(y + i, factor, dst + i, n - i);
}

/* trunc(clamp((y - start) / step - offset, least, most)) of eight values, as int32. */
EF_AVX2 static inline __m256i level(const float *y, const float *starts, const float *steps,
                                    float offset, float least, float most) {
    __m256 value = _mm256_sub_ps(_mm256_loadu_ps(y), _mm256_loadu_ps(starts));
    value = _mm256_div_ps(value, _mm256_loadu_ps(steps));
    value = _mm256_sub_ps(value, _mm256_set1_ps(offset));
    value = _mm256_min_ps(_mm256_max_ps(value, _mm256_set1_ps(least)), _mm256_set1_ps(most));
    return _mm256_cvttps_epi32(value);
}

/* The low 16 bits of eight int32, in order. */
EF_AVX2 static inline __m128i narrow(__m256i values) {
    return _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
}

EF_AVX2 void ef_to_i8_avx2(const float *y, const float *starts, const float *steps, int8_t *dst,
                           size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i v = narrow(level(y + i, starts + i, steps + i, 128.0f, -128.0f, 127.0f));
        _mm_storel_epi64((__m128i *)(dst + i), _mm_packs_epi16(v, v));
    }
    ef_to_i8_scalar(y + i, starts + i, steps + i, dst + i, n - i);
}

EF_AVX2 void ef_to_u8_avx2(const float *y, const float *starts, const float *steps, uint8_t *dst,
                           size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i v = narrow(level(y + i, starts + i, steps + i, 0.0f, 0.0f, 255.0f));
        _mm_storel_epi64((__m128i *)(dst + i), _mm_packus_epi16(v, v));
    }
    ef_to_u8_scalar(y + i, starts + i, steps + i, dst + i, n - i);
}

/* The bits of a byte in reverse order: movemask puts value 0 in bit 0, we want bit 7. */
static uint8_t reversed(unsigned byte) {
    byte = (byte & 0xf0u) >> 4 | (byte & 0x0fu) << 4;
    byte = (byte & 0xccu) >> 2 | (byte & 0x33u) << 2;
    return (uint8_t)((byte & 0xaau) >> 1 | (byte & 0x55u) << 1);
}

EF_AVX2 void ef_to_bits_avx2(const float *y, uint8_t *dst, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 positive =
            _mm256_cmp_ps(_mm256_loadu_ps(y + i), _mm256_setzero_ps(), _CMP_GT_OQ);
        dst[i / 8] = reversed((unsigned)_mm256_movemask_ps(positive));
    }
    ef_to_bits_scalar(y + i, dst + i / 8, n - i);
}
#endif
