/* Oracle of the projection: y (+)= x panel. */
#include "kernels/tile_scalar.h"

void ef_interleave_f32_scalar(ef_tile shape, const float *const *rows, size_t n, float *dst) {
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < shape.rows; r++)
            dst[i * shape.rows + r] = rows[r][i];
}

void ef_project_f32_scalar(ef_tile shape, const float *x, const float *panel, size_t n, float *y,
                           size_t y_stride, int first, const float *next) {
    (void)next;
    for (size_t r = 0; r < shape.rows; r++) {
        for (size_t c = 0; c < shape.columns; c++) {
            const float sum = chain_f32(x + r, shape.rows, panel + c, shape.columns, n);
            y[r * y_stride + c] = first ? sum : y[r * y_stride + c] + sum;
        }
    }
}

void ef_project_row_f32_scalar(ef_tile shape, const float *x, const float *panels, size_t n,
                               float *y, int first) {
    const size_t columns = shape.columns;
    for (size_t c = 0; c < 2 * columns; c++) {
        const float *panel = panels + c / columns * n * columns;
        const float sum = chain_f32(x, 1, panel + c % columns, columns, n);
        y[c] = first ? sum : y[c] + sum;
    }
}
