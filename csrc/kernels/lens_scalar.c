/* Oracle of the lens: exact products, and the same in int16 to find those worth it. */
#include "kernels/chains.h"
#include "kernels/fused.h"
#include "kernels/kernels.h"

#include <math.h>

float ef_dot_f32_scalar(const float *a, const float *b, size_t n) {
    float s[32] = {0}, t[8];
    for (size_t i = 0; i < n; i++)
        s[i % 32] = fused_f32(a[i], b[i], s[i % 32]);
    for (size_t j = 0; j < 8; j++)
        t[j] = (s[j] + s[j + 8]) + (s[j + 16] + s[j + 24]);
    return ef_sum_of_8_f32(t);
}

void ef_interleave_i16_scalar(ef_tile shape, const float *const *rows, const float *factors,
                              size_t n, int16_t *dst, size_t step) {
    for (size_t r = 0; r < shape.rows; r++) {
        for (size_t i = 0; i < n; i++)
            dst[i / 2 * step + 2 * r + i % 2] = (int16_t)lrintf(rows[r][i] * factors[r]);
        if (n % 2 != 0)
            dst[n / 2 * step + 2 * r + 1] = 0;
    }
}

void ef_multiply_i16_scalar(ef_tile shape, const int16_t *tile, const int16_t *panel, size_t n,
                            int32_t *sums, int first) {
    for (size_t r = 0; r < shape.rows; r++) {
        for (size_t c = 0; c < shape.columns; c++) {
            int32_t sum = first ? 0 : sums[r * shape.columns + c];
            for (size_t i = 0; i < n; i++) {
                const int16_t *row = tile + (i * shape.rows + r) * 2;
                const int16_t *column = panel + (i * shape.columns + c) * 2;
                sum += row[0] * column[0] + row[1] * column[1];
            }
            sums[r * shape.columns + c] = sum;
        }
    }
}

void ef_reach_i32_scalar(ef_tile shape, const int32_t *sums, const float *scales,
                         const float *margins, const float *least, size_t n, uint32_t *masks) {
    for (size_t r = 0; r < n; r++) {
        masks[r] = 0;
        for (size_t c = 0; c < shape.columns; c++) {
            const float most = fused_f32(scales[r], (float)sums[r * shape.columns + c], margins[r]);
            masks[r] |= (uint32_t)(most >= least[c]) << c;
        }
    }
}
