/* Eigenvectors of a symmetric matrix, by LAPACK. */
#include "core/embedfilter.h"
#include "core/arithmetic.h"
#include "core/memory.h"
#include "core/openblas.h"
#include "core/rows.h"

#include <stdlib.h>
#include <string.h>

static bool upper_finite(const double *matrix, size_t d, size_t *row) {
    for (size_t i = 0; i < d; i++) {
        if (!ef_finite_f64(matrix + i * d + i, d - i)) {
            *row = i;
            return false;
        }
    }
    return true;
}

/* The three steps of dsyevd, but the last one for the wanted eigenvectors only:
 * matrix = Q T Q^T, T = Z diag(values) Z^T, vectors = Q times columns of Z.
 * z is (d, d), more is (2 d); Fortran's columns are our rows, its lower triangle our upper. */
static int decompose(double *matrix, double *values, int d, const int64_t *wanted, int n_wanted,
                     double *vectors, double *z, double *more, double *work, int lwork) {
    const int liwork = 3 + 5 * d;
    int *iwork = (int *)(work + lwork);
    double *off_diagonal = more, *tau = more + d;
    int info = 0;
    BLAS(dsytrd_)("L", &d, matrix, &d, values, off_diagonal, tau, work, &lwork, &info, 1);
    if (info == 0)
        BLAS(dstedc_)("I", &d, values, off_diagonal, z, &d, work, &lwork, iwork, &liwork, &info, 1);
    if (info != 0)
        return info;
    for (int i = 0; i < n_wanted; i++)
        memcpy(vectors + (size_t)i * (size_t)d, z + (size_t)wanted[i] * (size_t)d,
               (size_t)d * sizeof(double));
    BLAS(dormtr_)("L", "L", "N", &d, &n_wanted, matrix, &d, tau, vectors, &d, work, &lwork, &info,
                  1, 1, 1);
    return info;
}

ef_status ef_eigh(double *matrix, double *values, size_t d, const int64_t *wanted, size_t n_wanted,
                  double *vectors, size_t n_threads, ef_detail *detail) {
    if (d == 0)
        return EF_OK;
    if (d > EF_MAX_COLUMNS || n_wanted > EF_MAX_COLUMNS)
        return EF_TOO_LARGE;
    if (!upper_finite(matrix, d, &detail->row))
        return EF_NOT_FINITE;
    /* dstedc's; dormtr's is n_wanted at least */
    const size_t lwork = ef_most(1 + 4 * d + d * d, n_wanted);
    const size_t bytes = (d * d + 2 * d + lwork) * sizeof(double) + (3 + 5 * d) * sizeof(int);
    double *z = ef_new_array(bytes, 1, detail);
    if (z == NULL)
        return EF_NO_MEMORY;
    double *more = z + d * d;
    ef_enter_openblas(n_threads);
    const int info = decompose(matrix, values, (int)d, wanted, (int)n_wanted, vectors, z, more,
                               more + 2 * d, (int)lwork);
    ef_leave_openblas();
    free(z);
    detail->count = (size_t)info;
    return info == 0 ? EF_OK : EF_LAPACK;
}
