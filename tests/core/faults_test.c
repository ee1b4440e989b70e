/* Every allocation of the C core made to fail in turn, without Python: each operation must then say
 * EF_NO_MEMORY, keep nothing (run it under LeakSanitizer), and do its work when called again.
 * Then sizes that do not fit the arithmetic, and a LAPACK that does not converge.
 *
 * Linked with -Wl,--wrap=... of malloc, posix_memalign, pthread_create, pthread_mutex_init and
 * OpenBLAS's dstedc_: the core's own calls come here, OpenBLAS's do not. A thread that cannot be
 * made is no error: the caller works alone.
 */
#include "core/embedfilter.h"
#include "core/openblas.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t bytes);
int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
void *__wrap_malloc(size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);

int __real_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);

static size_t n_calls, failing; /* the call that fails, counted from 1; 0 for none */
static bool no_threads;

static bool fails(void) {
    return ++n_calls == failing;
}

void *__wrap_malloc(size_t bytes) {
    return fails() ? NULL : __real_malloc(bytes);
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes) {
    return fails() ? ENOMEM : __real_posix_memalign(memory, alignment, bytes);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument) {
    return no_threads ? EAGAIN : __real_pthread_create(thread, attributes, run, argument);
}

int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
    return fails() ? ENOMEM : __real_pthread_mutex_init(mutex, attributes);
}

/* LAPACK's iteration as it is, or as if it had not converged. */
static bool no_convergence;

#define REAL_DSTEDC JOIN(__real_, BLAS(dstedc_))
#define WRAP_DSTEDC JOIN(__wrap_, BLAS(dstedc_))
void REAL_DSTEDC(const char *compz, const int *n, double *d, double *e, double *z, const int *ldz,
                 double *work, const int *lwork, int *iwork, const int *liwork, int *info,
                 size_t compz_length);
void WRAP_DSTEDC(const char *compz, const int *n, double *d, double *e, double *z, const int *ldz,
                 double *work, const int *lwork, int *iwork, const int *liwork, int *info,
                 size_t compz_length);
void WRAP_DSTEDC(const char *compz, const int *n, double *d, double *e, double *z, const int *ldz,
                 double *work, const int *lwork, int *iwork, const int *liwork, int *info,
                 size_t compz_length) {
    REAL_DSTEDC(compz, n, d, e, z, ldz, work, lwork, iwork, liwork, info, compz_length);
    if (no_convergence)
        *info = 7;
}

enum { N = 300, D = 70, K = 20, TOP = 5, RESULT = D * D };

static float rows[N * D], basis[2 * D], mean[D];

static ef_matrix matrix(const float *data, size_t n) {
    return (ef_matrix){.data = (const unsigned char *)data,
                       .stride_bytes = D * sizeof(float),
                       .n_rows = n,
                       .n_cols = D,
                       .dtype = EF_F32};
}

static ef_status gram(double *result, size_t p) {
    ef_gram *sum = NULL;
    ef_detail detail;
    ef_status status = ef_gram_new(D, basis, p, &sum, &detail);
    if (status == EF_OK)
        status = ef_gram_add(sum, matrix(rows, N), 2, &detail);
    if (status == EF_OK)
        status = ef_gram_finish(sum, result, 2, &detail);
    ef_gram_free(sum);
    return status;
}

static ef_status exact_gram(double *result) {
    return gram(result, 0);
}

static ef_status peeled_gram(double *result) {
    return gram(result, 2);
}

/* Checked here, and no result: the last bits are OpenBLAS's affair. */
static ef_status eigenvectors(double *result) {
    (void)result;
    double symmetric[D * D], destroyed[D * D], values[D], vectors[2 * D];
    const int64_t wanted[2] = {1, D - 1};
    ef_detail detail;
    for (size_t i = 0; i < D; i++)
        for (size_t j = 0; j < D; j++)
            symmetric[i * D + j] = (double)rows[i * D + j] + (double)rows[j * D + i];
    memcpy(destroyed, symmetric, sizeof symmetric);
    const ef_status status = ef_eigh(destroyed, values, D, wanted, 2, vectors, 2, &detail);
    for (size_t i = 0; i < 2 * D && status == EF_OK; i++) {
        double rest = -values[wanted[i / D]] * vectors[i];
        for (size_t j = 0; j < D; j++)
            rest += symmetric[i % D * D + j] * vectors[i / D * D + j];
        if (!(fabs(rest) < 1e-11)) /* of eigenvalues up to 20 */
            return EF_LAPACK;
    }
    return status;
}

static ef_status projection(double *result, size_t n) {
    ef_filter *filter = NULL;
    ef_detail detail;
    const ef_output form = {.precision = EF_OUT_F32, .normalize = true};
    ef_status status = ef_filter_new(rows, mean, K, D, &filter, &detail);
    if (status == EF_OK)
        status = ef_project(filter, matrix(rows, n), form, result, 2, &detail);
    ef_filter_free(filter);
    return status;
}

static ef_status few_rows(double *result) {
    return projection(result, 3);
}

static ef_status many_rows(double *result) {
    return projection(result, N);
}

static ef_status lens(double *result) {
    ef_lens *search = NULL;
    ef_detail detail;
    ef_status status = ef_lens_new(matrix(rows, 40), TOP, &search, &detail);
    if (status == EF_OK)
        status = ef_lens_add(search, matrix(rows, N), 2, &detail);
    if (status == EF_OK)
        ef_lens_finish(search, (int64_t *)result, (float *)(result + 40 * TOP));
    ef_lens_free(search);
    return status;
}

static const struct {
    const char *name;
    ef_status (*run)(double *result);
} OPERATIONS[] = {{"exact gram", exact_gram},     {"peeled gram", peeled_gram},
                  {"eigenvectors", eigenvectors}, {"few rows", few_rows},
                  {"many rows", many_rows},       {"lens", lens}};

/* The number of failures survived; 0 and a message if one was not. */
static size_t survived(size_t operation) {
    static double expected[RESULT], result[RESULT];
    ef_status (*run)(double *) = OPERATIONS[operation].run;
    memset(expected, 0, sizeof expected);
    failing = 0;
    if (run(expected) != EF_OK)
        return 0;
    for (size_t at = 1;; at++) {
        memset(result, 0, sizeof result);
        n_calls = 0;
        failing = at;
        const ef_status status = run(result);
        const bool reached = n_calls >= at;
        failing = 0;
        if (status != (reached ? EF_NO_MEMORY : EF_OK))
            return 0;
        if (!reached)
            return at - 1;
        memset(result, 0, sizeof result);
        if (run(result) != EF_OK || memcmp(result, expected, sizeof result) != 0)
            return 0;
    }
}

/* Sizes and answers that are errors: how many were not told as they should be. */
static size_t wrong_refusals(void) {
    size_t wrong = 0;
    double small[1] = {0.0}, symmetric[D * D] = {0}, values[D], vectors[D];
    const int64_t wanted[1] = {0};
    ef_detail detail = {0};
    ef_filter *filter = NULL;
    ef_gram *sum = NULL;
    ef_lens *search = NULL;
    const size_t huge = SIZE_MAX / 8, many = EF_MAX_COLUMNS + 1;
    wrong += ef_eigh(small, small, 0, wanted, 0, small, 1, &detail) != EF_OK;
    wrong += ef_eigh(small, small, many, wanted, 1, small, 1, &detail) != EF_TOO_LARGE;
    wrong += ef_eigh(small, small, 1, wanted, many, small, 1, &detail) != EF_TOO_LARGE;
    no_convergence = true;
    wrong += ef_eigh(symmetric, values, D, wanted, 1, vectors, 1, &detail) != EF_LAPACK;
    wrong += detail.count != 7;
    no_convergence = false;
    wrong += ef_gram_new(0, NULL, 0, &sum, &detail) != EF_TOO_LARGE;
    wrong += ef_gram_new(many, NULL, 0, &sum, &detail) != EF_TOO_LARGE;
    wrong += ef_gram_new(D, rows, 9, &sum, &detail) != EF_TOO_LARGE;
    wrong += ef_filter_new(rows, NULL, 1, huge, &filter, &detail) != EF_TOO_LARGE;
    wrong += ef_filter_new(rows, NULL, huge, 1, &filter, &detail) != EF_TOO_LARGE;
    wrong += ef_lens_new(matrix(rows, N), (size_t)1 << 32, &search, &detail) != EF_TOO_LARGE;
    wrong += ef_lens_new(matrix(rows, huge), TOP, &search, &detail) != EF_TOO_LARGE;
    if (ef_lens_new(matrix(rows, 1), TOP, &search, &detail) == EF_OK) {
        wrong += ef_lens_add(search, matrix(rows, (size_t)1 << 32), 1, &detail) != EF_TOO_LARGE;
        ef_lens_free(search);
    } else {
        wrong++;
    }
    wrong += sum != NULL || filter != NULL;
    for (int status = EF_OK; status <= EF_UNAVAILABLE + 1; status++)
        for (int other = EF_OK; other < status; other++)
            wrong +=
                strcmp(ef_status_text((ef_status)status), ef_status_text((ef_status)other)) == 0;
    return wrong;
}

int main(void) {
    unsigned state = 1;
    for (size_t i = 0; i < N * D; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
    }
    basis[0] = basis[D + 1] = 1.0f;
    size_t failed = 0;
    for (int threads = 0; threads < 2; threads++) {
        no_threads = threads == 0;
        for (size_t isa = 0; isa < ef_isa_count(); isa++) {
            if (ef_set_isa(ef_isa_name(isa)) != EF_OK)
                return 2;
            size_t total = 0;
            for (size_t i = 0; i < sizeof OPERATIONS / sizeof *OPERATIONS; i++) {
                const size_t n = survived(i);
                if (n == 0) {
                    printf("%s, %s: not survived\n", ef_get_isa(), OPERATIONS[i].name);
                    failed++;
                }
                total += n;
            }
            const size_t wrong = wrong_refusals();
            failed += wrong;
            printf("%s, %s threads: %zu failed allocations survived, %zu refusals wrong\n",
                   ef_get_isa(), no_threads ? "without" : "with", total, wrong);
        }
    }
    return failed > 0;
}
