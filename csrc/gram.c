/* The Gram matrix of a block of rows: gram += W^T W.
 *
 * A chunk of rows is widened and laid out as panels of EF_GRAM_PANEL columns, which serve
 * as both operands; the kernel multiplies two panels into one tile. Threads share the rows
 * while packing and the pairs of panel groups while multiplying; each element is always
 * summed by one thread in order of the rows. */
#include "embedfilter.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL = EF_GRAM_PANEL,
    DEPTH = 128,          /* rows multiplied at a time: two panels of them fit the L1 cache */
    GROUP = 8,            /* panels on each side of a task: its operands fit the L2 cache */
    PACK_ROWS = 32,       /* rows of a packing task */
    CHUNK_BYTES = 1 << 24 /* panels of one chunk, about */
};

typedef struct chunk {
    const ef_kernels *kernels;
    ef_matrix w; /* the rows of this chunk */
    size_t n_panels;
    double *panels; /* (n_panels, w.n_rows, PANEL) */
    double *rows;   /* (n_packing_tasks, 2, padded d): one row being packed by each task */
    atomic_bool finite;
    double *gram; /* (d, d) */
} chunk;

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Widens one row into `row` (n_panels * PANEL), padded with zeros. `row` is followed by
 * room for as many again. */
static void widen_row(const chunk *c, const unsigned char *source, double *row) {
    const size_t d = c->w.n_cols, padded = c->n_panels * PANEL;
    float *narrow = (float *)(row + padded);
    switch (c->w.dtype) {
    case EF_F64:
        memcpy(row, source, d * sizeof(double));
        break;
    case EF_F32:
        c->kernels->f32_to_f64((const float *)source, row, d);
        break;
    case EF_F16:
        c->kernels->f16_to_f32((const uint16_t *)source, narrow, d);
        c->kernels->f32_to_f64(narrow, row, d);
        break;
    case EF_BF16:
        c->kernels->bf16_to_f32((const uint16_t *)source, narrow, d);
        c->kernels->f32_to_f64(narrow, row, d);
        break;
    }
    memset(row + d, 0, (padded - d) * sizeof(double));
}

/* True if all n values are finite: infinity and NaN times zero are NaN. */
static bool all_finite(const double *values, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += values[i] * 0.0;
    return sum == 0.0;
}

static void pack_task(void *context, size_t index) {
    chunk *c = context;
    const size_t n = c->w.n_rows, padded = c->n_panels * PANEL;
    double *row = c->rows + index * 2 * padded;
    for (size_t r = index * PACK_ROWS; r < least(n, (index + 1) * PACK_ROWS); r++) {
        widen_row(c, c->w.data + (ptrdiff_t)r * c->w.stride_bytes, row);
        if (!all_finite(row, padded))
            atomic_store(&c->finite, false);
        for (size_t p = 0; p < c->n_panels; p++)
            memcpy(c->panels + (p * n + r) * PANEL, row + p * PANEL, PANEL * sizeof(double));
    }
}

/* Adds the product of panels i and j over all rows of the chunk to the matrix, whose edge
 * may cut the tile. */
static void multiply_panels(const chunk *c, size_t i, size_t j, size_t first, size_t n) {
    const size_t d = c->w.n_cols, rows = c->w.n_rows;
    const double *a = c->panels + (i * rows + first) * PANEL; /* (n, PANEL) */
    const double *b = c->panels + (j * rows + first) * PANEL; /* (n, PANEL) */
    double *tile = c->gram + i * PANEL * d + j * PANEL;
    const size_t height = least(PANEL, d - i * PANEL), width = least(PANEL, d - j * PANEL);
    if (height == PANEL && width == PANEL) {
        c->kernels->gram_f64(a, b, n, tile, d);
        return;
    }
    double edge[PANEL * PANEL] = {0};
    for (size_t r = 0; r < height; r++)
        memcpy(edge + r * PANEL, tile + r * d, width * sizeof(double));
    c->kernels->gram_f64(a, b, n, edge, PANEL);
    for (size_t r = 0; r < height; r++)
        memcpy(tile + r * d, edge + r * PANEL, width * sizeof(double));
}

/* One pair (I <= J) of panel groups; pairs are numbered column by column. */
static void multiply_task(void *context, size_t index) {
    const chunk *c = context;
    size_t J = 0;
    while ((J + 1) * (J + 2) / 2 <= index)
        J++;
    const size_t I = index - J * (J + 1) / 2;
    const size_t i_end = least(c->n_panels, (I + 1) * GROUP);
    const size_t j_end = least(c->n_panels, (J + 1) * GROUP);
    for (size_t first = 0; first < c->w.n_rows; first += DEPTH) {
        const size_t n = least(DEPTH, c->w.n_rows - first);
        for (size_t j = J * GROUP; j < j_end; j++)
            for (size_t i = I * GROUP; i < i_end && i <= j; i++)
                multiply_panels(c, i, j, first, n);
    }
}

/* Finds the rows that are not finite, once it is known that there are some. */
static void find_bad_rows(chunk *c, ef_matrix w, ef_detail *detail) {
    detail->count = 0;
    for (size_t r = 0; r < w.n_rows; r++) {
        widen_row(c, w.data + (ptrdiff_t)r * w.stride_bytes, c->rows);
        if (!all_finite(c->rows, c->n_panels * PANEL) && detail->count++ == 0)
            detail->row = r;
    }
}

ef_status ef_gram_add(double *gram, ef_matrix w, size_t n_threads, ef_detail *detail) {
    const size_t d = w.n_cols;
    if (d == 0 || w.n_rows == 0)
        return EF_OK;
    if (d > SIZE_MAX / 64 / DEPTH / sizeof(double) || w.n_rows > SIZE_MAX / 64)
        return EF_TOO_LARGE;
    chunk c = {.kernels = ef_active_kernels(), .n_panels = (d + PANEL - 1) / PANEL, .gram = gram};
    const size_t padded = c.n_panels * PANEL;
    size_t chunk_rows = CHUNK_BYTES / (padded * sizeof(double)) / DEPTH * DEPTH;
    chunk_rows = least(chunk_rows < DEPTH ? DEPTH : chunk_rows, w.n_rows);
    const size_t n_packing = (chunk_rows + PACK_ROWS - 1) / PACK_ROWS;
    const size_t bytes = (chunk_rows + 2 * n_packing) * padded * sizeof(double);
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes) != 0) {
        detail->count = bytes;
        return EF_NO_MEMORY;
    }
    c.panels = memory;
    c.rows = c.panels + chunk_rows * padded;
    atomic_init(&c.finite, true);

    const size_t n_groups = (c.n_panels + GROUP - 1) / GROUP;
    for (size_t first = 0; first < w.n_rows && atomic_load(&c.finite); first += chunk_rows) {
        c.w = w;
        c.w.data = w.data + (ptrdiff_t)first * w.stride_bytes;
        c.w.n_rows = least(chunk_rows, w.n_rows - first);
        ef_parallel_for(n_threads, (c.w.n_rows + PACK_ROWS - 1) / PACK_ROWS, pack_task, &c);
        if (atomic_load(&c.finite))
            ef_parallel_for(n_threads, n_groups * (n_groups + 1) / 2, multiply_task, &c);
    }
    const bool finite = atomic_load(&c.finite);
    if (!finite)
        find_bad_rows(&c, w, detail);
    free(memory);
    return finite ? EF_OK : EF_NOT_FINITE;
}
