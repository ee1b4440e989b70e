/* What the core takes from OpenBLAS, and the lock around it. */
#ifndef EMBEDFILTER_OPENBLAS_H
#define EMBEDFILTER_OPENBLAS_H

#include <stddef.h>

/* OpenBLAS may have been built with a prefix before each symbol, so that several copies
 * live in one process; the build defines BLAS_SYMBOL_PREFIX where it has. */
#ifndef BLAS_SYMBOL_PREFIX
#define BLAS_SYMBOL_PREFIX
#endif
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define BLAS(name) JOIN(BLAS_SYMBOL_PREFIX, name)

/* Fortran's functions; the last arguments are the lengths of the strings. */
void BLAS(dlatrd_)(const char *uplo, const int *n, const int *nb, double *a, const int *lda,
                   double *e, double *tau, double *w, const int *ldw, size_t uplo_length);
void BLAS(dsytd2_)(const char *uplo, const int *n, double *a, const int *lda, double *d, double *e,
                   double *tau, int *info, size_t uplo_length);
void BLAS(dsyr2k_)(const char *uplo, const char *trans, const int *n, const int *k,
                   const double *alpha, const double *a, const int *lda, const double *b,
                   const int *ldb, const double *beta, double *c, const int *ldc,
                   size_t uplo_length, size_t trans_length);
void BLAS(dgemm_)(const char *transa, const char *transb, const int *m, const int *n, const int *k,
                  const double *alpha, const double *a, const int *lda, const double *b,
                  const int *ldb, const double *beta, double *c, const int *ldc,
                  size_t transa_length, size_t transb_length);
void BLAS(dstedc_)(const char *compz, const int *n, double *d, double *e, double *z, const int *ldz,
                   double *work, const int *lwork, int *iwork, const int *liwork, int *info,
                   size_t compz_length);
void BLAS(dormtr_)(const char *side, const char *uplo, const char *trans, const int *m,
                   const int *n, const double *a, const int *lda, const double *tau, double *c,
                   const int *ldc, double *work, const int *lwork, int *info, size_t side_length,
                   size_t uplo_length, size_t trans_length);

/* Every call stands between these two, and is short where it can be: a fork waits until nobody is
 * inside. Several threads may be; each call runs on its caller's thread alone. OpenBLAS's own
 * threads do not go with forks, wait without end for one that could not be made, and where other
 * work keeps them from a processor spin so long that two are slower than one many times over. */
void ef_enter_openblas(void);
void ef_leave_openblas(void);

#endif
