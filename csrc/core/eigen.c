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

enum {
    PANEL = 32,    /* columns reduced before the rest is brought up to date, as LAPACK has it */
    STRIPE = 128,  /* columns of the rest in a task */
    VECTORS = 128, /* turned back at a time */
};

/* The rest of the matrix, to be brought up to date by two panels: a -= v w^T + w v^T. */
typedef struct rest {
    double *a;
    const double *v, *w; /* (n, PANEL) in Fortran's order */
    int n, lda, ldw;     /* lda is v's too */
} rest;

/* Columns of the lower triangle, from the diagonal down. */
static void rest_task(void *context, size_t slot, size_t index) {
    (void)slot;
    const rest *r = context;
    const double minus = -1.0, one = 1.0;
    const int k = PANEL, first = (int)index * STRIPE;
    const int n = r->n - first < STRIPE ? r->n - first : STRIPE, m = r->n - first - n;
    double *diagonal = r->a + (size_t)first * ((size_t)r->lda + 1), *below = diagonal + n;
    const double *v = r->v + first, *w = r->w + first;
    ef_enter_openblas();
    BLAS(dsyr2k_)("L", "N", &n, &k, &minus, v, &r->lda, w, &r->ldw, &one, diagonal, &r->lda, 1, 1);
    if (m > 0) {
        BLAS(dgemm_)("N", "T", &m, &n, &k, &minus, v + n, &r->lda, w, &r->ldw, &one, below, &r->lda,
                     1, 1);
        BLAS(dgemm_)("N", "T", &m, &n, &k, &minus, w + n, &r->ldw, v, &r->lda, &one, below, &r->lda,
                     1, 1);
    }
    ef_leave_openblas();
}

/* LAPACK's dsytrd, in pieces: matrix = Q T Q^T with T tridiagonal; work is (PANEL, d). */
static int reduce(double *matrix, int d, double *values, double *off_diagonal, double *tau,
                  double *work, size_t n_threads) {
    const int nb = PANEL;
    const size_t ld = (size_t)d;
    int i = 0, info = 0;
    for (; i < d - PANEL; i += PANEL) {
        double *panel = matrix + (size_t)i * (ld + 1);
        const int n = d - i;
        ef_enter_openblas();
        BLAS(dlatrd_)("L", &n, &nb, panel, &d, off_diagonal + i, tau + i, work, &d, 1);
        ef_leave_openblas();
        rest r = {panel + PANEL * (ld + 1), panel + PANEL, work + PANEL, n - PANEL, d, d};
        ef_parallel_for(n_threads, ef_ceil_div((size_t)r.n, STRIPE), rest_task, &r);
        for (int j = i; j < i + PANEL; j++) {
            values[j] = matrix[(size_t)j * (ld + 1)];
            matrix[(size_t)j * (ld + 1) + 1] = off_diagonal[j];
        }
    }
    const int n = d - i;
    ef_enter_openblas();
    BLAS(dsytd2_)("L", &n, matrix + (size_t)i * (ld + 1), &d, values + i, off_diagonal + i, tau + i,
                  &info, 1);
    ef_leave_openblas();
    return info;
}

/* The three steps of dsyevd, but the last one for the wanted eigenvectors only:
 * matrix = Q T Q^T, T = Z diag(values) Z^T, vectors = Q times columns of Z.
 * z is (d, d), more is (2 d); Fortran's columns are our rows, its lower triangle our upper. */
static int decompose(double *matrix, double *values, int d, const int64_t *wanted, int n_wanted,
                     double *vectors, double *z, double *more, double *work, int lwork,
                     size_t n_threads) {
    const int liwork = 3 + 5 * d;
    int *iwork = (int *)(work + lwork);
    double *off_diagonal = more, *tau = more + d;
    int info = reduce(matrix, d, values, off_diagonal, tau, work, n_threads);
    if (info != 0)
        return info;
    ef_enter_openblas();
    BLAS(dstedc_)("I", &d, values, off_diagonal, z, &d, work, &lwork, iwork, &liwork, &info, 1);
    ef_leave_openblas();
    for (int i = 0; i < n_wanted && info == 0; i++)
        memcpy(vectors + (size_t)i * (size_t)d, z + (size_t)wanted[i] * (size_t)d,
               (size_t)d * sizeof(double));
    for (int i = 0; i < n_wanted && info == 0; i += VECTORS) {
        const int n = n_wanted - i < VECTORS ? n_wanted - i : VECTORS;
        ef_enter_openblas();
        BLAS(dormtr_)("L", "L", "N", &d, &n, matrix, &d, tau, vectors + (size_t)i * (size_t)d, &d,
                      work, &lwork, &info, 1, 1, 1);
        ef_leave_openblas();
    }
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
    /* dstedc's; the panels' is PANEL d, dormtr's VECTORS at least. */
    const size_t lwork = ef_most(1 + 4 * d + d * d, ef_most(PANEL * d, VECTORS));
    const size_t bytes = (d * d + 2 * d + lwork) * sizeof(double) + (3 + 5 * d) * sizeof(int);
    double *z = ef_new_array(bytes, 1, detail);
    if (z == NULL)
        return EF_NO_MEMORY;
    double *more = z + d * d;
    const int info = decompose(matrix, values, (int)d, wanted, (int)n_wanted, vectors, z, more,
                               more + 2 * d, (int)lwork, n_threads);
    free(z);
    detail->count = (size_t)info;
    return info == 0 ? EF_OK : EF_LAPACK;
}
