#include "core/openblas.h"
#include "core/arithmetic.h"

#include <pthread.h>

int BLAS(openblas_get_num_threads)(void);
void BLAS(openblas_set_num_threads)(int n_threads);

enum { MOST_THREADS = 64 }; /* what OpenBLAS is usually built for */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int threads_before; /* written with the mutex held */

/* The lock is held across a fork, so that the child does not inherit it taken by a thread
 * that it does not have. */
static void before_fork(void) {
    pthread_mutex_lock(&mutex);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&mutex);
}

static void after_fork_in_child(void) {
    pthread_mutex_init(&mutex, NULL);
}

static void register_fork_handlers(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void ef_enter_openblas(size_t n_threads) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    pthread_mutex_lock(&mutex);
    threads_before = BLAS(openblas_get_num_threads)();
    BLAS(openblas_set_num_threads)((int)ef_least(n_threads, MOST_THREADS));
}

void ef_leave_openblas(void) {
    BLAS(openblas_set_num_threads)(threads_before); /* a system's OpenBLAS is not ours alone */
    pthread_mutex_unlock(&mutex);
}
