/* A small pool of threads. One parallel loop runs at a time; a caller that finds the pool
 * taken does its own tasks, so that callers never wait for one another.
 *
 * Waking a sleeping thread takes longer than a small product, so whoever waits, a thread for
 * the next loop or a caller for the last thread, first spins for a while. */
#include "embedfilter.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { MAX_WORKERS = 255 };
static const long SPIN_NANOSECONDS = 300000;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t wake;   /* a loop has begun */
    pthread_cond_t finish; /* the last worker has left the loop */
    size_t n_workers;      /* threads made so far */
    bool busy;             /* a loop runs */

    /* Written with the mutex held, watched without it by those who spin. */
    atomic_ulong generation; /* counts loops, so that a worker joins each at most once */
    atomic_size_t n_inside;  /* workers that joined the loop and have not left */

    /* The loop, valid while busy. */
    size_t n_seats; /* workers that may still join */
    ef_task *task;
    void *context;
    size_t n_tasks;
    atomic_size_t next;
} pool = {
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .wake = PTHREAD_COND_INITIALIZER,
    .finish = PTHREAD_COND_INITIALIZER,
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long nanoseconds_since(struct timespec start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - start.tv_sec) * 1000000000L + (now.tv_nsec - start.tv_nsec);
}

/* Waits a while for a loop after `seen`. */
static void spin_for_loop(unsigned long seen) {
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&pool.generation, memory_order_acquire) != seen)
                return;
            relax();
        }
    } while (nanoseconds_since(start) < SPIN_NANOSECONDS);
}

/* Waits a while for the workers to leave. */
static void spin_for_workers(void) {
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&pool.n_inside, memory_order_acquire) == 0)
                return;
            relax();
        }
    } while (nanoseconds_since(start) < SPIN_NANOSECONDS);
}

static void run_tasks(ef_task *task, void *context, size_t n_tasks) {
    for (;;) {
        const size_t index = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (index >= n_tasks)
            return;
        task(context, index);
    }
}

static void *worker(void *unused) {
    (void)unused;
    unsigned long seen = 0;
    for (;;) {
        spin_for_loop(seen);
        pthread_mutex_lock(&pool.mutex);
        while (!(pool.busy && pool.generation != seen && pool.n_seats > 0)) {
            seen = pool.generation; /* full or over: not ours */
            pthread_cond_wait(&pool.wake, &pool.mutex);
        }
        seen = pool.generation;
        pool.n_seats--;
        pool.n_inside++;
        ef_task *task = pool.task;
        void *context = pool.context;
        const size_t n_tasks = pool.n_tasks;
        pthread_mutex_unlock(&pool.mutex);
        run_tasks(task, context, n_tasks);
        pthread_mutex_lock(&pool.mutex);
        if (--pool.n_inside == 0)
            pthread_cond_signal(&pool.finish);
        pthread_mutex_unlock(&pool.mutex);
    }
    return NULL;
}

/* A fork copies the pool but none of its threads, so the child starts with an empty one.
 * The mutex is held across the fork, so that what is copied is in order. */
static void before_fork(void) {
    pthread_mutex_lock(&pool.mutex);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&pool.mutex);
}

static void after_fork_in_child(void) {
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.finish, NULL);
    pool.n_workers = 0;
    pool.busy = false;
    pool.n_inside = 0;
}

static void register_fork_handlers(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Makes threads until there are `wanted`, or no more can be made. The mutex is held. */
static void grow(size_t wanted) {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.n_workers < wanted && pool.n_workers < MAX_WORKERS) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, worker, NULL) != 0)
            break;
        pool.n_workers++;
    }
    pthread_attr_destroy(&attributes);
}

/* Begins a loop with up to `helpers` workers; false if the pool is taken. */
static bool begin(size_t helpers, size_t n_tasks, ef_task *task, void *context) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    pthread_mutex_lock(&pool.mutex);
    const bool taken = pool.busy;
    if (!taken) {
        grow(helpers);
        pool.busy = true;
        pool.n_seats = helpers;
        pool.task = task;
        pool.context = context;
        pool.n_tasks = n_tasks;
        atomic_store(&pool.next, 0);
        pool.generation++;
        pthread_cond_broadcast(&pool.wake);
    }
    pthread_mutex_unlock(&pool.mutex);
    return !taken;
}

static void end(void) {
    pthread_mutex_lock(&pool.mutex);
    pool.n_seats = 0; /* who has not come yet need not */
    pthread_mutex_unlock(&pool.mutex);
    spin_for_workers();
    pthread_mutex_lock(&pool.mutex);
    while (pool.n_inside > 0)
        pthread_cond_wait(&pool.finish, &pool.mutex);
    pool.busy = false;
    pthread_mutex_unlock(&pool.mutex);
}

void ef_parallel_for(size_t n_threads, size_t n_tasks, ef_task *task, void *context) {
    const size_t n = n_threads < n_tasks ? n_threads : n_tasks;
    if (n > 1 && begin(n - 1, n_tasks, task, context)) {
        run_tasks(task, context, n_tasks);
        end();
        return;
    }
    for (size_t i = 0; i < n_tasks; i++)
        task(context, i);
}
