/* The final form of a projected row: unit length, then the output's type. */
#include "core/quantize.h"
#include "core/arithmetic.h"

#include <math.h>

/* The least magnitudes that round to infinity: halfway from the type's largest value to
 * the next power of two. */
static const float F16_OVERFLOW = 65520.0f;
static const float BF16_OVERFLOW = 0x1.ffp127f;

size_t ef_output_row_bytes(ef_precision precision, size_t k) {
    switch (precision) {
    case EF_OUT_F32:
        return k * sizeof(float);
    case EF_OUT_F16:
    case EF_OUT_BF16:
        return k * sizeof(uint16_t);
    case EF_OUT_I8:
    case EF_OUT_U8:
        return k;
    case EF_OUT_BITS:
        return ef_ceil_div(k, 8);
    }
    return 0;
}

bool ef_finish_row(const ef_kernels *kernels, const ef_output *form, float *y, size_t k,
                   unsigned char *out) {
    const double squares = kernels->squares_f32(y, k);
    if (!isfinite(squares)) /* float32 squares cannot overflow float64: y is not finite */
        return false;
    const double factor = form->normalize && squares > 0.0 ? 1.0 / sqrt(squares) : 1.0;
    if (form->precision == EF_OUT_F32) {
        kernels->scale_f32(y, factor, (float *)out, k);
        return true;
    }
    if (factor != 1.0)
        kernels->scale_f32(y, factor, y, k);
    switch (form->precision) {
    case EF_OUT_F32: /* done */
        return true;
    case EF_OUT_F16:
        kernels->f32_to_f16(y, (uint16_t *)out, k);
        return form->normalize || kernels->abs_max_f32(y, k) < F16_OVERFLOW;
    case EF_OUT_BF16:
        kernels->f32_to_bf16(y, (uint16_t *)out, k);
        return form->normalize || kernels->abs_max_f32(y, k) < BF16_OVERFLOW;
    case EF_OUT_I8:
        kernels->to_i8(y, form->starts, form->steps, (int8_t *)out, k);
        return true;
    case EF_OUT_U8:
        kernels->to_u8(y, form->starts, form->steps, out, k);
        return true;
    case EF_OUT_BITS:
        kernels->to_bits(y, out, k);
        return true;
    }
    return false;
}
