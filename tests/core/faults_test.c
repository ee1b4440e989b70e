/* Every allocation of the C core made to fail in turn, without Python: each operation must then say
 * EF_NO_MEMORY, keep nothing (run it under LeakSanitizer), and do its work when called again.
 * Then an OpenBLAS that cannot be loaded, sizes that do not fit the arithmetic, and a LAPACK that
 * does not converge.
 *
 * Linked with -Wl,--wrap=... of what the core asks the system for: its own calls come here. With
 * -rdynamic OpenBLAS's to pthread_create do too: a thread that cannot be made is no error, the
 * caller works alone.
 */
#include "core/embedfilter.h"
#include "core/openblas.h"
#include "core/system.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <dlfcn.h>
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

void *__real_ef_allocate(size_t bytes);
bool __real_ef_new_mutex(ef_mutex *mutex);
void *__real_ef_open_library(const char *path, bool confined, char why[], size_t why_bytes);
void *__real_ef_find_function(void *library, const char *name);
void *__wrap_ef_allocate(size_t bytes);
bool __wrap_ef_new_mutex(ef_mutex *mutex);
void *__wrap_ef_open_library(const char *path, bool confined, char why[], size_t why_bytes);
void *__wrap_ef_find_function(void *library, const char *name);

static size_t n_calls, failing; /* the call that fails, counted from 1; 0 for none */
static bool no_threads;
static size_t n_threads_asked_for;

static bool fails(void) {
    return ++n_calls == failing;
}

void *__wrap_ef_allocate(size_t bytes) {
    return fails() ? NULL : __real_ef_allocate(bytes);
}

bool __wrap_ef_new_mutex(ef_mutex *mutex) {
    return !fails() && __real_ef_new_mutex(mutex);
}

#ifdef _WIN32
bool __real_ef_make_thread(void *(*run)(void *), void *argument);
bool __wrap_ef_make_thread(void *(*run)(void *), void *argument);

bool __wrap_ef_make_thread(void *(*run)(void *), void *argument) {
    n_threads_asked_for++;
    return !no_threads && __real_ef_make_thread(run, argument);
}
#else
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *argument) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    void *found = dlsym(RTLD_NEXT, "pthread_create");
    memcpy(&real, &found, sizeof real);
    n_threads_asked_for++;
    return no_threads ? EAGAIN : real(thread, attributes, run, argument);
}
#endif

/* LAPACK's iterations as they are, or as if they had not converged. */
static bool leaf_fails, root_fails;
static ef_openblas real;

static void dsteqr(const char *compz, const int *n, double *d, double *e, double *z, const int *ldz,
                   double *work, int *info, size_t compz_length) {
    real.dsteqr(compz, n, d, e, z, ldz, work, info, compz_length);
    if (leaf_fails)
        *info = 7;
}

static void dlaed4(const int *n, const int *i, const double *d, const double *z, double *delta,
                   const double *rho, double *dlam, int *info) {
    real.dlaed4(n, i, d, z, delta, rho, dlam, info);
    if (root_fails)
        *info = 7;
}

/* How OpenBLAS is loaded. */
static bool no_library, forks;
static const char *no_function = "";

#ifndef _WIN32
/* The exit status of a child in which OpenBLAS is half loaded. */
static int half_loaded(void) {
    ef_detail detail;
    const pid_t child = fork();
    if (child == 0)
        _exit(ef_load_openblas(&detail) == EF_NO_LIBRARY && strstr(detail.reason, "fork") ? 0 : 1);
    int status = 1;
    waitpid(child, &status, 0);
    return status;
}
#else
static int half_loaded(void) {
    return 0;
}
#endif

void *__wrap_ef_open_library(const char *path, bool confined, char why[], size_t why_bytes) {
    void *library =
        __real_ef_open_library(no_library ? "/nowhere/lib.so" : path, confined, why, why_bytes);
    if (forks && half_loaded() != 0)
        exit(1);
    return library;
}

void *__wrap_ef_find_function(void *library, const char *name) {
    void *found = strcmp(name, no_function) == 0 ? NULL : __real_ef_find_function(library, name);
    void (*root)(const int *, const int *, const double *, const double *, double *, const double *,
                 double *, int *) = dlaed4;
    void (*leaf)(const char *, const int *, double *, double *, double *, const int *, double *,
                 int *, size_t) = dsteqr;
    if (strcmp(name, OPENBLAS_PREFIX "dlaed4_") == 0 && found != NULL) {
        memcpy(&real.dlaed4, &found, sizeof found);
        memcpy(&found, &root, sizeof found);
    }
    if (strcmp(name, OPENBLAS_PREFIX "dsteqr_") == 0 && found != NULL) {
        memcpy(&real.dsteqr, &found, sizeof found);
        memcpy(&found, &leaf, sizeof found);
    }
    return found;
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

/* Checked here, and no result: it is the same for each instruction set. */
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

#ifdef _WIN32
#define NO_FILE "cannot be opened"
#else
#define NO_FILE "cannot open shared object file"
#endif

/* Whether a decomposition is refused because of OpenBLAS, for which the reason has this word. */
static bool refused(const char *word) {
    double one[1] = {1.0}, value[1];
    ef_detail detail = {0};
    const ef_status status = ef_eigh(one, value, 1, NULL, 0, NULL, 1, &detail);
    return status == EF_NO_LIBRARY && strstr(detail.reason, "openblas") != NULL &&
           strstr(detail.reason, word) != NULL && strchr(detail.reason, '/') == NULL;
}

/* How many of these went wrong. Loading is tried again after each failure, and needs no threads. */
static size_t wrong_loading(void) {
    size_t wrong = 0;
    ef_detail detail = {0};
    no_library = true;
    wrong += !refused(NO_FILE);
    no_library = false;
    char why[64];
    wrong += __real_ef_open_library("nowhere.so", false, why, sizeof why) != NULL ||
             strstr(why, "cannot") == NULL;
    no_function = OPENBLAS_PREFIX "dlaed4_";
    wrong += !refused("dlaed4");
    no_function = "";
    forks = true;
    wrong += ef_load_openblas(&detail) != EF_OK || n_threads_asked_for != 0;
    no_library = true;
    wrong += ef_load_openblas(&detail) != EF_OK; /* no more */
    return wrong;
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
    for (size_t i = 0; i < D * D; i++)
        symmetric[i] = (double)rows[i] + (double)rows[i % D * D + i / D];
    for (int part = 0; part < 2; part++) {
        double destroyed[D * D];
        memcpy(destroyed, symmetric, sizeof destroyed);
        leaf_fails = part == 0, root_fails = part == 1;
        wrong += ef_eigh(destroyed, values, D, wanted, 1, vectors, 1, &detail) != EF_LAPACK;
        wrong += detail.count != 7;
    }
    leaf_fails = root_fails = false;
    for (size_t i = 0; i < D * D; i++)
        symmetric[i] = 1e308;
    wrong += ef_eigh(symmetric, values, D, wanted, 1, vectors, 1, &detail) != EF_OVERFLOW;
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
    no_threads = true;
    size_t failed = wrong_loading();
    printf("%zu mistakes when OpenBLAS was loaded\n", failed);
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
