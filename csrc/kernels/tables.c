/* The tables of kernels: what each instruction set runs. */
#include "kernels.h"

const ef_kernels ef_kernels_scalar = {
    .isa = "scalar",
    .f16_to_f32 = ef_f16_to_f32_scalar,
    .bf16_to_f32 = ef_bf16_to_f32_scalar,
    .f32_to_f64 = ef_f32_to_f64_scalar,
    .f64_to_f32 = ef_f64_to_f32_scalar,
    .f32_to_f16 = ef_f32_to_f16_scalar,
    .f32_to_bf16 = ef_f32_to_bf16_scalar,
    .gram_f32 = ef_gram_f32_scalar,
    .gram_f64 = ef_gram_f64_scalar,
    .peel_f32 = ef_peel_f32_scalar,
    .interleave_f32 = ef_interleave_f32_scalar,
    .project_f32 = ef_project_f32_scalar,
    .project_row_f32 = ef_project_row_f32_scalar,
    .squares_f32 = ef_squares_f32_scalar,
    .abs_max_f32 = ef_abs_max_f32_scalar,
    .scale_f32 = ef_scale_f32_scalar,
    .to_i8 = ef_to_i8_scalar,
    .to_u8 = ef_to_u8_scalar,
    .to_bits = ef_to_bits_scalar,
};

/* For a machine without kernels of its own: OpenBLAS's products, the rest as scalar. */
const ef_kernels ef_kernels_generic = {
    .isa = "generic",
    .products_by_openblas = true,
    .f16_to_f32 = ef_f16_to_f32_scalar,
    .bf16_to_f32 = ef_bf16_to_f32_scalar,
    .f32_to_f64 = ef_f32_to_f64_scalar,
    .f64_to_f32 = ef_f64_to_f32_scalar,
    .f32_to_f16 = ef_f32_to_f16_scalar,
    .f32_to_bf16 = ef_f32_to_bf16_scalar,
    .gram_f32 = ef_gram_f32_scalar,
    .gram_f64 = ef_gram_f64_scalar,
    .peel_f32 = ef_peel_f32_scalar,
    .interleave_f32 = ef_interleave_f32_scalar,
    .project_f32 = ef_project_f32_scalar,
    .project_row_f32 = ef_project_row_f32_scalar,
    .squares_f32 = ef_squares_f32_scalar,
    .abs_max_f32 = ef_abs_max_f32_scalar,
    .scale_f32 = ef_scale_f32_scalar,
    .to_i8 = ef_to_i8_scalar,
    .to_u8 = ef_to_u8_scalar,
    .to_bits = ef_to_bits_scalar,
};

#if defined(__x86_64__)
const ef_kernels ef_kernels_avx2 = {
    .isa = "avx2",
    .f16_to_f32 = ef_f16_to_f32_avx2,
    .bf16_to_f32 = ef_bf16_to_f32_avx2,
    .f32_to_f64 = ef_f32_to_f64_avx2,
    .f64_to_f32 = ef_f64_to_f32_avx2,
    .f32_to_f16 = ef_f32_to_f16_avx2,
    .f32_to_bf16 = ef_f32_to_bf16_avx2,
    .gram_f32 = ef_gram_f32_avx2,
    .gram_f64 = ef_gram_f64_avx2,
    .peel_f32 = ef_peel_f32_avx2,
    .interleave_f32 = ef_interleave_f32_avx2,
    .project_f32 = ef_project_f32_avx2,
    .project_row_f32 = ef_project_row_f32_avx2,
    .squares_f32 = ef_squares_f32_avx2,
    .abs_max_f32 = ef_abs_max_f32_avx2,
    .scale_f32 = ef_scale_f32_avx2,
    .to_i8 = ef_to_i8_avx2,
    .to_u8 = ef_to_u8_avx2,
    .to_bits = ef_to_bits_avx2,
};
#endif

#if defined(__aarch64__)
const ef_kernels ef_kernels_neon = {
    .isa = "neon",
    .f16_to_f32 = ef_f16_to_f32_neon,
    .bf16_to_f32 = ef_bf16_to_f32_neon,
    .f32_to_f64 = ef_f32_to_f64_neon,
    .f64_to_f32 = ef_f64_to_f32_neon,
    .f32_to_f16 = ef_f32_to_f16_neon,
    .f32_to_bf16 = ef_f32_to_bf16_neon,
    .gram_f32 = ef_gram_f32_neon,
    .gram_f64 = ef_gram_f64_neon,
    .peel_f32 = ef_peel_f32_neon,
    .interleave_f32 = ef_interleave_f32_neon,
    .project_f32 = ef_project_f32_neon,
    .project_row_f32 = ef_project_row_f32_neon,
    .squares_f32 = ef_squares_f32_neon,
    .abs_max_f32 = ef_abs_max_f32_neon,
    .scale_f32 = ef_scale_f32_neon,
    .to_i8 = ef_to_i8_neon,
    .to_u8 = ef_to_u8_neon,
    .to_bits = ef_to_bits_neon,
};
#endif
