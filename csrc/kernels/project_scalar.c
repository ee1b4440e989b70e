/* Oracle of the projection: y (+)= x panel. */
#include "kernels.h"

#include <math.h>

void ef_interleave_f32_scalar(const float *const rows[EF_TILE], size_t n, float *dst) {
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < EF_TILE; r++)
            dst[i * EF_TILE + r] = rows[r][i];
}

/* One sum: inputs `x_step` elements apart times a panel's column. */
static float product(const float *x, size_t x_step, const float *column, size_t n) {
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++)
        sum = fmaf(x[i * x_step], column[i * EF_PANEL], sum);
    return sum;
}

void ef_project_f32_scalar(const float *x, const float *panel, size_t n, float *y, size_t y_stride,
                           int first) {
    for (size_t r = 0; r < EF_TILE; r++) {
        for (size_t c = 0; c < EF_PANEL; c++) {
            const float sum = product(x + r, EF_TILE, panel + c, n);
            y[r * y_stride + c] = first ? sum : y[r * y_stride + c] + sum;
        }
    }
}

void ef_project_row_f32_scalar(const float *x, const float *panels, size_t n, float *y, int first) {
    for (size_t c = 0; c < 2 * EF_PANEL; c++) {
        const float *panel = panels + c / EF_PANEL * n * EF_PANEL;
        const float sum = product(x, 1, panel + c % EF_PANEL, n);
        y[c] = first ? sum : y[c] + sum;
    }
}
