/* Projection tile: y (+)= x panel.
 *
 * Register plan for 4 rows: 12 accumulators (4 rows x 3 vectors of 8 components), 3 vectors
 * of the panel, 1 broadcast element of x: all 16 registers. Fewer rows use the same code
 * with fewer accumulators. */
#if defined(__x86_64__)
#include "kernels.h"

#include <immintrin.h>

enum { PANEL = EF_FILTER_PANEL };

/* A row of the tile: EF_FILTER_PANEL components. */
typedef struct tile_row {
    __m256 v0, v1, v2;
} tile_row;

EF_AVX2 static inline tile_row zero(void) {
    return (tile_row){_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
}

EF_AVX2 static inline tile_row load_panel(const float *panel) {
    return (tile_row){_mm256_load_ps(panel), _mm256_load_ps(panel + 8), _mm256_load_ps(panel + 16)};
}

/* sum + element * components */
EF_AVX2 static inline tile_row multiply_add(const float *element, tile_row components,
                                            tile_row sum) {
    const __m256 e = _mm256_broadcast_ss(element);
    return (tile_row){_mm256_fmadd_ps(e, components.v0, sum.v0),
                      _mm256_fmadd_ps(e, components.v1, sum.v1),
                      _mm256_fmadd_ps(e, components.v2, sum.v2)};
}

EF_AVX2 static inline void store(float *y, tile_row sum, int first) {
    if (!first) {
        sum.v0 = _mm256_add_ps(_mm256_loadu_ps(y), sum.v0);
        sum.v1 = _mm256_add_ps(_mm256_loadu_ps(y + 8), sum.v1);
        sum.v2 = _mm256_add_ps(_mm256_loadu_ps(y + 16), sum.v2);
    }
    _mm256_storeu_ps(y, sum.v0);
    _mm256_storeu_ps(y + 8, sum.v1);
    _mm256_storeu_ps(y + 16, sum.v2);
}

/* n_rows is a constant at each call, so that what is beyond it is left out. */
EF_AVX2 __attribute__((always_inline)) static inline void tile(const size_t n_rows, const float *x,
                                                               size_t x_stride, const float *panel,
                                                               size_t n, float *y, size_t y_stride,
                                                               int first) {
    const float *x1 = n_rows > 1 ? x + x_stride : x, *x2 = n_rows > 2 ? x1 + x_stride : x;
    const float *x3 = n_rows > 3 ? x2 + x_stride : x;
    tile_row s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
    for (size_t i = 0; i < n; i++, panel += PANEL) {
        const tile_row components = load_panel(panel);
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

EF_AVX2 void ef_project_f32_avx2(const float *x, size_t x_stride, size_t n_rows, const float *panel,
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
