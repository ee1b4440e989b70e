/* The sum in the oracle of the tiles of the Gram matrix and of the projection. */
#ifndef EMBEDFILTER_TILE_SCALAR_H
#define EMBEDFILTER_TILE_SCALAR_H

#include "kernels/fused.h"
#include "kernels/kernels.h"

/* A chain of fused multiply-adds, from +0: n elements of a and of b, each `step` apart. */
static inline float chain_f32(const float *a, size_t a_step, const float *b, size_t b_step,
                              size_t n) {
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++)
        sum = fused_f32(a[i * a_step], b[i * b_step], sum);
    return sum;
}

#endif
