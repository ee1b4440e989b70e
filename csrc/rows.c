#include "rows.h"

const unsigned char *ef_row(ef_matrix x, size_t row) {
    return x.data + (ptrdiff_t)row * x.stride_bytes;
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
