/* Projection tile: y (+)= x panel.
 *
 * Register plan for 4 rows: 24 accumulators (4 rows x 6 vectors of 4 components), 6 vectors
 * of the panel, 1 or 2 broadcast elements of x: all 32 registers. Fewer rows use the same
 * code with fewer accumulators. */
#if defined(__aarch64__)
#include "kernels.h"

#include <arm_neon.h>

enum { PANEL = EF_FILTER_PANEL };

/* A row of the tile: EF_FILTER_PANEL components. */
typedef struct tile_row {
    float32x4_t v0, v1, v2, v3, v4, v5;
} tile_row;

static inline tile_row zero(void) {
    const float32x4_t z = vdupq_n_f32(0.0f);
    return (tile_row){z, z, z, z, z, z};
}

static inline tile_row load(const float *source) {
    return (tile_row){vld1q_f32(source),      vld1q_f32(source + 4),  vld1q_f32(source + 8),
                      vld1q_f32(source + 12), vld1q_f32(source + 16), vld1q_f32(source + 20)};
}

/* sum + element * components */
static inline tile_row multiply_add(const float *element, tile_row components, tile_row sum) {
    const float32x4_t e = vld1q_dup_f32(element);
    return (tile_row){vfmaq_f32(sum.v0, e, components.v0), vfmaq_f32(sum.v1, e, components.v1),
                      vfmaq_f32(sum.v2, e, components.v2), vfmaq_f32(sum.v3, e, components.v3),
                      vfmaq_f32(sum.v4, e, components.v4), vfmaq_f32(sum.v5, e, components.v5)};
}

static inline tile_row add(tile_row a, tile_row b) {
    return (tile_row){vaddq_f32(a.v0, b.v0), vaddq_f32(a.v1, b.v1), vaddq_f32(a.v2, b.v2),
                      vaddq_f32(a.v3, b.v3), vaddq_f32(a.v4, b.v4), vaddq_f32(a.v5, b.v5)};
}

static inline void store(float *y, tile_row sum, int first) {
    if (!first)
        sum = add(load(y), sum);
    vst1q_f32(y, sum.v0);
    vst1q_f32(y + 4, sum.v1);
    vst1q_f32(y + 8, sum.v2);
    vst1q_f32(y + 12, sum.v3);
    vst1q_f32(y + 16, sum.v4);
    vst1q_f32(y + 20, sum.v5);
}

/* n_rows is a constant at each call, so that what is beyond it is left out. */
__attribute__((always_inline)) static inline void tile(const size_t n_rows, const float *x,
                                                       size_t x_stride, const float *panel,
                                                       size_t n, float *y, size_t y_stride,
                                                       int first) {
    const float *x1 = n_rows > 1 ? x + x_stride : x, *x2 = n_rows > 2 ? x1 + x_stride : x;
    const float *x3 = n_rows > 3 ? x2 + x_stride : x;
    tile_row s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
    for (size_t i = 0; i < n; i++, panel += PANEL) {
        const tile_row components = load(panel);
        s0 = multiply_add(x + i, components, s0);
        if (n_rows > 1)
            s1 = multiply_add(x1 + i, components, s1);
        if (n_rows > 2)
            s2 = multiply_add(x2 + i, components, s2);
        if (n_rows > 3)
            s3 = multiply_add(x3 + i, components, s3);
    }
    store(y, s0, first);
    if (n_rows > 1)
        store(y + y_stride, s1, first);
    if (n_rows > 2)
        store(y + 2 * y_stride, s2, first);
    if (n_rows > 3)
        store(y + 3 * y_stride, s3, first);
}

void ef_project_f32_neon(const float *x, size_t x_stride, size_t n_rows, const float *panel,
                         size_t n, float *y, size_t y_stride, int first) {
    switch (n_rows) {
    case 1:
        tile(1, x, x_stride, panel, n, y, y_stride, first);
        break;
    case 2:
        tile(2, x, x_stride, panel, n, y, y_stride, first);
        break;
    case 3:
        tile(3, x, x_stride, panel, n, y, y_stride, first);
        break;
    default:
        tile(4, x, x_stride, panel, n, y, y_stride, first);
    }
}
#endif
