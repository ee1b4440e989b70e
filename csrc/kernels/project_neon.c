/* Projection: y (+)= x panel.
 *
 * Register plan of the tile: 24 accumulators (4 rows x 6 vectors of 4 components), 6 vectors
 * of the panel, 1 or 2 broadcast elements of x: all 32 registers. Of a single row: 12
 * accumulators (2 panels x 6 vectors). */
#if defined(__aarch64__)
#include "kernels/tile_neon.h"

void ef_interleave_f32_neon(ef_tile shape, const float *const *rows, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float32x4x4_t columns = {{vld1q_f32(rows[0] + i), vld1q_f32(rows[1] + i),
                                        vld1q_f32(rows[2] + i), vld1q_f32(rows[3] + i)}};
        vst4q_f32(dst + i * EF_TILE_ROWS, columns);
    }
    const float *const rest[EF_TILE_ROWS] = {rows[0] + i, rows[1] + i, rows[2] + i, rows[3] + i};
    ef_interleave_f32_scalar(shape, rest, n - i, dst + i * EF_TILE_ROWS);
}

static inline void store(float *y, row_f32 sum, int first) {
    if (!first) {
        const row_f32 old = load_f32(y);
        sum = (row_f32){vaddq_f32(old.v0, sum.v0), vaddq_f32(old.v1, sum.v1),
                        vaddq_f32(old.v2, sum.v2), vaddq_f32(old.v3, sum.v3),
                        vaddq_f32(old.v4, sum.v4), vaddq_f32(old.v5, sum.v5)};
    }
    vst1q_f32(y, sum.v0);
    vst1q_f32(y + 4, sum.v1);
    vst1q_f32(y + 8, sum.v2);
    vst1q_f32(y + 12, sum.v3);
    vst1q_f32(y + 16, sum.v4);
    vst1q_f32(y + 20, sum.v5);
}

void ef_project_f32_neon(ef_tile shape, const float *x, const float *panel, size_t n, float *y,
                         size_t y_stride, int first, const float *next) {
    (void)next;
    (void)shape;
    const tile_f32 sums = multiply_f32(x, EF_TILE_ROWS, panel, n, zero_tile_f32());
    store(y, sums.r0, first);
    store(y + y_stride, sums.r1, first);
    store(y + 2 * y_stride, sums.r2, first);
    store(y + 3 * y_stride, sums.r3, first);
}

void ef_project_row_f32_neon(ef_tile shape, const float *x, const float *panels, size_t n, float *y,
                             int first) {
    (void)shape;
    const float *second = panels + n * EF_TILE_COLUMNS;
    row_f32 s0 = zero_f32(), s1 = zero_f32();
    for (size_t i = 0; i < n; i++, panels += EF_TILE_COLUMNS, second += EF_TILE_COLUMNS) {
        s0 = multiply_add_f32(x + i, load_f32(panels), s0);
        s1 = multiply_add_f32(x + i, load_f32(second), s1);
    }
    store(y, s0, first);
    store(y + EF_TILE_COLUMNS, s1, first);
}
#endif
