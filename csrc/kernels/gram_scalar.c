/* Oracle of the Gram tile, tile += a^T b, and of the peeling of rows. */
#include "kernels/chains.h"
#include "kernels/fused.h"
#include "kernels/tile_scalar.h"

void ef_gram_f32_scalar(ef_tile shape, const float *a, const float *b, size_t n, double *sums,
                        const float *next) {
    const size_t columns = shape.columns;
    (void)next;
    for (size_t i = 0; i < columns; i++) {
        for (size_t j = 0; j < columns; j++) {
            const float sum = chain_f32(a + i, columns, b + j, columns, n);
            sums[i * columns + j] += (double)sum;
        }
    }
}

void ef_gram_f64_scalar(ef_tile shape, const double *a, const double *b, size_t n, double *sums) {
    const size_t columns = shape.columns;
    for (size_t i = 0; i < columns; i++) {
        for (size_t j = 0; j < columns; j++) {
            double sum = 0.0;
            for (size_t r = 0; r < n; r++)
                sum += a[r * columns + i] * b[r * columns + j];
            sums[i * columns + j] += sum;
        }
    }
}

void ef_peel_f32_scalar(float *row, size_t n, const float *basis, size_t p, float *parts) {
    for (size_t q = 0; q < p; q++) {
        float s[8] = {0};
        for (size_t i = 0; i < n; i++)
            s[i % 8] = fused_f32(row[i], basis[q * n + i], s[i % 8]);
        parts[q] = ef_sum_of_8_f32(s);
    }
    for (size_t q = 0; q < p; q++)
        for (size_t i = 0; i < n; i++)
            row[i] = fused_f32(-parts[q], basis[q * n + i], row[i]);
}

void ef_panel_f32_scalar(ef_tile shape, const float *src, size_t stride, size_t n, float *dst) {
    for (size_t r = 0; r < n; r++, src += stride, dst += shape.columns)
        for (size_t i = 0; i < shape.columns; i++)
            dst[i] = src[i];
}
