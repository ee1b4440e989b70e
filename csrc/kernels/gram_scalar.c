/* Oracle of the Gram tile: tile += a^T b. */
#include "kernels.h"

void ef_gram_f64_scalar(const double *a, const double *b, size_t n, double *tile, size_t stride) {
    for (size_t i = 0; i < EF_GRAM_PANEL; i++) {
        for (size_t j = 0; j < EF_GRAM_PANEL; j++) {
            double sum = 0.0;
            for (size_t r = 0; r < n; r++)
                sum += a[r * EF_GRAM_PANEL + i] * b[r * EF_GRAM_PANEL + j];
            tile[i * stride + j] += sum;
        }
    }
}
