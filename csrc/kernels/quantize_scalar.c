/* Oracle of the last steps of a projected row. */
#include "kernels/chains.h"
#include "kernels/kernels.h"

#include <math.h>

double ef_squares_f32_scalar(const float *y, size_t n) {
    double s[8] = {0};
    for (size_t i = 0; i < n; i++)
        s[i % 8] += (double)y[i] * (double)y[i];
    return ef_sum_of_8_f64(s);
}

float ef_abs_max_f32_scalar(const float *y, size_t n) {
    float largest = 0.0f;
    for (size_t i = 0; i < n; i++)
        largest = fabsf(y[i]) > largest ? fabsf(y[i]) : largest;
    return largest;
}

void ef_scale_f32_scalar(const float *y, double factor, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)((double)y[i] * factor);
}

static float clamp(float value, float least, float most) {
    return value < least ? least : value > most ? most : value;
}

void ef_to_i8_scalar(const float *y, const float *starts, const float *steps, int8_t *dst,
                     size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = (int8_t)clamp((y[i] - starts[i]) / steps[i] - 128.0f, -128.0f, 127.0f);
}

void ef_to_u8_scalar(const float *y, const float *starts, const float *steps, uint8_t *dst,
                     size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = (uint8_t)clamp((y[i] - starts[i]) / steps[i], 0.0f, 255.0f);
}

void ef_to_bits_scalar(const float *y, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint8_t bit = (uint8_t)((y[i] > 0.0f) << (7 - i % 8));
        dst[i / 8] = i % 8 == 0 ? bit : dst[i / 8] | bit;
    }
}
