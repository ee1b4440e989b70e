/* The projection of embeddings on a filter's components. Rows are widened and interleaved
 * four by four, multiplied run by run and panel by panel, and given their final form
 * (quantize.c) while they are in the cache.
 *
 * Threads share the rows where there are many, else the panels; every number is the same
 * chain of operations either way. */
#include "core/embedfilter.h"
#include "core/arithmetic.h"
#include "core/memory.h"
#include "core/quantize.h"
#include "core/rows.h"
#include "core/trials.h"

#include <stdatomic.h>
#include <string.h>

enum {
    BLOCK_ROWS = 96, /* rows that share one pass over the filter, a multiple of any tile's rows */
    /* Up to so many rows, threads share the panels; of a filter of more bytes than caches hold,
     * so that each panel is read from memory once, up to BLOCK_ROWS. */
    FEW_ROWS = 24,
    LARGE_BYTES = 1 << 23,
    /* Tasks for each thread, of panels, and of rows where the filter is not large: one that comes
     * late leaves more to the others. */
    PANEL_PIECES = 2,
    ROW_PIECES = 10,
    PIECE_ROWS = 16, /* at least */
};

struct ef_filter {
    const ef_kernels *kernels; /* those in use when it was made; its panels are for them */
    size_t k, d;
    size_t n_used;   /* panels that hold components */
    size_t n_panels; /* the same, made even: a single row takes two panels at a time */
    /* Runs of EF_RUN inputs, the last one shorter; in each run (n_panels, run, columns): column c
     * of panel p is component p * columns + c. */
    float *matrix;
    float *mean; /* (d), or NULL: taken off while rows are widened, so that nothing cancels */
};

/* Panel p of the run of n inputs that begins with input `first`. */
static float *panel_at(const ef_filter *filter, size_t first, size_t n, size_t p) {
    return filter->matrix + (first * filter->n_panels + n * p) * filter->kernels->product.columns;
}

/* Lays the components (k, d) out as panels, zeros beyond the last one. */
static void pack(const ef_filter *filter, const float *components) {
    const size_t d = filter->d, columns = filter->kernels->product.columns;
    memset(filter->matrix, 0, filter->n_panels * d * columns * sizeof(float));
    for (size_t first = 0; first < d; first += EF_RUN) {
        const size_t n = ef_least(EF_RUN, d - first);
        for (size_t c = 0; c < filter->k; c++) {
            float *column = panel_at(filter, first, n, c / columns) + c % columns;
            for (size_t i = 0; i < n; i++)
                column[i * columns] = components[c * d + first + i];
        }
    }
}

void ef_filter_free(ef_filter *filter) {
    if (filter == NULL)
        return;
    ef_free(filter->matrix);
    ef_free(filter->mean);
    ef_free(filter);
}

ef_status ef_filter_new(const float *components, const float *mean, size_t k, size_t d,
                        ef_filter **filter, ef_detail *detail) {
    const ef_kernels *kernels = ef_active_kernels();
    const size_t columns = kernels->product.columns, n_used = ef_ceil_div(k, columns);
    const size_t n_panels = ef_round_up(n_used, 2);
    /* A block of rows, too, is a fraction of this. */
    if (d > SIZE_MAX / (4 * BLOCK_ROWS * sizeof(float) * columns) / (n_panels + 1))
        return EF_TOO_LARGE;
    ef_filter *new = ef_new_array(1, sizeof *new, detail);
    if (new == NULL)
        return EF_NO_MEMORY;
    *new = (ef_filter){.kernels = kernels, .k = k, .d = d, .n_used = n_used, .n_panels = n_panels};
    new->matrix = ef_new_array(n_panels * columns, d * sizeof(float), detail);
    if (mean != NULL)
        new->mean = ef_new_array(d, sizeof(float), detail);
    if (new->matrix == NULL || (mean != NULL && new->mean == NULL)) {
        ef_filter_free(new);
        return EF_NO_MEMORY;
    }
    if (mean != NULL)
        memcpy(new->mean, mean, d * sizeof(float));
    pack(new, components);
    *filter = new;
    return EF_OK;
}

/* ---- rows in, rows out --------------------------------------------------- */

typedef struct job {
    const ef_filter *filter;
    ef_matrix x; /* (n, d) */
    ef_output form;
    unsigned char *out; /* (n, row_bytes) */
    size_t row_bytes;
    size_t block_rows;     /* a multiple of a tile's rows */
    float *scratch;        /* one block for each slot: see block_at */
    atomic_size_t bad_row; /* the first row that failed, n while there is none */
} job;

/* The memory in which a block of rows is worked on. */
typedef struct block {
    float *rows;  /* (tile rows, EF_RUN): rows widened, before they are interleaved */
    float *tiles; /* (block_rows / tile rows, inputs, tile rows): interleaved */
    float *y;     /* (block_rows, padded k) */
} block;

static size_t padded_k(const ef_filter *filter) {
    return filter->n_panels * filter->kernels->product.columns;
}

/* Elements of a block. */
static size_t block_size(const job *j) {
    const ef_filter *f = j->filter;
    return (f->kernels->product.rows + j->block_rows) * EF_RUN + j->block_rows * padded_k(f);
}

static block block_at(const job *j, size_t slot) {
    const size_t tile = j->filter->kernels->product.rows;
    float *memory = j->scratch + slot * block_size(j);
    return (block){memory, memory + tile * EF_RUN, memory + (tile + j->block_rows) * EF_RUN};
}

/* A run of n inputs of a row of x, from `input` on, less the filter's mean: in place where that is
 * possible, else in room (n). */
static const float *widened(const ef_filter *f, ef_matrix x, size_t row, size_t input, size_t n,
                            float *room) {
    x = ef_columns(x, input, n);
    if (f->mean == NULL)
        return ef_row_f32(f->kernels, x, row, room);
    ef_centre_row_f32(f->kernels, x, row, f->mean + input, room);
    return room;
}

/* Interleaves a run of inputs of the n rows of x; the last tile repeats the last row. */
static void gather(const ef_filter *f, ef_matrix x, size_t input, size_t run, block b) {
    const ef_kernels *kernels = f->kernels;
    const size_t tile = kernels->product.rows;
    for (size_t r = 0; r < x.n_rows; r += tile) {
        const float *rows[EF_WIDE_ROWS];
        for (size_t i = 0; i < tile; i++)
            rows[i] = widened(f, x, ef_least(r + i, x.n_rows - 1), input, run, b.rows + i * EF_RUN);
        kernels->interleave_f32(kernels->product, rows, run, b.tiles + r * run);
    }
}

/* y = x times panels `begin` to `end` of the filter, for the n rows from row `first` on. While a
 * panel is used, tile after tile, the next one is fetched; and while the first panels are, a row
 * with each tile, what the next run needs of x. */
static void multiply(const job *j, size_t first, size_t n, block b, size_t begin, size_t end) {
    const ef_filter *f = j->filter;
    const ef_kernels *kernels = f->kernels;
    const ef_tile tile = kernels->product;
    const size_t padded = padded_k(f), n_tiles = ef_ceil_div(n, tile.rows);
    ef_matrix x = j->x;
    x.data = ef_row(j->x, first);
    x.n_rows = n;
    for (size_t input = 0; input < f->d; input += EF_RUN) {
        const size_t run = ef_least(EF_RUN, f->d - input);
        gather(f, x, input, run, b);
        const size_t next_run = ef_least(EF_RUN, f->d - input - run);
        const ef_matrix next = ef_columns(x, input + run, next_run);
        const size_t next_bytes = next_run * ef_item_bytes(x.dtype);
        for (size_t p = begin; p < end; p++) {
            const float *panel = panel_at(f, input, run, p);
            for (size_t t = 0; t < n_tiles; t++) {
                const size_t r = t * tile.rows, fetched = r + p - begin;
                if (p - begin < tile.rows && fetched < n)
                    ef_prefetch(ef_row(next, fetched), next_bytes);
                kernels->project_f32(tile, b.tiles + r * run, panel, run,
                                     b.y + r * padded + p * tile.columns, padded, input == 0,
                                     panel + (tile.columns + 4 * t) * run);
            }
        }
    }
}

/* The same for a single row; `begin` and `end` are even. */
static void multiply_row(const job *j, block b, size_t begin, size_t end) {
    const ef_filter *f = j->filter;
    const ef_tile tile = f->kernels->product;
    for (size_t input = 0; input < f->d; input += EF_RUN) {
        const size_t run = ef_least(EF_RUN, f->d - input);
        const float *x = widened(f, j->x, 0, input, run, b.rows);
        for (size_t p = begin; p < end; p += 2)
            f->kernels->project_row_f32(tile, x, panel_at(f, input, run, p), run,
                                        b.y + p * tile.columns, input == 0);
    }
}

/* Gives an output row its final form; y (padded k) is its product. */
static void finish_row(job *j, size_t row, float *y) {
    unsigned char *out = j->out + row * j->row_bytes;
    if (!ef_finish_row(j->filter->kernels, &j->form, y, j->filter->k, out))
        ef_note_row(&j->bad_row, row);
}

/* ---- the ways to share the work ------------------------------------------ */

/* Multiplies a block of rows, and finishes them. */
static void rows_task(void *context, size_t slot, size_t index) {
    job *j = context;
    const block b = block_at(j, slot);
    const size_t first = index * j->block_rows;
    const size_t n = ef_least(j->block_rows, j->x.n_rows - first);
    multiply(j, first, n, b, 0, j->filter->n_used);
    for (size_t r = 0; r < n; r++)
        finish_row(j, first + r, b.y + r * padded_k(j->filter));
}

typedef struct few_rows {
    job *all;
    size_t n_tasks;
    float *y; /* (n, padded k) */
} few_rows;

/* Multiplies all rows by the task's share of the pairs of panels. Each task interleaves the rows
 * for itself: to fetch them from another core's cache would take longer. */
static void panels_task(void *context, size_t slot, size_t index) {
    const few_rows *few = context;
    const job *j = few->all;
    const ef_filter *f = j->filter;
    block b = block_at(j, slot);
    b.y = few->y;
    const size_t n_pairs = f->n_panels / 2, begin = index * n_pairs / few->n_tasks * 2;
    const size_t end = (index + 1) * n_pairs / few->n_tasks * 2;
    if (j->x.n_rows == 1)
        multiply_row(j, b, begin, end);
    else
        multiply(j, 0, j->x.n_rows, b, begin, ef_least(end, f->n_used));
}

static void finish_task(void *context, size_t slot, size_t row) {
    (void)slot;
    const few_rows *few = context;
    finish_row(few->all, row, few->y + row * padded_k(few->all->filter));
}

/* How many of n_threads so many multiply-adds are worth. */
static size_t threads_for(double work, size_t n_threads) {
    const double most = 1.0 + work / EF_THREAD_WORK;
    return most < (double)n_threads ? (size_t)most : n_threads;
}

static void project_few(job *j, size_t n_threads) {
    const size_t n_pieces = n_threads > 1 ? n_threads * PANEL_PIECES : 1;
    few_rows few = {.all = j, .y = block_at(j, 0).y};
    few.n_tasks = ef_least(j->filter->n_panels / 2, n_pieces);
    ef_parallel_for(n_threads, few.n_tasks, panels_task, &few);
    /* An element takes as long to finish as some 30 multiply-adds. */
    const double work = 30.0 * (double)j->x.n_rows * (double)j->filter->k;
    ef_parallel_for(threads_for(work, n_threads), j->x.n_rows, finish_task, &few);
}

static ef_status project(const ef_filter *filter, ef_matrix x, ef_output form, void *out,
                         size_t n_threads, ef_detail *detail) {
    const size_t n = x.n_rows;
    const bool large = padded_k(filter) * filter->d * sizeof(float) > LARGE_BYTES;
    const bool few = n <= (large ? BLOCK_ROWS : FEW_ROWS);
    job j = {.filter = filter,
             .x = x,
             .form = form,
             .out = out,
             .row_bytes = ef_output_row_bytes(form.precision, filter->k)};
    /* Blocks of equal size for the threads, no larger than the cache likes. */
    const size_t share = few ? n : ef_ceil_div(n, n_threads);
    size_t n_blocks = ef_ceil_div(share, BLOCK_ROWS);
    if (n_threads > 1 && !few && !large)
        n_blocks = ef_most(n_blocks, ef_least(ROW_PIECES, share / PIECE_ROWS));
    j.block_rows = ef_round_up(ef_ceil_div(share, n_blocks), filter->kernels->product.rows);
    atomic_init(&j.bad_row, n);
    j.scratch = ef_new_array(n_threads, block_size(&j) * sizeof(float), detail);
    if (j.scratch == NULL)
        return EF_NO_MEMORY;
    if (few)
        project_few(&j, n_threads);
    else
        ef_parallel_for(n_threads, ef_ceil_div(n, j.block_rows), rows_task, &j);
    ef_free(j.scratch);
    return ef_row_status(x, atomic_load(&j.bad_row), detail);
}

ef_status ef_project(const ef_filter *filter, ef_matrix x, ef_output form, void *out,
                     size_t n_threads, ef_detail *detail) {
    if (x.n_rows == 0)
        return EF_OK;
    const double per_row = (double)filter->d * (double)filter->k;
    n_threads = threads_for((double)x.n_rows * per_row, n_threads);
    if (n_threads == 1)
        return project(filter, x, form, out, 1, detail);
    const ef_trial trial = ef_begin_trial(x.n_rows, per_row, n_threads);
    const ef_status status = project(filter, x, form, out, trial.n_threads, detail);
    if (status == EF_OK)
        ef_end_trial(&trial);
    return status;
}
