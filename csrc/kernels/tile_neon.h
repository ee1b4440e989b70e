/* Parts of the NEON micro-kernels: a row of EF_TILE_COLUMNS sums in registers. */
#ifndef EMBEDFILTER_TILE_NEON_H
#define EMBEDFILTER_TILE_NEON_H

#include "kernels/kernels.h"

#include <arm_neon.h>

/* EF_TILE_COLUMNS float32 in six registers. */
typedef struct row_f32 {
    float32x4_t v0, v1, v2, v3, v4, v5;
} row_f32;

static inline row_f32 zero_f32(void) {
    const float32x4_t z = vdupq_n_f32(0.0f);
    return (row_f32){z, z, z, z, z, z};
}

static inline row_f32 load_f32(const float *source) {
    return (row_f32){vld1q_f32(source),      vld1q_f32(source + 4),  vld1q_f32(source + 8),
                     vld1q_f32(source + 12), vld1q_f32(source + 16), vld1q_f32(source + 20)};
}

/* sum + element * row */
static inline row_f32 multiply_add_f32(const float *element, row_f32 row, row_f32 sum) {
    const float32x4_t e = vld1q_dup_f32(element);
    return (row_f32){vfmaq_f32(sum.v0, e, row.v0), vfmaq_f32(sum.v1, e, row.v1),
                     vfmaq_f32(sum.v2, e, row.v2), vfmaq_f32(sum.v3, e, row.v3),
                     vfmaq_f32(sum.v4, e, row.v4), vfmaq_f32(sum.v5, e, row.v5)};
}

/* EF_TILE_ROWS rows of sums in registers. */
typedef struct tile_f32 {
    row_f32 r0, r1, r2, r3;
} tile_f32;

static inline tile_f32 zero_tile_f32(void) {
    const row_f32 zero = zero_f32();
    return (tile_f32){zero, zero, zero, zero};
}

/* The product that the Gram matrix and the projection share: sums += x^T panel, over n rows of the
 * panel. Row r of the sums takes the elements r, step + r, 2 step + r ... of x. */
static inline __attribute__((always_inline)) tile_f32 multiply_f32(const float *x, size_t step,
                                                                   const float *panel, size_t n,
                                                                   tile_f32 sums) {
    for (size_t i = 0; i < n; i++, x += step, panel += EF_TILE_COLUMNS) {
        const row_f32 columns = load_f32(panel);
        sums.r0 = multiply_add_f32(x, columns, sums.r0);
        sums.r1 = multiply_add_f32(x + 1, columns, sums.r1);
        sums.r2 = multiply_add_f32(x + 2, columns, sums.r2);
        sums.r3 = multiply_add_f32(x + 3, columns, sums.r3);
    }
    return sums;
}

#endif
