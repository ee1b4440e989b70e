/* Eigenvectors of a symmetric matrix: the only file that calls LAPACK. */
#include "embedfilter.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* OpenBLAS may have been built with a prefix before each symbol, so that several copies
 * live in one process; the build defines BLAS_SYMBOL_PREFIX where it has. */
#ifndef BLAS_SYMBOL_PREFIX
#define BLAS_SYMBOL_PREFIX
#endif
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define BLAS(name) JOIN(BLAS_SYMBOL_PREFIX, name)

/* Fortran's functions; the last arguments are the lengths of the strings. */
void BLAS(dsytrd_)(const char *uplo, const int *n, double *a, const int *lda, double *d, double *e,
                   double *tau, double *work, const int *lwork, int *info, size_t uplo_length);
void BLAS(dstedc_)(const char *compz, const int *n, double *d, double *e, double *z, const int *ldz,
                   double *work, const int *lwork, int *iwork, const int *liwork, int *info,
                   size_t compz_length);
void BLAS(dormtr_)(const char *side, const char *uplo, const char *trans, const int *m,
                   const int *n, const double *a, const int *lda, const double *tau, double *c,
                   const int *ldc, double *work, const int *lwork, int *info, size_t side_length,
                   size_t uplo_length, size_t trans_length);
int BLAS(openblas_get_num_threads)(void);
void BLAS(openblas_set_num_threads)(int n_threads);

static pthread_mutex_t lapack_mutex = PTHREAD_MUTEX_INITIALIZER;

/* The lock is held across a fork, so that the child does not inherit it taken by a thread
 * that it does not have. */
static void before_fork(void) {
    pthread_mutex_lock(&lapack_mutex);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&lapack_mutex);
}

static void after_fork_in_child(void) {
    pthread_mutex_init(&lapack_mutex, NULL);
}

static void register_fork_handlers(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static bool upper_finite(const double *matrix, size_t d, size_t *row) {
    for (size_t i = 0; i < d; i++) {
        for (size_t j = i; j < d; j++) {
            if (!isfinite(matrix[i * d + j])) {
                *row = i;
                return false;
            }
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
    const size_t lwork = 1 + 4 * d + d * d; /* dstedc's; the others take less */
    const size_t bytes = (d * d + 2 * d + lwork) * sizeof(double) + (3 + 5 * d) * sizeof(int);
    double *z = malloc(bytes);
    if (z == NULL) {
        detail->count = bytes;
        return EF_NO_MEMORY;
    }
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    pthread_mutex_lock(&lapack_mutex);
    const int threads_before = BLAS(openblas_get_num_threads)();
    BLAS(openblas_set_num_threads)((int)(n_threads < 64 ? n_threads : 64));
    double *more = z + d * d;
    const int info = decompose(matrix, values, (int)d, wanted, (int)n_wanted, vectors, z, more,
                               more + 2 * d, (int)lwork);
    BLAS(openblas_set_num_threads)(threads_before); /* a system's OpenBLAS is not ours alone */
    pthread_mutex_unlock(&lapack_mutex);
    free(z);
    detail->count = (size_t)info;
    return info == 0 ? EF_OK : EF_LAPACK;
}
