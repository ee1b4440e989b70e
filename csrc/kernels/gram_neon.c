/* Gram tile in float64: tile += a^T b.
 *
 * Register plan: 4 rows of the tile at a time. 24 accumulators (4 rows x 6 vectors of 2
 * columns), 6 vectors of b, 1 or 2 broadcast elements of a: all 32 registers. */
#if defined(__aarch64__)
#include "kernels.h"

#include <arm_neon.h>

enum { PANEL = EF_GRAM_PANEL, ROWS = 4 };

/* A row of the tile: EF_GRAM_PANEL columns. */
typedef struct tile_row {
    float64x2_t v0, v1, v2, v3, v4, v5;
} tile_row;

static inline tile_row zero(void) {
    const float64x2_t z = vdupq_n_f64(0.0);
    return (tile_row){z, z, z, z, z, z};
}

static inline tile_row load(const double *source) {
    return (tile_row){vld1q_f64(source),     vld1q_f64(source + 2), vld1q_f64(source + 4),
                      vld1q_f64(source + 6), vld1q_f64(source + 8), vld1q_f64(source + 10)};
}

/* sum + element * columns */
static inline tile_row multiply_add(const double *element, tile_row columns, tile_row sum) {
    const float64x2_t e = vld1q_dup_f64(element);
    return (tile_row){vfmaq_f64(sum.v0, e, columns.v0), vfmaq_f64(sum.v1, e, columns.v1),
                      vfmaq_f64(sum.v2, e, columns.v2), vfmaq_f64(sum.v3, e, columns.v3),
                      vfmaq_f64(sum.v4, e, columns.v4), vfmaq_f64(sum.v5, e, columns.v5)};
}

static inline void add_to(double *target, tile_row sum) {
    const tile_row old = load(target);
    vst1q_f64(target, vaddq_f64(old.v0, sum.v0));
    vst1q_f64(target + 2, vaddq_f64(old.v1, sum.v1));
    vst1q_f64(target + 4, vaddq_f64(old.v2, sum.v2));
    vst1q_f64(target + 6, vaddq_f64(old.v3, sum.v3));
    vst1q_f64(target + 8, vaddq_f64(old.v4, sum.v4));
    vst1q_f64(target + 10, vaddq_f64(old.v5, sum.v5));
}

/* Four rows of the tile; `a` points at their first column. */
static void quarter_tile(const double *a, const double *b, size_t n, double *tile, size_t stride) {
    tile_row s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
    for (size_t r = 0; r < n; r++, a += PANEL, b += PANEL) {
        const tile_row columns = load(b);
        s0 = multiply_add(a, columns, s0);
        s1 = multiply_add(a + 1, columns, s1);
        s2 = multiply_add(a + 2, columns, s2);
        s3 = multiply_add(a + 3, columns, s3);
    }
    add_to(tile, s0);
    add_to(tile + stride, s1);
    add_to(tile + 2 * stride, s2);
    add_to(tile + 3 * stride, s3);
}

void ef_gram_f64_neon(const double *a, const double *b, size_t n, double *tile, size_t stride) {
    for (size_t i = 0; i < PANEL; i += ROWS)
        quarter_tile(a + i, b, n, tile + i * stride, stride);
}
#endif
