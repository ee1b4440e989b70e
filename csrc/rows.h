/* Rows of a matrix of any element type. */
#ifndef EMBEDFILTER_ROWS_H
#define EMBEDFILTER_ROWS_H

#include "embedfilter.h"
#include "kernels/kernels.h"

static inline size_t ef_least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The first element of a row. */
const unsigned char *ef_row(ef_matrix x, size_t row);

/* A row as float32: in place where it is, else widened or rounded into room (n_cols). */
const float *ef_row_f32(const ef_kernels *kernels, ef_matrix x, size_t row, float *room);

#endif
