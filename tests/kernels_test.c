/* Every kernel of this machine's best instruction set against the scalar one, without Python:
 * so NEON is tested under an emulator. Prints what it compared; exits with 1 at a difference.
 *
 * All kernels must agree to the bit, except gram_f64, whose order of summation is free. */
#include "embedfilter.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGEST = 300 };
static const size_t SIZES[] = {0,  1,  2,  3,  4,  5,  7,  8,  9,  11, 12, 13,  15,  16,  17,  23,
                               24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256};
enum { N_SIZES = sizeof SIZES / sizeof *SIZES };

static const ef_kernels *best;
static const ef_kernels *const oracle = &ef_kernels_scalar;
static size_t n_compared, n_different;

static uint64_t state = 88172645463325252ull;

static uint64_t random_bits(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Of magnitudes from 1e-3 to 1e3, both signs. */
static float random_float(void) {
    const float unit = (float)(random_bits() >> 40) * 0x1p-24f;
    return (random_bits() & 1 ? 1.0f : -1.0f) * expf(14.0f * unit - 7.0f);
}

static void same(const char *kernel, size_t n, const void *a, const void *b, size_t bytes) {
    n_compared++;
    if (memcmp(a, b, bytes) != 0) {
        n_different++;
        printf("%s differs at n = %zu\n", kernel, n);
    }
}

static float *floats(size_t n) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, (n + 1) * sizeof(float)) != 0)
        exit(2);
    float *values = memory;
    for (size_t i = 0; i < n; i++)
        values[i] = random_float();
    return values;
}

/* Any bit patterns: subnormal numbers, infinity and NaN among them. */
static void test_convert(size_t n) {
    uint16_t halves[LARGEST] = {0}, a16[LARGEST], b16[LARGEST];
    float wide[LARGEST] = {0}, a32[LARGEST], b32[LARGEST];
    double doubles[LARGEST] = {0}, a64[LARGEST], b64[LARGEST];
    for (size_t i = 0; i < n; i++) {
        const uint64_t bits = random_bits();
        halves[i] = (uint16_t)bits;
        const uint32_t low = (uint32_t)(bits >> 16);
        memcpy(&wide[i], &low, sizeof low);
        doubles[i] = (double)random_float() * exp(40.0 * (double)(bits % 5) - 80.0);
    }
    best->f16_to_f32(halves, a32, n);
    oracle->f16_to_f32(halves, b32, n);
    same("f16_to_f32", n, a32, b32, n * sizeof *a32);
    best->bf16_to_f32(halves, a32, n);
    oracle->bf16_to_f32(halves, b32, n);
    same("bf16_to_f32", n, a32, b32, n * sizeof *a32);
    best->f32_to_f16(wide, a16, n);
    oracle->f32_to_f16(wide, b16, n);
    same("f32_to_f16", n, a16, b16, n * sizeof *a16);
    best->f32_to_bf16(wide, a16, n);
    oracle->f32_to_bf16(wide, b16, n);
    same("f32_to_bf16", n, a16, b16, n * sizeof *a16);
    best->f64_to_f32(doubles, a32, n);
    oracle->f64_to_f32(doubles, b32, n);
    same("f64_to_f32", n, a32, b32, n * sizeof *a32);
    for (size_t i = 0; i < n; i++)
        wide[i] = random_float();
    best->f32_to_f64(wide, a64, n);
    oracle->f32_to_f64(wide, b64, n);
    same("f32_to_f64", n, a64, b64, n * sizeof *a64);
}

/* The end of n bytes after which memory ends: reading on is a fault. Never freed. */
static uint8_t *end_of_memory(size_t n) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (n + page - 1) / page * page;
    uint8_t *memory =
        mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
        exit(2);
    return memory + room;
}

/* Any bytes: scales that are subnormal, infinity and NaN among them. */
static void test_dequantize(size_t n) {
    static float a[LARGEST * EF_SUPER_BLOCK], b[LARGEST * EF_SUPER_BLOCK];
    static uint8_t *end;
    if (end == NULL)
        end = end_of_memory(LARGEST * sizeof(ef_block_q6_k));
    for (size_t i = 1; i <= n * sizeof(ef_block_q6_k); i++)
        end[-(ptrdiff_t)i] = (uint8_t)random_bits();
    memset(a, 77, sizeof a);
    memset(b, 77, sizeof b);
    const ef_block_q4_0 *q4_0 = (const void *)(end - n * sizeof *q4_0);
    best->dequantize_q4_0(q4_0, a, n);
    oracle->dequantize_q4_0(q4_0, b, n);
    same("dequantize_q4_0", n, a, b, sizeof a);
    const ef_block_q8_0 *q8_0 = (const void *)(end - n * sizeof *q8_0);
    best->dequantize_q8_0(q8_0, a, n);
    oracle->dequantize_q8_0(q8_0, b, n);
    same("dequantize_q8_0", n, a, b, sizeof a);
    const ef_block_q4_k *q4_k = (const void *)(end - n * sizeof *q4_k);
    best->dequantize_q4_k(q4_k, a, n);
    oracle->dequantize_q4_k(q4_k, b, n);
    same("dequantize_q4_k", n, a, b, sizeof a);
    const ef_block_q6_k *q6_k = (const void *)(end - n * sizeof *q6_k);
    best->dequantize_q6_k(q6_k, a, n);
    oracle->dequantize_q6_k(q6_k, b, n);
    same("dequantize_q6_k", n, a, b, sizeof a);
}

static void test_gram(size_t n) {
    enum { TILE = EF_PANEL * EF_PANEL };
    float *a = floats(n * EF_PANEL), *b = floats(n * EF_PANEL);
    double x[TILE], y[TILE];
    for (size_t i = 0; i < TILE; i++)
        x[i] = y[i] = (double)random_float();
    best->gram_f32(a, b, n, x, b);
    oracle->gram_f32(a, b, n, y, b);
    same("gram_f32", n, x, y, sizeof x);

    double *wide_a = malloc((n + 1) * EF_PANEL * sizeof(double));
    double *wide_b = malloc((n + 1) * EF_PANEL * sizeof(double));
    if (wide_a == NULL || wide_b == NULL)
        exit(2);
    double scale = 0.0;
    for (size_t i = 0; i < n * EF_PANEL; i++) {
        wide_a[i] = (double)a[i];
        wide_b[i] = (double)b[i];
        scale += fabs(wide_a[i]) + fabs(wide_b[i]);
    }
    best->gram_f64(wide_a, wide_b, n, x);
    oracle->gram_f64(wide_a, wide_b, n, y);
    n_compared++;
    for (size_t i = 0; i < TILE; i++) {
        if (!(fabs(x[i] - y[i]) <= 1e-15 * scale * scale)) {
            n_different++;
            printf("gram_f64 differs at n = %zu\n", n);
            break;
        }
    }
    free(a), free(b), free(wide_a), free(wide_b);
}

static void test_panel(size_t n) {
    if (best->panel_f32 == oracle->panel_f32)
        return;
    const size_t stride = EF_PANEL + n % 7;
    float *src = floats((n + 1) * stride), *a = floats(n * EF_PANEL), *b = floats(n * EF_PANEL);
    best->panel_f32(src, stride, n, a);
    oracle->panel_f32(src, stride, n, b);
    same("panel_f32", n, a, b, n * EF_PANEL * sizeof *a);
    free(src), free(a), free(b);
}

static void test_peel(size_t n) {
    for (size_t p = 1; p <= EF_MAX_PEEL; p++) {
        float *row = floats(n), *basis = floats(n * p), *copy = floats(n);
        float a[EF_MAX_PEEL] = {0}, b[EF_MAX_PEEL] = {0};
        memcpy(copy, row, n * sizeof *row);
        best->peel_f32(row, n, basis, p, a);
        oracle->peel_f32(copy, n, basis, p, b);
        same("peel_f32 (parts)", n, a, b, sizeof a);
        same("peel_f32 (rest)", n, row, copy, n * sizeof *row);
        free(row), free(basis), free(copy);
    }
}

static void test_project(size_t n) {
    enum { STRIDE = EF_PANEL + 5 };
    float *x = floats(n * EF_TILE), *panels = floats(2 * n * EF_PANEL);
    float *a = floats(EF_TILE * STRIDE), *b = floats(EF_TILE * STRIDE);
    for (int first = 1; first >= 0; first--) {
        memcpy(b, a, EF_TILE * STRIDE * sizeof *a);
        best->project_f32(x, panels, n, a, STRIDE, first);
        oracle->project_f32(x, panels, n, b, STRIDE, first);
        same("project_f32", n, a, b, EF_TILE * STRIDE * sizeof *a);
        memcpy(b, a, 2 * EF_PANEL * sizeof *a);
        best->project_row_f32(x, panels, n, a, first);
        oracle->project_row_f32(x, panels, n, b, first);
        same("project_row_f32", n, a, b, 2 * EF_PANEL * sizeof *a);
    }
    const float *const rows[EF_TILE] = {panels, panels + n, panels + 2 * n, panels + 3 * n};
    float *y = floats(n * EF_TILE);
    best->interleave_f32(rows, n, x);
    oracle->interleave_f32(rows, n, y);
    same("interleave_f32", n, x, y, n * EF_TILE * sizeof *x);
    free(x), free(panels), free(a), free(b), free(y);
}

static void test_quantize(size_t n) {
    float *y = floats(n), *starts = floats(n), *steps = floats(n), a[LARGEST], b[LARGEST];
    for (size_t i = 0; i < n; i += 5)
        y[i] = 0.0f;
    const double squares[2] = {best->squares_f32(y, n), oracle->squares_f32(y, n)};
    same("squares_f32", n, &squares[0], &squares[1], sizeof(double));
    const float largest[2] = {best->abs_max_f32(y, n), oracle->abs_max_f32(y, n)};
    same("abs_max_f32", n, &largest[0], &largest[1], sizeof(float));
    best->scale_f32(y, 0.123456789, a, n);
    oracle->scale_f32(y, 0.123456789, b, n);
    same("scale_f32", n, a, b, n * sizeof *a);
    for (size_t i = 0; i < n; i++)
        steps[i] = fabsf(steps[i]);
    int8_t i8[2][LARGEST];
    uint8_t u8[2][LARGEST];
    best->to_i8(y, starts, steps, i8[0], n);
    oracle->to_i8(y, starts, steps, i8[1], n);
    same("to_i8", n, i8[0], i8[1], n);
    best->to_u8(y, starts, steps, u8[0], n);
    oracle->to_u8(y, starts, steps, u8[1], n);
    same("to_u8", n, u8[0], u8[1], n);
    best->to_bits(y, u8[0], n);
    oracle->to_bits(y, u8[1], n);
    same("to_bits", n, u8[0], u8[1], (n + 7) / 8);
    free(y), free(starts), free(steps);
}

static void test_lens(size_t n) {
    float *a = floats(n + 4), *b = floats(n + 4);
    const float dots[2] = {best->dot_f32(a, b, n), oracle->dot_f32(a, b, n)};
    same("dot_f32", n, &dots[0], &dots[1], sizeof(float));

    /* The rows end where the next begin, the steps leave gaps: both must stay as they were. */
    enum { STEP = 2 * EF_TILE + 6 };
    const float *const rows[EF_TILE] = {a, a + 1, b, b + 2};
    const float factors[EF_TILE] = {29.0f, 1.7f, 0.0f, 0.003f};
    int16_t *x = calloc(n + 1, STEP * sizeof *x), *y = calloc(n + 1, STEP * sizeof *y);
    if (x == NULL || y == NULL)
        exit(2);
    best->interleave_i16(rows, factors, n, x, STEP);
    oracle->interleave_i16(rows, factors, n, y, STEP);
    same("interleave_i16", n, x, y, (n + 1) * STEP * sizeof *x);
    free(x), free(y);

    /* Magnitudes as of rows of length 32700: no sum leaves int32. */
    enum { SUMS = EF_TILE * EF_COLUMNS };
    int16_t *tile = (int16_t *)floats(n * EF_TILE), *panel = (int16_t *)floats(n * EF_COLUMNS);
    for (size_t i = 0; i < n * EF_TILE * 2; i++)
        tile[i] = (int16_t)(random_bits() % 2801) - 1400;
    for (size_t i = 0; i < n * EF_COLUMNS * 2; i++)
        panel[i] = (int16_t)(random_bits() % 2801) - 1400;
    int32_t sums[2][SUMS] = {{1, -2, 3}, {1, -2, 3}};
    for (int first = 0; first < 2; first++) {
        best->multiply_i16(tile, panel, n, sums[0], first);
        oracle->multiply_i16(tile, panel, n, sums[1], first);
        same("multiply_i16", n, sums[0], sums[1], sizeof sums[0]);
    }
    free(tile), free(panel);

    const size_t n_rows = n < EF_TILE ? n : EF_TILE;
    float least[EF_COLUMNS];
    for (size_t c = 0; c < EF_COLUMNS; c++)
        least[c] = 0.1f * (float)sums[0][n % EF_TILE * EF_COLUMNS + c];
    least[n % EF_COLUMNS] = n % 2 ? INFINITY : -INFINITY;
    const float scales[EF_TILE] = {0.1f, 0.1f, 0.0f, 0.2f};
    const float margins[EF_TILE] = {0.0f, 1.5f, INFINITY, -3e5f};
    uint32_t masks[2][EF_TILE] = {{7, 7, 7, 7}, {7, 7, 7, 7}};
    best->reach_i32(sums[0], scales, margins, least, n_rows, masks[0]);
    oracle->reach_i32(sums[0], scales, margins, least, n_rows, masks[1]);
    same("reach_i32", n, masks[0], masks[1], sizeof masks[0]);
    free(a), free(b);
}

int main(void) {
    best = ef_active_kernels();
    if (best == oracle) {
        printf("this machine has nothing but the scalar kernels: nothing to compare\n");
        return 1;
    }
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < N_SIZES; i++) {
            test_convert(SIZES[i]);
            test_dequantize(SIZES[i]);
            test_gram(SIZES[i]);
            test_panel(SIZES[i]);
            test_peel(SIZES[i]);
            test_project(SIZES[i]);
            test_lens(SIZES[i]);
            test_quantize(SIZES[i]);
        }
    }
    printf("%s against scalar: %zu comparisons, %zu different\n", best->isa, n_compared,
           n_different);
    return n_different > 0;
}
