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

#endif
