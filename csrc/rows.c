#include "rows.h"

#include <math.h>

const unsigned char *ef_row(ef_matrix x, size_t row) {
    return x.data + (ptrdiff_t)row * x.stride_bytes;
}

size_t ef_item_bytes(ef_dtype dtype) {
    switch (dtype) {
    case EF_F64:
        return 8;
    case EF_F32:
        return 4;
    case EF_F16:
    case EF_BF16:
        return 2;
    }
    return 0;
}

ef_matrix ef_columns(ef_matrix x, size_t first, size_t n) {
    x.data += first * ef_item_bytes(x.dtype);
    x.n_cols = n;
    return x;
}

const float *ef_row_f32(const ef_kernels *kernels, ef_matrix x, size_t row, float *room) {
    const unsigned char *source = ef_row(x, row);
    switch (x.dtype) {
    case EF_F32:
        return (const float *)source;
    case EF_F64:
        kernels->f64_to_f32((const double *)source, room, x.n_cols);
        break;
    case EF_F16:
        kernels->f16_to_f32((const uint16_t *)source, room, x.n_cols);
        break;
    case EF_BF16:
        kernels->bf16_to_f32((const uint16_t *)source, room, x.n_cols);
        break;
    }
    return room;
}

/* True if no number has all bits of its exponent set. */
static bool halves_finite(const uint16_t *bits, size_t n, uint16_t exponent) {
    for (size_t i = 0; i < n; i++)
        if ((bits[i] & exponent) == exponent)
            return false;
    return true;
}

bool ef_row_finite(ef_matrix x, size_t row) {
    const unsigned char *source = ef_row(x, row);
    switch (x.dtype) {
    case EF_F16:
        return halves_finite((const uint16_t *)source, x.n_cols, 0x7c00);
    case EF_BF16:
        return halves_finite((const uint16_t *)source, x.n_cols, 0x7f80);
    case EF_F32:
        for (size_t i = 0; i < x.n_cols; i++)
            if (!isfinite(((const float *)source)[i]))
                return false;
        return true;
    case EF_F64:
        for (size_t i = 0; i < x.n_cols; i++)
            if (!isfinite(((const double *)source)[i]))
                return false;
        return true;
    }
    return true;
}

void ef_note_row(atomic_size_t *first, size_t row) {
    size_t known = atomic_load(first);
    while (row < known && !atomic_compare_exchange_weak(first, &known, row)) {
    }
}
