/* Oracle of the Gram tile, tile += a^T b, and of the peeling of rows. */
#include "kernels.h"

#include <math.h>

void ef_gram_f32_scalar(const float *a, const float *b, size_t n, double *tile, const float *next) {
    (void)next;
    for (size_t i = 0; i < EF_PANEL; i++) {
        for (size_t j = 0; j < EF_PANEL; j++) {
            float sum = 0.0f;
            for (size_t r = 0; r < n; r++)
                sum = fmaf(a[r * EF_PANEL + i], b[r * EF_PANEL + j], sum);
            tile[i * EF_PANEL + j] += (double)sum;
        }
    }
}

void ef_gram_f64_scalar(const double *a, const double *b, size_t n, double *tile) {
    for (size_t i = 0; i < EF_PANEL; i++) {
        for (size_t j = 0; j < EF_PANEL; j++) {
            double sum = 0.0;
            for (size_t r = 0; r < n; r++)
                sum += a[r * EF_PANEL + i] * b[r * EF_PANEL + j];
            tile[i * EF_PANEL + j] += sum;
        }
    }
}

void ef_peel_f32_scalar(float *row, size_t n, const float *basis, size_t p, float *parts) {
    for (size_t q = 0; q < p; q++) {
        float s[8] = {0};
        for (size_t i = 0; i < n; i++)
            s[i % 8] = fmaf(row[i], basis[q * n + i], s[i % 8]);
        parts[q] = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    }
    for (size_t q = 0; q < p; q++)
        for (size_t i = 0; i < n; i++)
            row[i] = fmaf(-parts[q], basis[q * n + i], row[i]);
}

void ef_panel_f32_scalar(const float *src, size_t stride, size_t n, float *dst) {
    for (size_t r = 0; r < n; r++, src += stride, dst += EF_PANEL)
        for (size_t i = 0; i < EF_PANEL; i++)
            dst[i] = src[i];
}
