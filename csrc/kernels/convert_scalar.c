/* Conversions between element types, one element at a time. */
#include "kernels/kernels.h"

#include <string.h>

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

void ef_f16_to_f32_scalar(const uint16_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t sign = (uint32_t)(src[i] & 0x8000u) << 16;
        const uint32_t exponent = (src[i] >> 10) & 31u, fraction = src[i] & 1023u;
        if (exponent == 31) /* infinity, or NaN made quiet */
            dst[i] = float_of_bits(sign | 0x7f800000u | fraction << 13 |
                                   (fraction != 0 ? 0x00400000u : 0));
        else if (exponent != 0)
            dst[i] = float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
        else /* zero and subnormal: fraction * 2^-24, exact in float32 */
            dst[i] = float_of_bits(sign | bits_of_float((float)fraction * 0x1p-24f));
    }
}

void ef_bf16_to_f32_scalar(const uint16_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = float_of_bits((uint32_t)src[i] << 16);
}

void ef_f32_to_f64_scalar(const float *src, double *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = (double)src[i];
}

void ef_f64_to_f32_scalar(const double *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)src[i];
}

void ef_f32_to_f16_scalar(const float *src, uint16_t *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of_float(src[i]);
        const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
        const uint32_t magnitude = bits & 0x7fffffffu;
        uint32_t half;
        if (magnitude > 0x7f800000u) /* NaN made quiet */
            half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
        else if (magnitude >= 0x477ff000u) /* 65520 and above, infinity */
            half = 0x7c00u;
        else if (magnitude < 0x38800000u) /* under 2^-14: a multiple of 2^-24; adding 0.5 */
            half = bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f);
        else /* rebias the exponent; round the 13 lost bits to nearest, ties to even */
            half = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
        dst[i] = (uint16_t)(sign | half);
    }
}

void ef_f32_to_bf16_scalar(const float *src, uint16_t *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of_float(src[i]);
        if ((bits & 0x7fffffffu) > 0x7f800000u) /* NaN made quiet */
            dst[i] = (uint16_t)((bits >> 16) | 0x40u);
        else
            dst[i] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
}

void ef_centre_f32_scalar(const float *src, const float *mean, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = src[i] - mean[i];
}

void ef_centre_f64_scalar(const double *src, const float *mean, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)(src[i] - (double)mean[i]);
}
