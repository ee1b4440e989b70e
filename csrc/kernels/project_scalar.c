/* Oracle of the projection tile: y (+)= x panel. */
#include "kernels.h"

#include <math.h>

void ef_project_f32_scalar(const float *x, size_t x_stride, size_t n_rows, const float *panel,
                           size_t n, float *y, size_t y_stride, int first) {
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t c = 0; c < EF_FILTER_PANEL; c++) {
            float sum = 0.0f;
            for (size_t i = 0; i < n; i++)
                sum = fmaf(x[r * x_stride + i], panel[i * EF_FILTER_PANEL + c], sum);
            y[r * y_stride + c] = first ? sum : y[r * y_stride + c] + sum;
        }
    }
}
