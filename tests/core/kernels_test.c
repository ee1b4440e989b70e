/* Every kernel of each instruction set of this machine against the scalar one, without Python:
 * so NEON is tested under an emulator. Prints what it compared; exits with 1 at a difference.
 *
 * All kernels must agree to the bit, except gram_f64, whose order of summation is free. */
#include "core/embedfilter.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <malloc.h>
#include <windows.h>
#define free _aligned_free /* all memory here is of new_memory() */
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

enum { LARGEST = 300 };
static const size_t SIZES[] = {0,  1,  2,  3,  4,  5,  7,  8,  9,  11, 12, 13,  15,  16,  17,  23,
                               24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256};
enum { N_SIZES = sizeof SIZES / sizeof *SIZES };

static const ef_kernels *best; /* the set under test */
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

/* Bytes on a cache line's edge. */
static void *new_memory(size_t bytes) {
    void *memory = NULL;
#ifdef _WIN32
    memory = _aligned_malloc(bytes, 64);
#else
    if (posix_memalign(&memory, 64, bytes) != 0)
        memory = NULL;
#endif
    if (memory == NULL)
        exit(2);
    return memory;
}

static float *floats(size_t n) {
    float *values = new_memory((n + 1) * sizeof *values);
    for (size_t i = 0; i < n; i++)
        values[i] = random_float();
    return values;
}

/* A float32 halfway between two numbers of fewer bits, which random ones hardly ever are: in bit
 * 12 for float16, in bit 15 for bfloat16. */
static uint32_t tie(uint32_t bits, int bit) {
    if (bit == 12) /* an exponent that float16 has, subnormal numbers included */
        bits = (bits & 0x807fffffu) | (103 + (bits >> 23 & 31)) << 23;
    return (bits >> bit | 1u) << bit;
}

/* Any bit patterns: subnormal numbers, infinity, NaN and ties among them. */
static void test_convert(size_t n) {
    uint16_t halves[LARGEST] = {0}, a16[LARGEST], b16[LARGEST];
    float wide[LARGEST] = {0}, a32[LARGEST], b32[LARGEST];
    double doubles[LARGEST] = {0}, a64[LARGEST], b64[LARGEST];
    for (size_t i = 0; i < n; i++) {
        const uint64_t bits = random_bits();
        halves[i] = (uint16_t)bits;
        uint32_t low = (uint32_t)(bits >> 16);
        if (bits % 4 < 2)
            low = tie(low, bits % 4 == 0 ? 12 : 15);
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
    float mean[LARGEST] = {0};
    for (size_t i = 0; i < n; i++)
        mean[i] = random_float();
    best->centre_f64(doubles, mean, a32, n);
    oracle->centre_f64(doubles, mean, b32, n);
    same("centre_f64", n, a32, b32, n * sizeof *a32);
    for (size_t i = 0; i < n; i++)
        wide[i] = random_float();
    best->centre_f32(wide, mean, a32, n);
    oracle->centre_f32(wide, mean, b32, n);
    same("centre_f32", n, a32, b32, n * sizeof *a32);
    best->f32_to_f64(wide, a64, n);
    oracle->f32_to_f64(wide, b64, n);
    same("f32_to_f64", n, a64, b64, n * sizeof *a64);
}

/* The end of n bytes after which memory ends: reading on is a fault. Never freed. */
static uint8_t *end_of_memory(size_t n) {
#ifdef _WIN32
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    const size_t page = system.dwPageSize, room = (n + page - 1) / page * page;
    DWORD before;
    uint8_t *memory = VirtualAlloc(NULL, room + page, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    if (memory == NULL || !VirtualProtect(memory + room, page, PAGE_NOACCESS, &before))
        exit(2);
#else
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (n + page - 1) / page * page;
    uint8_t *memory =
        mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
        exit(2);
#endif
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
    const ef_tile shape = best->product;
    const size_t n_sums = shape.columns * shape.columns;
    float *a = floats(n * shape.columns), *b = floats(n * shape.columns);
    double x[EF_WIDE_COLUMNS * EF_WIDE_COLUMNS], y[EF_WIDE_COLUMNS * EF_WIDE_COLUMNS];
    for (size_t i = 0; i < n_sums; i++)
        x[i] = y[i] = (double)random_float();
    best->gram_f32(shape, a, b, n, x, b);
    oracle->gram_f32(shape, a, b, n, y, b);
    same("gram_f32", n, x, y, n_sums * sizeof *x);

    double *wide_a = new_memory((n + 1) * shape.columns * sizeof(double));
    double *wide_b = new_memory((n + 1) * shape.columns * sizeof(double));
    double scale = 0.0;
    for (size_t i = 0; i < n * shape.columns; i++) {
        wide_a[i] = (double)a[i];
        wide_b[i] = (double)b[i];
        scale += fabs(wide_a[i]) + fabs(wide_b[i]);
    }
    best->gram_f64(shape, wide_a, wide_b, n, x);
    oracle->gram_f64(shape, wide_a, wide_b, n, y);
    n_compared++;
    for (size_t i = 0; i < n_sums; i++) {
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
    const ef_tile shape = best->product;
    const size_t stride = shape.columns + n % 7, size = n * shape.columns;
    float *src = floats((n + 1) * stride), *a = floats(size), *b = floats(size);
    best->panel_f32(shape, src, stride, n, a);
    oracle->panel_f32(shape, src, stride, n, b);
    same("panel_f32", n, a, b, size * sizeof *a);
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
    const ef_tile shape = best->product;
    const size_t stride = shape.columns + 5, n_sums = shape.rows * stride;
    float *x = floats(n * shape.rows), *panels = floats(2 * n * shape.columns);
    float *a = floats(n_sums), *b = floats(n_sums);
    for (int first = 1; first >= 0; first--) {
        memcpy(b, a, n_sums * sizeof *a);
        best->project_f32(shape, x, panels, n, a, stride, first, x);
        oracle->project_f32(shape, x, panels, n, b, stride, first, x);
        same("project_f32", n, a, b, n_sums * sizeof *a);
        memcpy(b, a, 2 * shape.columns * sizeof *a);
        best->project_row_f32(shape, x, panels, n, a, first);
        oracle->project_row_f32(shape, x, panels, n, b, first);
        same("project_row_f32", n, a, b, 2 * shape.columns * sizeof *a);
    }
    const float *rows[EF_WIDE_ROWS];
    for (size_t r = 0; r < shape.rows; r++)
        rows[r] = panels + r * n;
    float *y = floats(n * shape.rows);
    best->interleave_f32(shape, rows, n, x);
    oracle->interleave_f32(shape, rows, n, y);
    same("interleave_f32", n, x, y, n * shape.rows * sizeof *x);
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
    const ef_tile shape = best->lens;
    float *a = floats(n + EF_WIDE_ROWS), *b = floats(n + EF_WIDE_ROWS);
    const float dots[2] = {best->dot_f32(a, b, n), oracle->dot_f32(a, b, n)};
    same("dot_f32", n, &dots[0], &dots[1], sizeof(float));

    /* The rows end where the next begin, the steps leave gaps: both must stay as they were. */
    const size_t step = 2 * shape.rows + 6;
    const float *const rows[EF_WIDE_ROWS] = {a, a + 1, b, b + 2, b + 3, a + 2, a + 3, b + 4};
    const float factors[EF_WIDE_ROWS] = {29.0f, 1.7f, 0.0f, 0.003f, 3.1f, 0.9f, 7.0f, 11.0f};
    const size_t bytes = (n + 1) * step * sizeof(int16_t);
    int16_t *x = new_memory(bytes), *y = new_memory(bytes);
    memset(x, 0, bytes);
    memset(y, 0, bytes);
    best->interleave_i16(shape, rows, factors, n, x, step);
    oracle->interleave_i16(shape, rows, factors, n, y, step);
    same("interleave_i16", n, x, y, bytes);
    free(x), free(y);

    /* Magnitudes as of rows of length 32700: no sum leaves int32. */
    int16_t *tile = (int16_t *)floats(n * shape.rows);
    int16_t *panel = (int16_t *)floats(n * shape.columns);
    for (size_t i = 0; i < n * shape.rows * 2; i++)
        tile[i] = (int16_t)(random_bits() % 2801) - 1400;
    for (size_t i = 0; i < n * shape.columns * 2; i++)
        panel[i] = (int16_t)(random_bits() % 2801) - 1400;
    int32_t sums[2][EF_WIDE_ROWS * EF_WIDE_COLUMNS] = {{1, -2, 3}, {1, -2, 3}};
    for (int first = 0; first < 2; first++) {
        best->multiply_i16(shape, tile, panel, n, sums[0], first);
        oracle->multiply_i16(shape, tile, panel, n, sums[1], first);
        same("multiply_i16", n, sums[0], sums[1], sizeof sums[0]);
    }
    free(tile), free(panel);

    const size_t n_rows = n < shape.rows ? n : shape.rows;
    float least[EF_WIDE_COLUMNS];
    for (size_t c = 0; c < shape.columns; c++)
        least[c] = 0.1f * (float)sums[0][n % shape.rows * shape.columns + c];
    least[n % shape.columns] = n % 2 ? INFINITY : -INFINITY;
    const float scales[EF_WIDE_ROWS] = {0.1f, 0.1f, 0.0f, 0.2f, 0.1f, 0.1f, 0.3f, 0.1f};
    const float margins[EF_WIDE_ROWS] = {0.0f, 1.5f, INFINITY, -3e5f, 0.1f, 0.0f, 0.0f, 2.0f};
    uint32_t masks[2][EF_WIDE_ROWS] = {{7, 7, 7, 7}, {7, 7, 7, 7}};
    best->reach_i32(shape, sums[0], scales, margins, least, n_rows, masks[0]);
    oracle->reach_i32(shape, sums[0], scales, margins, least, n_rows, masks[1]);
    same("reach_i32", n, masks[0], masks[1], sizeof masks[0]);
    free(a), free(b);
}

/* Compares the set in use with the oracle. */
static void test_set(void) {
    best = ef_active_kernels();
    n_compared = n_different = 0;
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
}

int main(void) {
    size_t n_sets = 0, n_failed = 0;
    for (size_t i = 0; i < ef_isa_count(); i++) {
        const char *name = ef_isa_name(i);
        if (strcmp(name, "scalar") == 0)
            continue;
        if (ef_set_isa(name) != EF_OK)
            return 2;
        test_set();
        n_sets++;
        n_failed += n_different > 0;
    }
    if (n_sets == 0)
        printf("this machine has nothing but the scalar kernels: nothing to compare\n");
    return n_sets == 0 || n_failed > 0;
}
