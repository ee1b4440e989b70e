/* The operations of the C core from many threads at once, without Python, for ThreadSanitizer:
 * `threads_test [CALLERS [SECONDS [PROCESSORS]]]`. Each caller draws an operation, and how many
 * threads it may use, again and again; each result must be that of the one made alone, to the bit.
 * With PROCESSORS there seem to be so many: a machine of two shows how callers share more.
 */
#include "core/embedfilter.h"
#include "core/system.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifndef _WIN32
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { N = 400, D = 300, K = 70, TOP = 5, MAX_CALLERS = 256, MAX_THREADS = 5 };
enum { RESULT_BYTES = N * K * sizeof(float) };

static float rows[N * D], basis[2 * D];
static ef_filter *shared; /* callers use it together */
static time_t end;
static int n_processors; /* that there seem to be; 0: those there are */

#ifdef _WIN32
bool __real_ef_find_place(ef_place *place, int cpu, size_t *n);
bool __wrap_ef_find_place(ef_place *place, int cpu, size_t *n);
bool __wrap_ef_find_place(ef_place *place, int cpu, size_t *n) {
    const bool elsewhere = __real_ef_find_place(place, cpu, n);
    *n = n_processors == 0 ? *n : (size_t)n_processors;
    return elsewhere;
}
#else
/* In place of the C library's. */
int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    if (n_processors == 0)
        return syscall(SYS_sched_getaffinity, pid, size, set) < 0 ? -1 : 0;
    memset(set, 0, size);
    for (int i = 0; i < n_processors; i++)
        CPU_SET(i, set);
    return 0;
}
#endif

static ef_matrix matrix(const float *data, size_t n, size_t d) {
    return (ef_matrix){.data = (const unsigned char *)data,
                       .stride_bytes = D * sizeof(float),
                       .n_rows = n,
                       .n_cols = d,
                       .dtype = EF_F32};
}

static bool project(void *result, size_t n, ef_precision precision, size_t n_threads) {
    static const float starts[K] = {0};
    float steps[K];
    for (size_t i = 0; i < K; i++)
        steps[i] = 0.01f;
    const ef_output form = {precision, true, starts, steps};
    ef_detail detail;
    return ef_project(shared, matrix(rows, n, D), form, result, n_threads, &detail) == EF_OK;
}

static bool one_row(void *result, size_t n_threads) {
    return project(result, 1, EF_OUT_F32, n_threads);
}

static bool few_rows(void *result, size_t n_threads) {
    return project(result, 20, EF_OUT_F16, n_threads);
}

static bool many_rows(void *result, size_t n_threads) {
    return project(result, N, EF_OUT_F32, n_threads);
}

static bool many_rows_int8(void *result, size_t n_threads) {
    return project(result, N, EF_OUT_I8, n_threads);
}

static bool new_filter(void *result, size_t n_threads) {
    ef_filter *filter = NULL;
    ef_detail detail;
    const ef_output form = {.precision = EF_OUT_BITS};
    bool done = ef_filter_new(rows, rows, K, D, &filter, &detail) == EF_OK &&
                ef_project(filter, matrix(rows, N, D), form, result, n_threads, &detail) == EF_OK;
    ef_filter_free(filter);
    return done;
}

static bool gram(void *result, size_t n_threads) {
    enum { PART = 60 }; /* whose Gram matrix is no larger than a result */
    ef_gram *sum = NULL;
    ef_detail detail;
    const bool done = ef_gram_new(PART, basis, 2, &sum, &detail) == EF_OK &&
                      ef_gram_add(sum, matrix(rows, N, PART), n_threads, &detail) == EF_OK &&
                      ef_gram_finish(sum, result, n_threads, &detail) == EF_OK;
    ef_gram_free(sum);
    return done;
}

static bool lens(void *result, size_t n_threads) {
    enum { VECTORS = 40 };
    ef_lens *search = NULL;
    ef_detail detail;
    const bool done = ef_lens_new(matrix(rows, VECTORS, D), TOP, &search, &detail) == EF_OK &&
                      ef_lens_add(search, matrix(rows, N, D), n_threads, &detail) == EF_OK;
    if (done)
        ef_lens_finish(search, result, (float *)((int64_t *)result + VECTORS * TOP));
    ef_lens_free(search);
    return done;
}

/* Checked here, and no result: the last bits are OpenBLAS's affair. */
static bool eigenvectors(void *result, size_t n_threads) {
    enum { SIZE = 40 };
    (void)result;
    double symmetric[SIZE * SIZE], destroyed[SIZE * SIZE], values[SIZE], vector[SIZE];
    const int64_t wanted[1] = {1};
    ef_detail detail;
    for (size_t i = 0; i < SIZE; i++)
        for (size_t j = 0; j < SIZE; j++)
            symmetric[i * SIZE + j] = (double)rows[i * D + j] + (double)rows[j * D + i];
    memcpy(destroyed, symmetric, sizeof symmetric);
    if (ef_eigh(destroyed, values, SIZE, wanted, 1, vector, n_threads, &detail) != EF_OK)
        return false;
    for (size_t i = 0; i < SIZE; i++) {
        double rest = -values[1] * vector[i];
        for (size_t j = 0; j < SIZE; j++)
            rest += symmetric[i * SIZE + j] * vector[j];
        if (!(fabs(rest) < 1e-11)) /* of eigenvalues up to 20 */
            return false;
    }
    return true;
}

static bool (*const OPERATIONS[])(void *result, size_t n_threads) = {
    one_row, few_rows, many_rows, many_rows_int8, new_filter, gram, lens, eigenvectors};
enum { N_OPERATIONS = sizeof OPERATIONS / sizeof *OPERATIONS };

static unsigned char expected[N_OPERATIONS][RESULT_BYTES];
static atomic_size_t n_done, n_wrong;

static unsigned next_random(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *call(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    unsigned char *result = malloc(RESULT_BYTES);
    if (result == NULL)
        exit(2);
    while (time(NULL) < end) {
        const size_t i = next_random(&state) % N_OPERATIONS;
        memset(result, 0, RESULT_BYTES);
        if (!OPERATIONS[i](result, 1 + next_random(&state) % MAX_THREADS) ||
            memcmp(result, expected[i], RESULT_BYTES) != 0)
            n_wrong++;
        n_done++;
    }
    free(result);
    return NULL;
}

/* Under the set in use: the number of wrong results. */
static size_t run_set(size_t n_callers, time_t seconds) {
    pthread_t callers[MAX_CALLERS];
    ef_detail detail;
    if (ef_filter_new(rows, NULL, K, D, &shared, &detail) != EF_OK)
        exit(2);
    memset(expected, 0, sizeof expected);
    for (size_t i = 0; i < N_OPERATIONS; i++)
        if (!OPERATIONS[i](expected[i], 1))
            exit(2);
    n_done = n_wrong = 0;
    end = time(NULL) + seconds;
    for (size_t i = 0; i < n_callers; i++)
        if (pthread_create(&callers[i], NULL, call, (void *)(uintptr_t)(i + 1)) != 0)
            exit(2);
    for (size_t i = 0; i < n_callers; i++)
        pthread_join(callers[i], NULL);
    ef_filter_free(shared);
    printf("%s, %zu callers: %zu operations, %zu wrong\n", ef_get_isa(), n_callers, n_done,
           n_wrong);
    fflush(stdout);
    return n_wrong;
}

int main(int argc, char **argv) {
    const long n_callers = argc > 1 ? atol(argv[1]) : 8;
    const long seconds = argc > 2 ? atol(argv[2]) : 3;
    n_processors = argc > 3 ? atoi(argv[3]) : 0;
    if (n_callers < 1 || n_callers > MAX_CALLERS || seconds < 1) {
        fprintf(stderr, "expected 1 to %d callers and a second at least\n", MAX_CALLERS);
        return 2;
    }
    unsigned state = 1;
    for (size_t i = 0; i < N * D; i++)
        rows[i] = (float)next_random(&state) * 0x1p-23f - 1.0f;
    basis[0] = basis[61] = 1.0f;
    size_t wrong = 0;
    /* The oracle comes last and has the same routes: only where there is nothing else. */
    for (size_t isa = 0; isa == 0 || isa + 1 < ef_isa_count(); isa++) {
        if (ef_set_isa(ef_isa_name(isa)) != EF_OK)
            return 2;
        wrong += run_set((size_t)n_callers, seconds);
    }
    return wrong > 0;
}
