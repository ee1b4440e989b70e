#include "core/openblas.h"

#include <pthread.h>

int BLAS(openblas_get_num_threads)(void);
void BLAS(openblas_set_num_threads)(int n_threads);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* Written with the mutex held. */
static size_t n_inside;
static size_t n_forking; /* threads that wait until none is inside, so none may enter */
static int threads_before;

/* The mutex is held across the fork, and nobody is inside: OpenBLAS has locks of its own, which the
 * child would inherit taken by a thread that it does not have. */
static void before_fork(void) {
    pthread_mutex_lock(&mutex);
    n_forking++;
    while (n_inside > 0)
        pthread_cond_wait(&changed, &mutex);
}

static void after_fork_in_parent(void) {
    n_forking--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void after_fork_in_child(void) {
    pthread_mutex_init(&mutex, NULL);
    pthread_cond_init(&changed, NULL);
    n_forking = 0;
}

static void register_fork_handlers(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void ef_enter_openblas(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    pthread_mutex_lock(&mutex);
    while (n_forking > 0)
        pthread_cond_wait(&changed, &mutex);
    if (n_inside++ == 0) {
        threads_before = BLAS(openblas_get_num_threads)();
        BLAS(openblas_set_num_threads)(1);
    }
    pthread_mutex_unlock(&mutex);
}

void ef_leave_openblas(void) {
    pthread_mutex_lock(&mutex);
    if (--n_inside == 0) {
        BLAS(openblas_set_num_threads)(threads_before); /* a system's OpenBLAS is not ours alone */
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&mutex);
}
