/* What the core takes from OpenBLAS, which is loaded where it is first needed, and the lock around
 * it. */
#ifndef EMBEDFILTER_OPENBLAS_H
#define EMBEDFILTER_OPENBLAS_H

#include "core/embedfilter.h"

/* Fortran's functions; the last arguments are the lengths of the strings. */
typedef struct ef_openblas {
    void (*dgemm)(const char *transa, const char *transb, const int *m, const int *n, const int *k,
                  const double *alpha, const double *a, const int *lda, const double *b,
                  const int *ldb, const double *beta, double *c, const int *ldc,
                  size_t transa_length, size_t transb_length);
    void (*dlaed2)(int *k, const int *n, const int *n1, double *d, double *q, const int *ldq,
                   int *indxq, double *rho, const double *z, double *dlambda, double *w, double *q2,
                   int *indx, int *indxc, int *indxp, int *coltyp, int *info);
    void (*dlaed4)(const int *n, const int *i, const double *d, const double *z, double *delta,
                   const double *rho, double *dlam, int *info);
    void (*dlamrg)(const int *n1, const int *n2, const double *a, const int *dtrd1,
                   const int *dtrd2, int *index);
    void (*dlarfb)(const char *side, const char *trans, const char *direct, const char *storev,
                   const int *m, const int *n, const int *k, const double *v, const int *ldv,
                   const double *t, const int *ldt, double *c, const int *ldc, double *work,
                   const int *ldwork, size_t side_length, size_t trans_length, size_t direct_length,
                   size_t storev_length);
    void (*dlarft)(const char *direct, const char *storev, const int *n, const int *k,
                   const double *v, const int *ldv, const double *tau, double *t, const int *ldt,
                   size_t direct_length, size_t storev_length);
    void (*dlatrd)(const char *uplo, const int *n, const int *nb, double *a, const int *lda,
                   double *e, double *tau, double *w, const int *ldw, size_t uplo_length);
    void (*dsteqr)(const char *compz, const int *n, double *d, double *e, double *z, const int *ldz,
                   double *work, int *info, size_t compz_length);
    void (*dsyr2k)(const char *uplo, const char *trans, const int *n, const int *k,
                   const double *alpha, const double *a, const int *lda, const double *b,
                   const int *ldb, const double *beta, double *c, const int *ldc,
                   size_t uplo_length, size_t trans_length);
    void (*dsytd2)(const char *uplo, const int *n, double *a, const int *lda, double *d, double *e,
                   double *tau, int *info, size_t uplo_length);
    int (*get_num_threads)(void);
    void (*set_num_threads)(int n_threads);
} ef_openblas;

/* Every call stands between these two, and is short: a fork waits until nobody is inside. They are
 * for those to whom ef_load_openblas has said EF_OK. Several threads may be inside; each call runs
 * on its caller's thread alone. OpenBLAS's own threads do not go with forks, wait without end for
 * one that could not be made, and where other work keeps them from a processor spin so long that
 * two are slower than one many times over. */
const ef_openblas *ef_enter_openblas(void);
void ef_leave_openblas(void);

#endif
