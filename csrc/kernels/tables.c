/* What each instruction set runs: a table with the scalar kernels, and what each other set lays
 * over the table of the one before it (cpu.c), so that whatever is not named here is inherited. */
#include "kernels/kernels.h"

const ef_kernels ef_kernels_scalar = {
    .isa = "scalar",
    .product = {EF_TILE_ROWS, EF_TILE_COLUMNS},
    .lens = {EF_TILE_ROWS, EF_LENS_COLUMNS},
    .f16_to_f32 = ef_f16_to_f32_scalar,
    .bf16_to_f32 = ef_bf16_to_f32_scalar,
    .f32_to_f64 = ef_f32_to_f64_scalar,
    .f64_to_f32 = ef_f64_to_f32_scalar,
    .f32_to_f16 = ef_f32_to_f16_scalar,
    .f32_to_bf16 = ef_f32_to_bf16_scalar,
    .centre_f32 = ef_centre_f32_scalar,
    .centre_f64 = ef_centre_f64_scalar,
    .dequantize_q4_0 = ef_dequantize_q4_0_scalar,
    .dequantize_q8_0 = ef_dequantize_q8_0_scalar,
    .dequantize_q4_k = ef_dequantize_q4_k_scalar,
    .dequantize_q6_k = ef_dequantize_q6_k_scalar,
    .gram_f32 = ef_gram_f32_scalar,
    .gram_f64 = ef_gram_f64_scalar,
    .peel_f32 = ef_peel_f32_scalar,
    .panel_f32 = ef_panel_f32_scalar,
    .interleave_f32 = ef_interleave_f32_scalar,
    .project_f32 = ef_project_f32_scalar,
    .project_row_f32 = ef_project_row_f32_scalar,
    .dot_f32 = ef_dot_f32_scalar,
    .interleave_i16 = ef_interleave_i16_scalar,
    .multiply_i16 = ef_multiply_i16_scalar,
    .reach_i32 = ef_reach_i32_scalar,
    .squares_f32 = ef_squares_f32_scalar,
    .abs_max_f32 = ef_abs_max_f32_scalar,
    .scale_f32 = ef_scale_f32_scalar,
    .to_i8 = ef_to_i8_scalar,
    .to_u8 = ef_to_u8_scalar,
    .to_bits = ef_to_bits_scalar,
};

#if defined(__x86_64__)
/* Over the scalar table. */
void ef_lay_avx2(ef_kernels *table) {
    table->isa = "avx2";
    table->f16_to_f32 = ef_f16_to_f32_avx2;
    table->bf16_to_f32 = ef_bf16_to_f32_avx2;
    table->f32_to_f64 = ef_f32_to_f64_avx2;
    table->f64_to_f32 = ef_f64_to_f32_avx2;
    table->f32_to_f16 = ef_f32_to_f16_avx2;
    table->f32_to_bf16 = ef_f32_to_bf16_avx2;
    table->centre_f32 = ef_centre_f32_avx2;
    table->centre_f64 = ef_centre_f64_avx2;
    table->dequantize_q4_0 = ef_dequantize_q4_0_avx2;
    table->dequantize_q8_0 = ef_dequantize_q8_0_avx2;
    table->dequantize_q4_k = ef_dequantize_q4_k_avx2;
    table->dequantize_q6_k = ef_dequantize_q6_k_avx2;
    table->gram_f32 = ef_gram_f32_avx2;
    table->gram_f64 = ef_gram_f64_avx2;
    table->peel_f32 = ef_peel_f32_avx2;
    table->panel_f32 = ef_panel_f32_avx2;
    table->interleave_f32 = ef_interleave_f32_avx2;
    table->project_f32 = ef_project_f32_avx2;
    table->project_row_f32 = ef_project_row_f32_avx2;
    table->dot_f32 = ef_dot_f32_avx2;
    table->interleave_i16 = ef_interleave_i16_avx2;
    table->multiply_i16 = ef_multiply_i16_avx2;
    table->reach_i32 = ef_reach_i32_avx2;
    table->squares_f32 = ef_squares_f32_avx2;
    table->abs_max_f32 = ef_abs_max_f32_avx2;
    table->scale_f32 = ef_scale_f32_avx2;
    table->to_i8 = ef_to_i8_avx2;
    table->to_u8 = ef_to_u8_avx2;
    table->to_bits = ef_to_bits_avx2;
}

/* Over the table of AVX2: where products are what takes the time; the rest comes as fast from
 * memory with AVX2. */
void ef_lay_avx512(ef_kernels *table) {
    table->isa = "avx512";
    table->product = (ef_tile){EF_WIDE_ROWS, EF_WIDE_COLUMNS};
    table->lens = (ef_tile){EF_WIDE_ROWS, EF_WIDE_COLUMNS};
    table->gram_f32 = ef_gram_f32_avx512;
    table->gram_f64 = ef_gram_f64_avx512;
    table->panel_f32 = ef_panel_f32_avx512;
    table->interleave_f32 = ef_interleave_f32_avx512;
    table->project_f32 = ef_project_f32_avx512;
    table->project_row_f32 = ef_project_row_f32_avx512;
    table->interleave_i16 = ef_interleave_i16_avx512;
    table->multiply_i16 = ef_multiply_i16_avx512;
    table->reach_i32 = ef_reach_i32_avx512;
}
#endif

#if defined(__aarch64__)
/* Over the scalar table. */
void ef_lay_neon(ef_kernels *table) {
    table->isa = "neon";
    table->f16_to_f32 = ef_f16_to_f32_neon;
    table->bf16_to_f32 = ef_bf16_to_f32_neon;
    table->f32_to_f64 = ef_f32_to_f64_neon;
    table->f64_to_f32 = ef_f64_to_f32_neon;
    table->f32_to_f16 = ef_f32_to_f16_neon;
    table->f32_to_bf16 = ef_f32_to_bf16_neon;
    table->centre_f32 = ef_centre_f32_neon;
    table->centre_f64 = ef_centre_f64_neon;
    table->dequantize_q4_0 = ef_dequantize_q4_0_neon;
    table->dequantize_q8_0 = ef_dequantize_q8_0_neon;
    table->dequantize_q4_k = ef_dequantize_q4_k_neon;
    table->dequantize_q6_k = ef_dequantize_q6_k_neon;
    table->gram_f32 = ef_gram_f32_neon;
    table->gram_f64 = ef_gram_f64_neon;
    table->peel_f32 = ef_peel_f32_neon;
    table->interleave_f32 = ef_interleave_f32_neon;
    table->project_f32 = ef_project_f32_neon;
    table->project_row_f32 = ef_project_row_f32_neon;
    table->dot_f32 = ef_dot_f32_neon;
    table->interleave_i16 = ef_interleave_i16_neon;
    table->multiply_i16 = ef_multiply_i16_neon;
    table->reach_i32 = ef_reach_i32_neon;
    table->squares_f32 = ef_squares_f32_neon;
    table->abs_max_f32 = ef_abs_max_f32_neon;
    table->scale_f32 = ef_scale_f32_neon;
    table->to_i8 = ef_to_i8_neon;
    table->to_u8 = ef_to_u8_neon;
    table->to_bits = ef_to_bits_neon;
}
#endif
