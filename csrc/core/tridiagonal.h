/* Eigenvectors of a symmetric tridiagonal matrix. */
#ifndef EMBEDFILTER_TRIDIAGONAL_H
#define EMBEDFILTER_TRIDIAGONAL_H

#include "core/embedfilter.h"

/* All eigenvalues and eigenvectors of the matrix with `values` (d) on the diagonal and
 * `off_diagonal` (d) beside it, whose last number is not used.
 *   values  (d): become the eigenvalues, ascending
 *   z       (d, d): column order[i] becomes the unit eigenvector of values[i], in Fortran's order
 *   order   (d)
 * EF_NO_MEMORY; EF_LAPACK. OpenBLAS is loaded. The result does not depend on n_threads. */
ef_status ef_tridiagonal(double *values, double *off_diagonal, size_t d, double *z, int *order,
                         size_t n_threads, ef_detail *detail);

#endif
