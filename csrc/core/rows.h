/* Rows of a matrix of any element type. */
#ifndef EMBEDFILTER_ROWS_H
#define EMBEDFILTER_ROWS_H

#include "core/embedfilter.h"
#include "kernels/kernels.h"

#include <stdatomic.h>

/* The first element of a row. */
const unsigned char *ef_row(ef_matrix x, size_t row);

/* Bytes of an element. */
size_t ef_item_bytes(ef_dtype dtype);

/* The columns `first` to first + n of a matrix. */
ef_matrix ef_columns(ef_matrix x, size_t first, size_t n);

/* A row as float32: in place where it is, else widened or rounded into room (n_cols). */
const float *ef_row_f32(const ef_kernels *kernels, ef_matrix x, size_t row, float *room);

/* The same less mean (n_cols), always in dst (n_cols): float64 is rounded after it. */
void ef_centre_row_f32(const ef_kernels *kernels, ef_matrix x, size_t row, const float *mean,
                       float *dst);

/* A row as float32, always in dst (n_cols). */
void ef_copy_row_f32(const ef_kernels *kernels, ef_matrix x, size_t row, float *dst);

/* True if of n numbers none is NaN or infinity. */
bool ef_finite_f32(const float *values, size_t n);
bool ef_finite_f64(const double *values, size_t n);

/* The same of a row, in its own type. */
bool ef_row_finite(ef_matrix x, size_t row);

/* What several threads found: each notes the rows that it could not do in *first, which is n_rows
 * to begin with, and the first of all stays there. */
void ef_note_row(atomic_size_t *first, size_t row);

/* The status for the first row that could not be done, put into detail->row: EF_OK for n_rows,
 * EF_NOT_FINITE if it has NaN or infinity, else EF_OVERFLOW. */
ef_status ef_row_status(ef_matrix x, size_t row, ef_detail *detail);

#endif
