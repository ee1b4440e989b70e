#include "core/rows.h"

#include <math.h>
#include <string.h>

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

void ef_centre_row_f32(const ef_kernels *kernels, ef_matrix x, size_t row, const float *mean,
                       float *dst) {
    if (x.dtype == EF_F64)
        kernels->centre_f64((const double *)ef_row(x, row), mean, dst, x.n_cols);
    else
        kernels->centre_f32(ef_row_f32(kernels, x, row, dst), mean, dst, x.n_cols);
}

void ef_copy_row_f32(const ef_kernels *kernels, ef_matrix x, size_t row, float *dst) {
    const float *source = ef_row_f32(kernels, x, row, dst);
    if (source != dst)
        memcpy(dst, source, x.n_cols * sizeof(float));
}

bool ef_finite_f32(const float *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

bool ef_finite_f64(const double *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
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
        return ef_finite_f32((const float *)source, x.n_cols);
    case EF_F64:
        return ef_finite_f64((const double *)source, x.n_cols);
    }
    return true;
}

void ef_note_row(atomic_size_t *first, size_t row) {
    size_t known = atomic_load(first);
    while (row < known && !atomic_compare_exchange_weak(first, &known, row)) {
    }
}

ef_status ef_row_status(ef_matrix x, size_t row, ef_detail *detail) {
    detail->row = row;
    if (row == x.n_rows)
        return EF_OK;
    return ef_row_finite(x, row) ? EF_OVERFLOW : EF_NOT_FINITE;
}
