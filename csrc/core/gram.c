/* The Gram matrix W^T W of a stream of rows.
 *
 * Rows are laid out in a chunk as panels of a tile's columns, which serve as both operands:
 * the kernel multiplies two panels into one tile. When the chunk is full, the tiles of the
 * upper triangle are brought up to date. Threads share the rows while packing and the pairs
 * of panel groups while multiplying; each number is summed by one thread in order of the rows,
 * and runs begin at multiples of so many rows of the stream, so that neither threads nor the
 * caller's blocks change a bit.
 *
 * Accuracy in float32 (ef_gram_new's p > 0). What is lost is relative to the largest
 * numbers summed, and a head's largest singular value is 25 to 1000 times those of the bulk.
 * So the few dominant directions P are taken out first: w = r + P^T a with a = P w. Then
 *
 *     W^T W = R^T R + (R^T A) P + P^T (A^T R) + P^T (A^T A) P
 *
 * holds for any a and P, exact directions or not; the parts a ride along as more columns, and
 * the products are put together in float64 at the end. */
#include "core/embedfilter.h"
#include "core/arithmetic.h"
#include "core/memory.h"
#include "core/rows.h"

#include <stdatomic.h>
#include <string.h>

enum {
    GROUP_I = 16,          /* panels on either side of a task: the tiles and the panels on one */
    GROUP_J = 2,           /* side stay in the L2 cache, the others stream through it */
    PACK_ROWS = 8,         /* rows packed at a time: they fit the L2 cache */
    EXACT_RUN = 128,       /* float64 rows multiplied at a time: two panels fit the L1 cache */
    WIDE = 2048,           /* Of so many columns on, singular values are so near each other */
    WIDE_RUN = 64,         /* that shorter float32 sums, half as far off, save a sum in float64 */
    CHUNK_BYTES = 1 << 22, /* panels of one chunk, about, */
    CHUNK_RUNS = 4         /* but so many runs at least: fewer would read the tiles too often */
};

struct ef_gram {
    const ef_kernels *kernels; /* those in use when it was made; its panels are for them */
    size_t d, p;
    size_t width, n_panels; /* a panel's columns, and how many panels there are */
    bool exact;             /* float64 throughout */
    size_t run;             /* rows multiplied at a time, at most EF_RUN */
    float *basis;           /* (p, d) */
    size_t capacity;        /* rows that a chunk holds, a multiple of EF_RUN */
    size_t n_rows;          /* rows in it */
    void *panels;           /* (n_panels, capacity, width) float32 or, if exact, float64 */
    double *tiles;          /* (pairs, width, width): panels (i, j >= i) at j (j + 1) / 2 + i */
};

/* The number of pairs (i, j) with i <= j < n. */
static size_t n_pairs(size_t n) {
    return n * (n + 1) / 2;
}

void ef_gram_free(ef_gram *gram) {
    if (gram == NULL)
        return;
    ef_free(gram->basis);
    ef_free(gram->panels);
    ef_free(gram->tiles);
    ef_free(gram);
}

ef_status ef_gram_new(size_t d, const float *basis, size_t p, ef_gram **result, ef_detail *detail) {
    if (d == 0 || d > EF_MAX_COLUMNS || p > EF_MAX_PEEL)
        return EF_TOO_LARGE;
    const ef_kernels *kernels = ef_active_kernels();
    const bool exact = p == 0;
    const size_t item = exact ? sizeof(double) : sizeof(float);
    const size_t width = kernels->product.columns;
    const size_t n_panels = ef_ceil_div(d + p, width), row_bytes = n_panels * width * item;
    const size_t runs = ef_most(CHUNK_BYTES / row_bytes / EF_RUN, CHUNK_RUNS);
    const size_t tiles_size = n_pairs(n_panels) * width * width;

    ef_gram *gram = ef_new_array(1, sizeof *gram, detail);
    if (gram == NULL)
        return EF_NO_MEMORY;
    *gram = (ef_gram){.kernels = kernels,
                      .d = d,
                      .p = p,
                      .width = width,
                      .n_panels = n_panels,
                      .exact = exact,
                      .run = exact      ? EXACT_RUN
                             : d < WIDE ? EF_RUN
                                        : WIDE_RUN,
                      .capacity = runs * EF_RUN};
    gram->basis = ef_new_array(p * d, sizeof(float), detail);
    gram->panels = ef_new_array(gram->capacity, row_bytes, detail);
    gram->tiles = ef_new_array(tiles_size, sizeof(double), detail);
    if (gram->basis == NULL || gram->panels == NULL || gram->tiles == NULL) {
        ef_gram_free(gram);
        return EF_NO_MEMORY;
    }
    memset(gram->tiles, 0, tiles_size * sizeof(double));
    if (p > 0)
        memcpy(gram->basis, basis, p * d * sizeof(float));
    *result = gram;
    return EF_OK;
}

/* ---- packing: rows of any type into the chunk's panels ------------------- */

typedef struct packing {
    ef_gram *gram;
    ef_matrix w;     /* the rows to add; the chunk has room for them */
    double *scratch; /* (slots, PACK_ROWS + 1, padded d) */
    atomic_bool finite;
} packing;

/* A row of any type as float64; `room` is for n_cols float32. */
static void widen_f64(const ef_kernels *kernels, ef_matrix w, size_t index, double *row,
                      float *room) {
    if (w.dtype == EF_F64)
        memcpy(row, ef_row(w, index), w.n_cols * sizeof(double));
    else
        kernels->f32_to_f64(ef_row_f32(kernels, w, index, room), row, w.n_cols);
}

/* Copies n rows (n, padded d) into each panel, from row `first` of the chunk on. */
static void scatter_f32(const ef_gram *gram, const float *rows, size_t first, size_t n) {
    const ef_kernels *kernels = gram->kernels;
    const size_t width = gram->width;
    float *target = (float *)gram->panels + first * width;
    for (size_t p = 0; p < gram->n_panels; p++, target += gram->capacity * width)
        kernels->panel_f32(kernels->product, rows + p * width, gram->n_panels * width, n, target);
}

static void scatter_f64(const ef_gram *gram, const double *rows, size_t first, size_t n) {
    const size_t bytes = gram->width * sizeof(double);
    unsigned char *target = (unsigned char *)gram->panels + first * bytes;
    for (size_t p = 0; p < gram->n_panels; p++, target += gram->capacity * bytes)
        for (size_t r = 0; r < n; r++)
            memcpy(target + r * bytes,
                   (const unsigned char *)rows + (r * gram->n_panels + p) * bytes, bytes);
}

/* Widens n rows, from row `first` of w on, into `rows` (n, padded d) float64. */
static void prepare_f64(packing *job, size_t first, size_t n, double *rows) {
    const size_t d = job->gram->d, padded = job->gram->n_panels * job->gram->width;
    for (size_t r = 0; r < n; r++) {
        double *row = rows + r * padded;
        widen_f64(job->gram->kernels, job->w, first + r, row, (float *)(rows + PACK_ROWS * padded));
        memset(row + d, 0, (padded - d) * sizeof(double));
        if (!ef_row_finite(job->w, first + r))
            atomic_store(&job->finite, false);
    }
}

/* The same in float32, with the dominant directions taken out and the parts beside the row. */
static void prepare_f32(packing *job, size_t first, size_t n, float *rows) {
    const ef_gram *gram = job->gram;
    const size_t d = gram->d, p = gram->p, padded = gram->n_panels * gram->width;
    for (size_t r = 0; r < n; r++) {
        float *row = rows + r * padded, *parts = row + d;
        ef_copy_row_f32(gram->kernels, job->w, first + r, row);
        gram->kernels->peel_f32(row, d, gram->basis, p, parts);
        memset(parts + p, 0, (padded - d - p) * sizeof(float));
        if (!ef_finite_f32(parts, p)) /* NaN and infinity reach the parts */
            atomic_store(&job->finite, false);
    }
}

static void pack_task(void *context, size_t slot, size_t index) {
    packing *job = context;
    const size_t padded = job->gram->n_panels * job->gram->width;
    double *rows = job->scratch + slot * (PACK_ROWS + 1) * padded;
    const size_t first = index * PACK_ROWS;
    const size_t n = ef_least(PACK_ROWS, job->w.n_rows - first);
    if (job->gram->exact) {
        prepare_f64(job, first, n, rows);
        scatter_f64(job->gram, rows, job->gram->n_rows + first, n);
    } else {
        prepare_f32(job, first, n, (float *)rows);
        scatter_f32(job->gram, (float *)rows, job->gram->n_rows + first, n);
    }
}

/* Counts the rows that are not finite; EF_OVERFLOW if there are none. */
static ef_status find_bad_rows(ef_matrix w, ef_detail *detail) {
    detail->count = 0;
    for (size_t r = 0; r < w.n_rows; r++)
        if (!ef_row_finite(w, r) && detail->count++ == 0)
            detail->row = r;
    return detail->count > 0 ? EF_NOT_FINITE : EF_OVERFLOW;
}

/* ---- multiplying: the tiles brought up to date --------------------------- */

typedef struct product {
    const ef_gram *gram;
    size_t n_rows, n_columns; /* of the grid of tasks; those below the diagonal are empty */
} product;

/* The row `first` of panel p of the chunk. */
static const float *panel_f32(const ef_gram *gram, size_t p, size_t first) {
    return (const float *)gram->panels + (p * gram->capacity + first) * gram->width;
}

static const double *panel_f64(const ef_gram *gram, size_t p, size_t first) {
    return (const double *)gram->panels + (p * gram->capacity + first) * gram->width;
}

/* One rectangle of tiles: panels I, I + 1, ... times panels J, J + 1. */
static void multiply_task(void *context, size_t slot, size_t index) {
    (void)slot;
    const product *job = context;
    const ef_gram *gram = job->gram;
    const ef_kernels *kernels = gram->kernels;
    const size_t width = gram->width;
    /* The last columns of tiles first: they are the longest. */
    const size_t J = (job->n_columns - 1 - index / job->n_rows) * GROUP_J;
    const size_t I = index % job->n_rows * GROUP_I;
    const size_t j_end = ef_least(gram->n_panels, J + GROUP_J);
    const size_t i_end = ef_least(j_end, I + GROUP_I);
    for (size_t first = 0; first < gram->n_rows; first += gram->run) {
        const size_t n = ef_least(gram->run, gram->n_rows - first);
        for (size_t i = I; i < i_end; i++) {
            for (size_t j = J > i ? J : i; j < j_end; j++) {
                double *tile = gram->tiles + (n_pairs(j) + i) * width * width;
                if (gram->exact) {
                    kernels->gram_f64(kernels->product, panel_f64(gram, i, first),
                                      panel_f64(gram, j, first), n, tile);
                    continue;
                }
                const float *next = panel_f32(gram, i + 1 < i_end ? i + 1 : i, first);
                kernels->gram_f32(kernels->product, panel_f32(gram, i, first),
                                  panel_f32(gram, j, first), n, tile,
                                  next + (j - J) * n * width / GROUP_J);
            }
        }
    }
}

/* Multiplies what the chunk holds and empties it. */
static void multiply_chunk(ef_gram *gram, size_t n_threads) {
    product job = {.gram = gram,
                   .n_rows = ef_ceil_div(gram->n_panels, GROUP_I),
                   .n_columns = ef_ceil_div(gram->n_panels, GROUP_J)};
    ef_parallel_for(n_threads, job.n_rows * job.n_columns, multiply_task, &job);
    gram->n_rows = 0;
}

ef_status ef_gram_add(ef_gram *gram, ef_matrix w, size_t n_threads, ef_detail *detail) {
    packing job = {.gram = gram};
    const size_t padded = gram->n_panels * gram->width;
    n_threads = ef_least(n_threads, ef_ceil_div(w.n_rows, PACK_ROWS) + 1);
    job.scratch = ef_new_array(n_threads, (PACK_ROWS + 1) * padded * sizeof(double), detail);
    if (job.scratch == NULL)
        return EF_NO_MEMORY;
    atomic_init(&job.finite, true);
    ef_status status = EF_OK;
    for (size_t done = 0; done < w.n_rows && status == EF_OK; done += job.w.n_rows) {
        job.w = w;
        job.w.data = ef_row(w, done);
        job.w.n_rows = ef_least(w.n_rows - done, gram->capacity - gram->n_rows);
        ef_parallel_for(n_threads, ef_ceil_div(job.w.n_rows, PACK_ROWS), pack_task, &job);
        gram->n_rows += job.w.n_rows;
        if (!atomic_load(&job.finite))
            status = find_bad_rows(w, detail);
        else if (gram->n_rows == gram->capacity)
            multiply_chunk(gram, n_threads);
    }
    ef_free(job.scratch);
    return status;
}

/* ---- the end ------------------------------------------------------------ */

/* Element (i, j) of the tiles, i <= j. */
static double element(const ef_gram *gram, size_t i, size_t j) {
    const size_t w = gram->width, pair = n_pairs(j / w) + i / w;
    return gram->tiles[(pair * w + i % w) * w + j % w];
}

/* out += cross^T P + P^T cross, where cross (p, d) = A^T R + (A^T A) P / 2. */
static void add_peeled(const ef_gram *gram, double *out, double *cross) {
    const size_t d = gram->d, p = gram->p;
    for (size_t q = 0; q < p; q++) {
        for (size_t j = 0; j < d; j++) {
            double sum = element(gram, j, d + q);
            for (size_t s = 0; s < p; s++)
                sum += 0.5 * element(gram, d + (q < s ? q : s), d + (q < s ? s : q)) *
                       (double)gram->basis[s * d + j];
            cross[q * d + j] = sum;
        }
    }
    for (size_t i = 0; i < d; i++)
        for (size_t q = 0; q < p; q++)
            for (size_t j = i; j < d; j++)
                out[i * d + j] += cross[q * d + i] * (double)gram->basis[q * d + j] +
                                  (double)gram->basis[q * d + i] * cross[q * d + j];
}

ef_status ef_gram_finish(ef_gram *gram, double *out, size_t n_threads, ef_detail *detail) {
    const size_t d = gram->d;
    double *cross = ef_new_array(gram->p * d, sizeof(double), detail);
    if (cross == NULL)
        return EF_NO_MEMORY;
    multiply_chunk(gram, n_threads);
    for (size_t i = 0; i < d; i++)
        for (size_t j = i; j < d; j++)
            out[i * d + j] = element(gram, i, j);
    add_peeled(gram, out, cross);
    ef_free(cross);
    return EF_OK;
}
