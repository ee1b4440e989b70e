/* The kernels and their table: one function type for each operation, one function for each
 * operation, element type and instruction set, named ef_<operation>_<type>_<isa>, in the
 * file <operation>_<isa>.c.
 *
 * The scalar functions are the oracle: plain C, one operation at a time. The others return
 * the same to the bit, except gram_f64, whose order of summation is each one's own.
 * No pointer needs an alignment beyond its element's, unless a comment says so.
 */
#ifndef EMBEDFILTER_KERNELS_H
#define EMBEDFILTER_KERNELS_H

#include "kernels/blocks.h"

#include <stddef.h>
#include <stdint.h>

enum {
    EF_RUN = 256,   /* products summed in float32 before they are added to what was there */
    EF_MAX_PEEL = 8 /* directions taken out of the rows before they are multiplied */
};

/* What a product's kernel works on at a time. Each table has one for products of float32 (rows of
 * embeddings, and columns of a panel: components of a filter; the Gram matrix has a panel's columns
 * on either side) and one for the lens (rows of W, vectors of a panel). The scalar kernels
 * take any, the others that of their table. */
typedef struct ef_tile {
    size_t rows, columns;
} ef_tile;

enum {
    EF_TILE_ROWS = 4, /* of all but AVX-512 */
    EF_TILE_COLUMNS = 24,
    EF_LENS_COLUMNS = 16,
    EF_WIDE_ROWS = 8, /* of AVX-512, and the largest there are */
    EF_WIDE_COLUMNS = 32
};

/* Put before each function of an _avx2.c or _avx512.c file: the rest of the build stays at the
 * baseline. */
#if defined(__x86_64__)
#define EF_AVX2 __attribute__((target("avx2,fma,f16c")))
#define EF_AVX512                                                                                  \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#endif

/* ---- convert: n elements of one type as another ------------------------- */
/* Widening is exact; narrowing rounds to nearest, ties to even; what is too large becomes
 * infinity, NaN stays NaN. */
typedef void ef_f16_to_f32(const uint16_t *src, float *dst, size_t n);
typedef void ef_bf16_to_f32(const uint16_t *src, float *dst, size_t n);
typedef void ef_f32_to_f64(const float *src, double *dst, size_t n);
typedef void ef_f64_to_f32(const double *src, float *dst, size_t n);
typedef void ef_f32_to_f16(const float *src, uint16_t *dst, size_t n);
typedef void ef_f32_to_bf16(const float *src, uint16_t *dst, size_t n);

/* dst[i] = src[i] - mean[i], which is rounded once: of float64, subtracted there and rounded to
 * float32. dst may be src. */
typedef void ef_centre_f32(const float *src, const float *mean, float *dst, size_t n);
typedef void ef_centre_f64(const double *src, const float *mean, float *dst, size_t n);

/* ---- dequantize: n blocks of quantised weights as float32 ---------------- */
/* dst is (n, EF_BLOCK) or (n, EF_SUPER_BLOCK). blocks.h has the formulas, whose float32 operations
 * are done in that order, with infinity and NaN as they come: the same as gguf's NumPy code. */
typedef void ef_dequantize_q4_0(const ef_block_q4_0 *src, float *dst, size_t n);
typedef void ef_dequantize_q8_0(const ef_block_q8_0 *src, float *dst, size_t n);
typedef void ef_dequantize_q4_k(const ef_block_q4_k *src, float *dst, size_t n);
typedef void ef_dequantize_q6_k(const ef_block_q6_k *src, float *dst, size_t n);

/* ---- gram: panels of rows of W ------------------------------------------ */
/* sums += a^T b, over n <= EF_RUN rows. a and b are (n, columns), adjacent rows, 64-byte
 * aligned; sums is (columns, columns).
 * float32: each sum is a chain of fused multiply-adds in order of the rows, from +0, added to
 * the tile in float64. float64: the order of summation is each instruction set's own. `next` are
 * n * columns / 2 numbers that will be read soon: fetched into the cache meanwhile, or not. */
typedef void ef_gram_f32(ef_tile shape, const float *a, const float *b, size_t n, double *sums,
                         const float *next);
typedef void ef_gram_f64(ef_tile shape, const double *a, const double *b, size_t n, double *sums);

/* Takes p <= EF_MAX_PEEL directions out of a row: parts[q] = row . basis[q] for every q, then
 * row -= parts[0] basis[0], and so on.
 *   row    (n)
 *   basis  (p, n), adjacent rows
 * A product is eight chains of fused multiply-adds, element i in chain i mod 8, which are
 * added as in squares_f32; the subtractions are fused too. A row with NaN or infinity gives
 * a part that is not finite. */
typedef void ef_peel_f32(float *row, size_t n, const float *basis, size_t p, float *parts);

/* dst (n, columns), adjacent rows, 64-byte aligned = a panel of the rows src (n, columns), rows
 * `stride` elements apart. It stays in the caches: past them cost a tenth with AVX-512 (Intel) and
 * a twentieth with AVX2 (AMD Zen 3), though on Zen 4, with AVX2, it gained. */
typedef void ef_panel_f32(ef_tile shape, const float *src, size_t stride, size_t n, float *dst);

/* ---- project: rows of embeddings times a panel of the filter ------------ */
/* dst[i * shape.rows + r] = rows[r][i]: n elements of each row, interleaved. */
typedef void ef_interleave_f32(ef_tile shape, const float *const *rows, size_t n, float *dst);

/* y (+)= x panel, over one run of inputs.
 *   x      (n, rows), interleaved rows
 *   panel  (n, columns), 64-byte aligned; n <= EF_RUN
 *   y      (rows, columns), rows `y_stride` elements apart; where `first` is true it is
 *          overwritten, not read
 * Each sum is a chain of fused multiply-adds in order of the inputs, from +0. `next` are 4 n
 * numbers that will be read soon: fetched into the cache meanwhile, or not. */
typedef void ef_project_f32(ef_tile shape, const float *x, const float *panel, size_t n, float *y,
                            size_t y_stride, int first, const float *next);

/* The same for one row x (n) and two panels (2, n, columns); y is (2 * columns). */
typedef void ef_project_row_f32(ef_tile shape, const float *x, const float *panels, size_t n,
                                float *y, int first);

/* ---- lens: rows of W times vectors --------------------------------------- */
/* The sum of a[i] b[i]. Element i is in chain i mod 32 of fused multiply-adds, from +0; the
 * chains are added as t[j] = (s[j]+s[j+8]) + (s[j+16]+s[j+24]), and these as in squares_f32. */
typedef float ef_dot_f32(const float *a, const float *b, size_t n);

/* Rounds a tile's rows to int16, each times its factor, and interleaves their pairs of elements:
 * element i of row r is dst[i / 2 * step + 2 * r + i % 2]. A last pair without a second element
 * has 0 there. No product may round to more than 32767 in magnitude. */
typedef void ef_interleave_i16(ef_tile shape, const float *const *rows, const float *factors,
                               size_t n, int16_t *dst, size_t step);

/* sums (+)= tile panel^T, over n pairs of elements.
 *   tile   (n, rows, 2)
 *   panel  (n, columns, 2), 64-byte aligned
 *   sums   (rows, columns); where `first` is true they are overwritten, not read
 * No sum may leave int32. */
typedef void ef_multiply_i16(ef_tile shape, const int16_t *tile, const int16_t *panel, size_t n,
                             int32_t *sums, int first);

/* Bit c of masks[r] is scales[r] * sums[r][c] + margins[r] >= least[c], in one rounding.
 *   sums             (n, columns), rounded to float32 first
 *   scales, margins  (n)
 *   least            (columns)
 *   masks            (n) */
typedef void ef_reach_i32(ef_tile shape, const int32_t *sums, const float *scales,
                          const float *margins, const float *least, size_t n, uint32_t *masks);

/* ---- quantize: the last steps of a projected row of n values ------------ */
/* The sum of squares in float64: element i is added to sum i mod 8, and these are added as
 * ((s0+s4) + (s2+s6)) + ((s1+s5) + (s3+s7)). */
typedef double ef_squares_f32(const float *y, size_t n);
/* The largest magnitude of finite values, 0 for n = 0. */
typedef float ef_abs_max_f32(const float *y, size_t n);
/* dst[i] = float32(float64(y[i]) * factor); dst may be y. */
typedef void ef_scale_f32(const float *y, double factor, float *dst, size_t n);
/* trunc((y - start) / step - 128), in float32, saturated; y, starts and steps are (n). */
typedef void ef_to_i8(const float *y, const float *starts, const float *steps, int8_t *dst,
                      size_t n);
/* trunc((y - start) / step), likewise. */
typedef void ef_to_u8(const float *y, const float *starts, const float *steps, uint8_t *dst,
                      size_t n);
/* Bit 7 - i % 8 of dst[i / 8] is y[i] > 0; the unused bits of the last byte are 0. */
typedef void ef_to_bits(const float *y, uint8_t *dst, size_t n);

/* ---- the functions ------------------------------------------------------ */
ef_f16_to_f32 ef_f16_to_f32_scalar, ef_f16_to_f32_avx2, ef_f16_to_f32_neon;
ef_bf16_to_f32 ef_bf16_to_f32_scalar, ef_bf16_to_f32_avx2, ef_bf16_to_f32_neon;
ef_f32_to_f64 ef_f32_to_f64_scalar, ef_f32_to_f64_avx2, ef_f32_to_f64_neon;
ef_f64_to_f32 ef_f64_to_f32_scalar, ef_f64_to_f32_avx2, ef_f64_to_f32_neon;
ef_f32_to_f16 ef_f32_to_f16_scalar, ef_f32_to_f16_avx2, ef_f32_to_f16_neon;
ef_f32_to_bf16 ef_f32_to_bf16_scalar, ef_f32_to_bf16_avx2, ef_f32_to_bf16_neon;
ef_centre_f32 ef_centre_f32_scalar, ef_centre_f32_avx2, ef_centre_f32_neon;
ef_centre_f64 ef_centre_f64_scalar, ef_centre_f64_avx2, ef_centre_f64_neon;
ef_dequantize_q4_0 ef_dequantize_q4_0_scalar, ef_dequantize_q4_0_avx2, ef_dequantize_q4_0_neon;
ef_dequantize_q8_0 ef_dequantize_q8_0_scalar, ef_dequantize_q8_0_avx2, ef_dequantize_q8_0_neon;
ef_dequantize_q4_k ef_dequantize_q4_k_scalar, ef_dequantize_q4_k_avx2, ef_dequantize_q4_k_neon;
ef_dequantize_q6_k ef_dequantize_q6_k_scalar, ef_dequantize_q6_k_avx2, ef_dequantize_q6_k_neon;
ef_gram_f32 ef_gram_f32_scalar, ef_gram_f32_avx2, ef_gram_f32_avx512, ef_gram_f32_neon;
ef_gram_f64 ef_gram_f64_scalar, ef_gram_f64_avx2, ef_gram_f64_avx512, ef_gram_f64_neon;
ef_peel_f32 ef_peel_f32_scalar, ef_peel_f32_avx2, ef_peel_f32_neon;
ef_panel_f32 ef_panel_f32_scalar, ef_panel_f32_avx2, ef_panel_f32_avx512;
ef_interleave_f32 ef_interleave_f32_scalar, ef_interleave_f32_avx2, ef_interleave_f32_avx512,
    ef_interleave_f32_neon;
ef_project_f32 ef_project_f32_scalar, ef_project_f32_avx2, ef_project_f32_avx512,
    ef_project_f32_neon;
ef_project_row_f32 ef_project_row_f32_scalar, ef_project_row_f32_avx2, ef_project_row_f32_avx512,
    ef_project_row_f32_neon;
ef_dot_f32 ef_dot_f32_scalar, ef_dot_f32_avx2, ef_dot_f32_neon;
ef_interleave_i16 ef_interleave_i16_scalar, ef_interleave_i16_avx2, ef_interleave_i16_avx512,
    ef_interleave_i16_neon;
ef_multiply_i16 ef_multiply_i16_scalar, ef_multiply_i16_avx2, ef_multiply_i16_avx512,
    ef_multiply_i16_neon;
ef_reach_i32 ef_reach_i32_scalar, ef_reach_i32_avx2, ef_reach_i32_avx512, ef_reach_i32_neon;
ef_squares_f32 ef_squares_f32_scalar, ef_squares_f32_avx2, ef_squares_f32_neon;
ef_abs_max_f32 ef_abs_max_f32_scalar, ef_abs_max_f32_avx2, ef_abs_max_f32_neon;
ef_scale_f32 ef_scale_f32_scalar, ef_scale_f32_avx2, ef_scale_f32_neon;
ef_to_i8 ef_to_i8_scalar, ef_to_i8_avx2, ef_to_i8_neon;
ef_to_u8 ef_to_u8_scalar, ef_to_u8_avx2, ef_to_u8_neon;
ef_to_bits ef_to_bits_scalar, ef_to_bits_avx2, ef_to_bits_neon;

/* ---- the table of an instruction set: what is in it is in tables.c ------- */
typedef struct ef_kernels {
    const char *isa;
    ef_tile product; /* of gram_*, panel_f32, interleave_f32 and project_* */
    ef_tile lens;    /* of interleave_i16, multiply_i16 and reach_i32 */
    ef_f16_to_f32 *f16_to_f32;
    ef_bf16_to_f32 *bf16_to_f32;
    ef_f32_to_f64 *f32_to_f64;
    ef_f64_to_f32 *f64_to_f32;
    ef_f32_to_f16 *f32_to_f16;
    ef_f32_to_bf16 *f32_to_bf16;
    ef_centre_f32 *centre_f32;
    ef_centre_f64 *centre_f64;
    ef_dequantize_q4_0 *dequantize_q4_0;
    ef_dequantize_q8_0 *dequantize_q8_0;
    ef_dequantize_q4_k *dequantize_q4_k;
    ef_dequantize_q6_k *dequantize_q6_k;
    ef_gram_f32 *gram_f32;
    ef_gram_f64 *gram_f64;
    ef_peel_f32 *peel_f32;
    ef_panel_f32 *panel_f32;
    ef_interleave_f32 *interleave_f32;
    ef_project_f32 *project_f32;
    ef_project_row_f32 *project_row_f32;
    ef_dot_f32 *dot_f32;
    ef_interleave_i16 *interleave_i16;
    ef_multiply_i16 *multiply_i16;
    ef_reach_i32 *reach_i32;
    ef_squares_f32 *squares_f32;
    ef_abs_max_f32 *abs_max_f32;
    ef_scale_f32 *scale_f32;
    ef_to_i8 *to_i8;
    ef_to_u8 *to_u8;
    ef_to_bits *to_bits;
} ef_kernels;

extern const ef_kernels ef_kernels_scalar;

/* Puts an instruction set's own entries into a copy of the table that it builds on. */
typedef void ef_lay(ef_kernels *table);
ef_lay ef_lay_avx2, ef_lay_avx512; /* x86-64 only */
ef_lay ef_lay_neon;                /* aarch64 only */

/* The table in use (cpu.c). */
const ef_kernels *ef_active_kernels(void);

#endif
