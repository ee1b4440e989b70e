/* The k largest logits of each of n vectors, of a stream of rows of W.
 *
 * A logit is the dot_f32 of a row and a vector, whatever the way to it. A few vectors take it with
 * every row, as fast as rows come from memory. Of many, nearly all logits are too small to matter,
 * and to find that out takes no exact product: rows and vectors are scaled to the length LENGTH
 * and rounded to integers w' and x', whose product is exact and twice as fast. As rounding moves
 * either of them by sqrt(d) / 2 at most, the inequality of Cauchy and Schwarz gives
 *
 *     | w.x LENGTH^2 / (|w| |x|)  -  w'.x' |  <  1.1 sqrt(d) LENGTH
 *
 * where the tenth covers the small second-order term and every rounding to float32 on the way,
 * those of dot_f32 too. A row goes on to the exact product with those vectors whose k-th best
 * logit so far it may reach. So neither the integers nor the order in which threads come to the
 * rows show in the result.
 *
 * What is too short or too long for the scaling, zero among it, goes on to the exact product with
 * everything; so do rows with NaN or infinity, which is found out there. */
#include "core/embedfilter.h"
#include "core/arithmetic.h"
#include "core/memory.h"
#include "core/rows.h"
#include "core/system.h"

#include <math.h>
#include <stdlib.h>

enum {
    AHEAD = 8, /* rows that are fetched while one is multiplied, where it is widened first */
    FEW = 4,   /* vectors up to which the rows' coming from memory takes longest */
    BLOCK_ROWS =
        128, /* rows that are taken at a time, a multiple of any tile's rows, but no more */
    BLOCK_BYTES = 1 << 18, /* than so many bytes, packed, which fit the L2 cache */
    RUN_PAIRS = 256,       /* multiplied at a time: of a panel and a tile they fit the L1 cache */
    LENGTH = 32700,        /* of scaled rows: no element leaves int16, no sum of products int32 */
};
static const float SHORTEST = 1e-15f, LONGEST = 1e15f; /* that are scaled: no product overflows */

/* A token and its logit. */
typedef struct found {
    float logit;
    uint32_t id;
} found;

/* What was found for one vector. */
typedef struct best {
    ef_mutex mutex;
    _Atomic float least; /* the k-th best logit, -infinity while there are fewer than k */
    size_t n;
    found *heap; /* (k); when there are k, a heap with the last of them at the root */
} best;

struct ef_lens {
    const ef_kernels *kernels; /* those in use when it was made; its panels are for them */
    size_t n, k, d;
    size_t n_pairs;  /* of elements of a row, the last one perhaps with a zero */
    size_t n_panels; /* of vectors, none for few */
    size_t n_ready;  /* of bests, whose mutexes are made */
    size_t n_rows;   /* of W, so far */
    float *x;        /* (n, d) */
    float *factors;  /* (n): what scales a vector, 0 where it is not scaled */
    int16_t *panels; /* (n_panels, n_pairs, columns, 2): scaled and rounded */
    found *heaps;    /* (n, k) */
    best *bests;     /* (n) */
};

/* ---- the best k ---------------------------------------------------------- */

/* True if a comes after b: its logit is smaller or, of equal ones, its id larger. */
static bool after(found a, found b) {
    return a.logit < b.logit || (a.logit == b.logit && a.id > b.id);
}

/* Moves the token at i down a heap of n to where it belongs. */
static void sift_down(found *heap, size_t n, size_t i) {
    const found moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && after(heap[child + 1], heap[child]))
            child++;
        if (!after(heap[child], moved))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* Keeps a token if it is among the best k so far. */
static void take(best *b, size_t k, found token) {
    ef_lock(&b->mutex);
    if (b->n < k) {
        b->heap[b->n++] = token;
        for (size_t i = b->n == k ? k / 2 : 0; i-- > 0;)
            sift_down(b->heap, k, i);
    } else if (after(b->heap[0], token)) {
        b->heap[0] = token;
        sift_down(b->heap, k, 0);
    }
    if (b->n == k)
        atomic_store_explicit(&b->least, b->heap[0].logit, memory_order_relaxed);
    ef_unlock(&b->mutex);
}

/* ---- vectors in ---------------------------------------------------------- */

void ef_lens_free(ef_lens *lens) {
    if (lens == NULL)
        return;
    for (size_t i = 0; i < lens->n_ready; i++)
        ef_end_mutex(&lens->bests[i].mutex);
    ef_free(lens->x);
    ef_free(lens->factors);
    ef_free(lens->panels);
    ef_free(lens->heaps);
    ef_free(lens->bests);
    ef_free(lens);
}

/* Allocates what the vectors need; false if there is no memory for it. */
static bool allocate(ef_lens *lens, ef_detail *detail) {
    const size_t n = lens->n, n_columns = lens->n_panels * lens->kernels->lens.columns;
    lens->panels = ef_new_array(n_columns * lens->n_pairs, 2 * sizeof *lens->panels, detail);
    lens->x = ef_new_array(n * lens->d, sizeof *lens->x, detail);
    lens->factors = ef_new_array(n, sizeof *lens->factors, detail);
    lens->heaps = ef_new_array(n * lens->k, sizeof *lens->heaps, detail);
    lens->bests = ef_new_array(n, sizeof *lens->bests, detail);
    if (lens->panels == NULL || lens->x == NULL || lens->factors == NULL || lens->heaps == NULL ||
        lens->bests == NULL)
        return false;
    for (; lens->n_ready < n; lens->n_ready++) {
        best *b = &lens->bests[lens->n_ready];
        *b = (best){.heap = lens->heaps + lens->n_ready * lens->k};
        atomic_init(&b->least, -INFINITY);
        if (!ef_new_mutex(&b->mutex)) {
            detail->count = sizeof b->mutex;
            return false;
        }
    }
    return true;
}

/* What scales a row (n) to LENGTH, 0 if it is not scaled. */
static float factor_of(const ef_kernels *kernels, const float *row, size_t n) {
    const float length = sqrtf(kernels->dot_f32(row, row, n));
    return length >= SHORTEST && length <= LONGEST ? LENGTH / length : 0.0f;
}

/* Copies the vectors, as float32. */
static ef_status copy_vectors(ef_lens *lens, ef_matrix x, ef_detail *detail) {
    const ef_kernels *kernels = lens->kernels;
    for (size_t i = 0; i < lens->n; i++) {
        float *row = lens->x + i * lens->d;
        ef_copy_row_f32(kernels, x, i, row);
        if (!isfinite(kernels->squares_f32(row, lens->d)))
            return ef_row_status(x, i, detail);
        lens->factors[i] = factor_of(kernels, row, lens->d);
    }
    return EF_OK;
}

/* Lays the vectors out for the products of integers; beyond the last one are zeros. */
static void pack_vectors(ef_lens *lens) {
    const ef_kernels *kernels = lens->kernels;
    const size_t columns = kernels->lens.columns;
    const ef_tile tile = kernels->lens;
    for (size_t first = 0; first < lens->n_panels * columns; first += tile.rows) {
        const float *rows[EF_WIDE_ROWS];
        float factors[EF_WIDE_ROWS];
        for (size_t i = 0; i < tile.rows; i++) {
            rows[i] = lens->x + ef_least(first + i, lens->n - 1) * lens->d;
            factors[i] = first + i < lens->n ? lens->factors[first + i] : 0.0f;
        }
        int16_t *panel = lens->panels + first / columns * lens->n_pairs * columns * 2;
        kernels->interleave_i16(tile, rows, factors, lens->d, panel + first % columns * 2,
                                columns * 2);
    }
}

ef_status ef_lens_new(ef_matrix x, size_t k, ef_lens **result, ef_detail *detail) {
    const size_t n = x.n_rows, d = x.n_cols;
    if (k > UINT32_MAX || n > SIZE_MAX / 64 / (d + k)) /* all sizes are less than n (d + k) 64 */
        return EF_TOO_LARGE;
    const ef_kernels *kernels = ef_active_kernels();
    const size_t columns = kernels->lens.columns;
    ef_lens *lens = ef_new_array(1, sizeof *lens, detail);
    if (lens == NULL)
        return EF_NO_MEMORY;
    *lens = (ef_lens){.kernels = kernels,
                      .n = n,
                      .k = k,
                      .d = d,
                      .n_pairs = ef_ceil_div(d, 2),
                      .n_panels = n > FEW ? ef_ceil_div(n, columns) : 0};
    const ef_status status = allocate(lens, detail) ? copy_vectors(lens, x, detail) : EF_NO_MEMORY;
    if (status != EF_OK) {
        ef_lens_free(lens);
        return status;
    }
    pack_vectors(lens);
    *result = lens;
    return EF_OK;
}

/* ---- rows of W through --------------------------------------------------- */

typedef struct job {
    ef_lens *lens;
    ef_matrix w;           /* the rows to add */
    size_t block_rows;     /* taken at a time, a multiple of a tile's rows */
    unsigned char *memory; /* the rows and tiles of a block, for each slot */
    size_t slot_bytes;
    atomic_size_t bad_row; /* the first one with a logit that is not finite */
} job;

/* Rows that are worked on together. */
typedef struct block {
    float *rows;               /* (tile rows, d): as float32 */
    int16_t *tiles;            /* (block_rows / tile rows, n_pairs, tile rows, 2) */
    float scales[BLOCK_ROWS];  /* take sums to the products with scaled vectors */
    float margins[BLOCK_ROWS]; /* and this is what rounding may hide there */
    int32_t sums[BLOCK_ROWS * EF_WIDE_COLUMNS]; /* with one panel */
    uint32_t masks[BLOCK_ROWS]; /* the columns of the panel worth an exact product */
    const unsigned char *next;  /* bytes of W to fetch into the cache meanwhile: */
    size_t next_bytes;          /* so many at each step */
} block;

/* Takes the logits of a row and the vectors of a mask, which counts from vector `first` on. */
static void consider(job *j, size_t row, size_t first, uint32_t mask, float *room) {
    if (mask == 0)
        return;
    const ef_lens *lens = j->lens;
    const float *w = ef_row_f32(lens->kernels, j->w, row, room);
    for (; mask != 0; mask &= mask - 1) {
        const size_t v = first + (size_t)__builtin_ctz(mask);
        best *b = &lens->bests[v];
        const float logit = lens->kernels->dot_f32(w, lens->x + v * lens->d, lens->d);
        if (!isfinite(logit))
            ef_note_row(&j->bad_row, row);
        else if (logit >= atomic_load_explicit(&b->least, memory_order_relaxed))
            take(b, lens->k, (found){logit, (uint32_t)(lens->n_rows + row)});
    }
}

/* Scales and rounds n rows of W, from row `first` on. */
static void pack_rows(const job *j, size_t first, size_t n, block *b) {
    const ef_lens *lens = j->lens;
    const ef_kernels *kernels = lens->kernels;
    const ef_tile tile = kernels->lens;
    const size_t d = lens->d;
    const float margin = 1.1f * sqrtf((float)d) * LENGTH;
    for (size_t r = 0; r < n; r += tile.rows) {
        const float *rows[EF_WIDE_ROWS];
        float factors[EF_WIDE_ROWS];
        for (size_t i = 0; i < tile.rows; i++) {
            const float *row =
                ef_row_f32(kernels, j->w, first + ef_least(r + i, n - 1), b->rows + i * d);
            factors[i] = factor_of(kernels, row, d);
            const bool scaled = factors[i] > 0.0f;
            rows[i] = scaled ? row : lens->x; /* any finite numbers, as they become zeros */
            b->scales[r + i] = scaled ? 1.0f / factors[i] : 0.0f;
            b->margins[r + i] = scaled ? margin / factors[i] : INFINITY;
        }
        kernels->interleave_i16(tile, rows, factors, d, b->tiles + r * lens->n_pairs * 2,
                                tile.rows * 2);
    }
}

/* Multiplies n packed rows by a panel of vectors. */
static void multiply(const job *j, size_t n, size_t panel, block *b) {
    const ef_kernels *kernels = j->lens->kernels;
    const ef_tile tile = kernels->lens;
    const size_t n_pairs = j->lens->n_pairs;
    const int16_t *columns = j->lens->panels + panel * n_pairs * tile.columns * 2;
    for (size_t first = 0; first < n_pairs; first += RUN_PAIRS) {
        const size_t run = ef_least(RUN_PAIRS, n_pairs - first);
        for (size_t r = 0; r < n; r += tile.rows) {
            ef_prefetch(b->next, b->next_bytes);
            b->next += b->next_bytes;
            kernels->multiply_i16(tile, b->tiles + (r * n_pairs + first * tile.rows) * 2,
                                  columns + first * tile.columns * 2, run,
                                  b->sums + r * tile.columns, first == 0);
        }
    }
}

/* What the product with the scaled vector v must reach at least, never too high. */
static float least_of(const ef_lens *lens, size_t v) {
    const double factor = lens->factors[v];
    if (factor == 0.0)
        return -INFINITY;
    const double lost = 0x1p-149 * (double)(lens->d + 64); /* by sums of subnormal numbers */
    const double logit = atomic_load_explicit(&lens->bests[v].least, memory_order_relaxed);
    const double least = (logit - lost) * factor;
    const float near = (float)least;
    return (double)near > least ? nextafterf(near, -INFINITY) : near;
}

/* Spreads the fetching of up to n rows, from row `first` on, over the steps of multiply for as
 * many rows. */
static void fetch_rows(const job *j, size_t first, size_t n, block *b) {
    const ef_lens *lens = j->lens;
    b->next = j->w.data;
    b->next_bytes = 0;
    if (first >= j->w.n_rows || j->w.stride_bytes < 0)
        return;
    const size_t tile = lens->kernels->lens.rows;
    const size_t n_steps =
        lens->n_panels * ef_ceil_div(n, tile) * ef_ceil_div(lens->n_pairs, RUN_PAIRS);
    b->next = ef_row(j->w, first);
    b->next_bytes = ef_least(n, j->w.n_rows - first) * (size_t)j->w.stride_bytes / n_steps;
}

/* Takes the logits of n rows, from row `first` on, that may be among the best. */
static void screen(job *j, size_t first, size_t n, block *b) {
    const ef_lens *lens = j->lens;
    const ef_tile tile = lens->kernels->lens;
    pack_rows(j, first, n, b);
    fetch_rows(j, first + n, n, b); /* as a rule the thread's next ones */
    for (size_t p = 0; p < lens->n_panels; p++) {
        multiply(j, n, p, b);
        const size_t v = p * tile.columns, n_columns = ef_least(tile.columns, lens->n - v);
        float least[EF_WIDE_COLUMNS] = {0};
        for (size_t c = 0; c < n_columns; c++)
            least[c] = least_of(lens, v + c);
        lens->kernels->reach_i32(tile, b->sums, b->scales, b->margins, least, n, b->masks);
        const uint32_t all = UINT32_MAX >> (32 - n_columns);
        for (size_t r = 0; r < n; r++)
            consider(j, first + r, v, b->masks[r] & all, b->rows);
    }
}

/* Fetches a row that is widened before it is used: the widening keeps the processor from coming
 * to the next row early enough. */
static void fetch_ahead(const job *j, size_t row) {
    if (row < j->w.n_rows && j->w.dtype != EF_F32)
        ef_prefetch(ef_row(j->w, row), j->w.n_cols * ef_item_bytes(j->w.dtype));
}

/* Does a block of rows. */
static void rows_task(void *context, size_t slot, size_t index) {
    job *j = context;
    const ef_lens *lens = j->lens;
    block b;
    b.rows = (float *)(j->memory + slot * j->slot_bytes);
    b.tiles = (int16_t *)(b.rows + lens->kernels->lens.rows * lens->d);
    const size_t first = index * j->block_rows;
    const size_t n = ef_least(j->block_rows, j->w.n_rows - first);
    if (lens->n_panels > 0) {
        screen(j, first, n, &b);
        return;
    }
    for (size_t r = 0; r < n; r++) {
        fetch_ahead(j, first + r + AHEAD);
        consider(j, first + r, 0, (1u << lens->n) - 1, b.rows);
    }
}

ef_status ef_lens_add(ef_lens *lens, ef_matrix w, size_t n_threads, ef_detail *detail) {
    if (w.n_rows > UINT32_MAX - lens->n_rows)
        return EF_TOO_LARGE;
    const size_t packed_bytes = lens->n_pairs * 2 * sizeof(int16_t);
    job j = {.lens = lens, .w = w};
    const size_t tile = lens->kernels->lens.rows;
    j.block_rows = ef_least(BLOCK_ROWS, (BLOCK_BYTES / packed_bytes / tile + 1) * tile);
    j.slot_bytes = ef_round_up(tile * lens->d * sizeof(float) + j.block_rows * packed_bytes, 64);
    atomic_init(&j.bad_row, w.n_rows);
    j.memory = ef_new_array(n_threads, j.slot_bytes, detail);
    if (j.memory == NULL)
        return EF_NO_MEMORY;
    ef_parallel_for(n_threads, ef_ceil_div(w.n_rows, j.block_rows), rows_task, &j);
    ef_free(j.memory);
    lens->n_rows += w.n_rows;
    return ef_row_status(w, atomic_load(&j.bad_row), detail);
}

/* ---- the end ------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    return after(*(const found *)a, *(const found *)b) ? 1 : -1; /* no two are equal */
}

void ef_lens_finish(ef_lens *lens, int64_t *ids, float *logits) {
    for (size_t i = 0; i < lens->n; i++) {
        found *tokens = lens->bests[i].heap;
        qsort(tokens, lens->k, sizeof *tokens, compare);
        for (size_t t = 0; t < lens->k; t++, ids++, logits++) {
            *ids = tokens[t].id;
            *logits = tokens[t].logit;
        }
    }
}
