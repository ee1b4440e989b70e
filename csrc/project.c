/* The projection of embeddings on a filter's components, a block of rows at a time: widen
 * the rows, multiply them panel by panel, then give each row its final form (quantize.c)
 * while it is in the cache. */
#include "embedfilter.h"
#include "kernels/kernels.h"
#include "quantize.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL = EF_FILTER_PANEL,
    BLOCK_ROWS = 64,      /* rows that share one pass over the filter */
    THREAD_WORK = 1 << 21 /* multiply-adds that are worth a thread */
};

struct ef_filter {
    size_t k, d, n_panels;
    float *panels; /* (n_panels, d, PANEL): panel p holds components p * PANEL ... as columns */
};

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

ef_status ef_filter_new(const float *components, size_t k, size_t d, ef_filter **filter,
                        ef_detail *detail) {
    const size_t n_panels = k / PANEL + (k % PANEL != 0);
    if (d > SIZE_MAX / sizeof(float) / PANEL / (n_panels + 1))
        return EF_TOO_LARGE;
    const size_t bytes = n_panels * d * PANEL * sizeof(float);
    ef_filter *new = malloc(sizeof *new);
    void *panels = NULL;
    if (new == NULL || posix_memalign(&panels, 64, bytes) != 0) {
        free(new);
        detail->count = bytes;
        return EF_NO_MEMORY;
    }
    *new = (ef_filter){.k = k, .d = d, .n_panels = n_panels, .panels = panels};
    memset(panels, 0, bytes);
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < d; j++)
            new->panels[(i / PANEL * d + j) * PANEL + i % PANEL] = components[i * d + j];
    *filter = new;
    return EF_OK;
}

void ef_filter_free(ef_filter *filter) {
    if (filter != NULL)
        free(filter->panels);
    free(filter);
}

typedef struct job {
    const ef_kernels *kernels;
    const ef_filter *filter;
    ef_matrix x; /* (n, d) */
    ef_output form;
    unsigned char *out; /* (n, row_bytes) */
    size_t row_bytes;
    size_t block_rows;
    float *scratch; /* (n_slots, block_rows, d + padded k) */
    atomic_size_t next_row;
    atomic_size_t bad_row; /* the first row that failed, n while there is none */
} job;

static const unsigned char *row_of(ef_matrix x, size_t row) {
    return x.data + (ptrdiff_t)row * x.stride_bytes;
}

static void widen_row(const ef_kernels *kernels, ef_matrix x, size_t row, float *dst) {
    const unsigned char *source = row_of(x, row);
    switch (x.dtype) {
    case EF_F64:
        kernels->f64_to_f32((const double *)source, dst, x.n_cols);
        break;
    case EF_F32:
        memcpy(dst, source, x.n_cols * sizeof(float));
        break;
    case EF_F16:
        kernels->f16_to_f32((const uint16_t *)source, dst, x.n_cols);
        break;
    case EF_BF16:
        kernels->bf16_to_f32((const uint16_t *)source, dst, x.n_cols);
        break;
    }
}

/* y (n, padded k) = x (n, d) times the filter's panels. */
static void multiply(const job *j, const float *x, size_t n, float *y) {
    const ef_filter *f = j->filter;
    const size_t d = f->d, padded = f->n_panels * PANEL;
    for (size_t first = 0; first < d; first += EF_RUN) {
        const size_t depth = least(EF_RUN, d - first);
        for (size_t p = 0; p < f->n_panels; p++) {
            const float *panel = f->panels + (p * d + first) * PANEL;
            for (size_t r = 0; r < n; r += EF_TILE_ROWS)
                j->kernels->project_f32(x + r * d + first, d, least(EF_TILE_ROWS, n - r), panel,
                                        depth, y + r * padded + p * PANEL, padded, first == 0);
        }
    }
}

static void note_bad_row(job *j, size_t row) {
    size_t known = atomic_load(&j->bad_row);
    while (row < known && !atomic_compare_exchange_weak(&j->bad_row, &known, row)) {
    }
}

/* Takes blocks of rows until there are no more. `slot` numbers the scratch memory. */
static void project_task(void *context, size_t slot) {
    job *j = context;
    const size_t d = j->filter->d, padded = j->filter->n_panels * PANEL, n = j->x.n_rows;
    float *x = j->scratch + slot * j->block_rows * (d + padded); /* (block_rows, d) */
    float *y = x + j->block_rows * d;                            /* (block_rows, padded k) */
    for (;;) {
        const size_t first = atomic_fetch_add(&j->next_row, j->block_rows);
        if (first >= n)
            return;
        const size_t n_rows = least(j->block_rows, n - first);
        for (size_t r = 0; r < n_rows; r++)
            widen_row(j->kernels, j->x, first + r, x + r * d);
        multiply(j, x, n_rows, y);
        for (size_t r = 0; r < n_rows; r++) {
            unsigned char *out = j->out + (first + r) * j->row_bytes;
            if (!ef_finish_row(j->kernels, &j->form, y + r * padded, j->filter->k, out))
                note_bad_row(j, first + r);
        }
    }
}

/* True if the row, in its own type, is finite. */
static bool row_finite(const ef_kernels *kernels, ef_matrix x, size_t row, float *scratch) {
    if (x.dtype == EF_F64) {
        for (size_t i = 0; i < x.n_cols; i++)
            if (!isfinite(((const double *)row_of(x, row))[i]))
                return false;
        return true;
    }
    widen_row(kernels, x, row, scratch);
    for (size_t i = 0; i < x.n_cols; i++)
        if (!isfinite(scratch[i]))
            return false;
    return true;
}

ef_status ef_project(const ef_filter *filter, ef_matrix x, ef_output form, void *out,
                     size_t n_threads, ef_detail *detail) {
    const size_t n = x.n_rows, d = filter->d, padded = filter->n_panels * PANEL;
    if (n == 0)
        return EF_OK;
    const double work = (double)n * (double)d * (double)filter->k;
    if (work / THREAD_WORK < (double)n_threads)
        n_threads = (size_t)(work / THREAD_WORK) + 1;
    size_t share = (n + n_threads - 1) / n_threads;
    share = (share + EF_TILE_ROWS - 1) / EF_TILE_ROWS * EF_TILE_ROWS;
    job j = {.kernels = ef_active_kernels(),
             .filter = filter,
             .x = x,
             .form = form,
             .out = out,
             .row_bytes = ef_output_row_bytes(form.precision, filter->k),
             .block_rows = least(share, BLOCK_ROWS)};
    atomic_init(&j.next_row, 0);
    atomic_init(&j.bad_row, n);
    const size_t bytes = n_threads * j.block_rows * (d + padded) * sizeof(float);
    j.scratch = malloc(bytes);
    if (j.scratch == NULL) {
        detail->count = bytes;
        return EF_NO_MEMORY;
    }
    ef_parallel_for(n_threads, n_threads, project_task, &j);
    ef_status status = EF_OK;
    detail->row = atomic_load(&j.bad_row);
    if (detail->row < n)
        status = row_finite(j.kernels, x, detail->row, j.scratch) ? EF_OVERFLOW : EF_NOT_FINITE;
    free(j.scratch);
    return status;
}
