/* Rows of a matrix of any element type. */
#ifndef EMBEDFILTER_ROWS_H
#define EMBEDFILTER_ROWS_H

#include "embedfilter.h"
#include "kernels/kernels.h"

#include <stdatomic.h>

static inline size_t ef_least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* a / b, rounded up. */
static inline size_t ef_ceil_div(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

/* Fetches bytes into the L2 cache. */
static inline void ef_prefetch(const unsigned char *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(from + i, 0, 2);
}

/* The first element of a row. */
const unsigned char *ef_row(ef_matrix x, size_t row);

/* Bytes of an element. */
size_t ef_item_bytes(ef_dtype dtype);

/* The columns `first` to first + n of a matrix. */
ef_matrix ef_columns(ef_matrix x, size_t first, size_t n);

/* A row as float32: in place where it is, else widened or rounded into room (n_cols). */
const float *ef_row_f32(const ef_kernels *kernels, ef_matrix x, size_t row, float *room);

/* True if the row, in its own type, has neither NaN nor infinity. */
bool ef_row_finite(ef_matrix x, size_t row);

/* Notes a row among several threads: the first of all noted stays in *first. */
void ef_note_row(atomic_size_t *first, size_t row);

#endif
