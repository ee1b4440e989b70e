/* Eigenvectors of a symmetric matrix: the only file that calls LAPACK. */
#include "embedfilter.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

/* OpenBLAS may have been built with a prefix before each symbol, so that several copies
 * live in one process; the build defines BLAS_SYMBOL_PREFIX where it has. */
#ifndef BLAS_SYMBOL_PREFIX
#define BLAS_SYMBOL_PREFIX
#endif
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define BLAS(name) JOIN(BLAS_SYMBOL_PREFIX, name)

/* Fortran's dsyevd; the two last arguments are the lengths of jobz and uplo. */
void BLAS(dsyevd_)(const char *jobz, const char *uplo, const int *n, double *a, const int *lda,
                   double *w, double *work, const int *lwork, int *iwork, const int *liwork,
                   int *info, size_t jobz_length, size_t uplo_length);
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

ef_status ef_eigh(double *matrix, double *values, size_t d, size_t n_threads, ef_detail *detail) {
    if (d == 0)
        return EF_OK;
    if (d > EF_MAX_COLUMNS) /* dsyevd's work size 1 + 6 d + 2 d^2 passes 2^31 - 1 */
        return EF_TOO_LARGE;
    if (!upper_finite(matrix, d, &detail->row))
        return EF_NOT_FINITE;
    /* Fortran reads the columns first: our upper triangle is its lower one, and the
     * eigenvectors it leaves in its columns are our rows. */
    const int n = (int)d, lwork = 1 + 6 * n + 2 * n * n, liwork = 3 + 5 * n;
    const size_t bytes = (size_t)lwork * sizeof(double) + (size_t)liwork * sizeof(int);
    double *work = malloc(bytes);
    if (work == NULL) {
        detail->count = bytes;
        return EF_NO_MEMORY;
    }
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    int info = 0;
    pthread_mutex_lock(&lapack_mutex);
    const int threads_before = BLAS(openblas_get_num_threads)();
    BLAS(openblas_set_num_threads)((int)(n_threads < 64 ? n_threads : 64));
    BLAS(dsyevd_)("V", "L", &n, matrix, &n, values, work, &lwork, (int *)(work + lwork), &liwork,
                  &info, 1, 1);
    BLAS(openblas_set_num_threads)(threads_before); /* a system's OpenBLAS is not ours alone */
    pthread_mutex_unlock(&lapack_mutex);
    free(work);
    detail->count = (size_t)info;
    return info == 0 ? EF_OK : EF_LAPACK;
}
