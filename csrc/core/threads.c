/* A small pool of threads. One parallel loop runs at a time; a caller that finds the pool
 * taken does its own tasks, so that callers never wait for one another.
 *
 * Each thread has a range of the tasks of its own, the same in each loop of one kind, so that
 * it finds its part of a matrix in its cache; when it is through it takes from the others'.
 *
 * Waking a sleeping thread takes longer than a small product, so whoever waits, a thread for
 * the next loop or a caller for the last thread, first spins for a while. */
#include "core/embedfilter.h"
#include "core/arithmetic.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { MAX_WORKERS = 255 };
static const long SPIN_NANOSECONDS = 300000;

/* Tasks from `next` to `end`, on a cache line of its own. */
typedef struct range {
    _Alignas(64) atomic_size_t next;
    size_t end;
} range;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t wake[MAX_WORKERS + 1]; /* of each worker: a loop has begun */
    pthread_cond_t finish;                /* the last worker has left the loop */
    size_t n_workers;                     /* threads made so far */
    bool busy;                            /* a loop runs */

    /* Written with the mutex held, watched without it by those who spin. */
    atomic_ulong generation; /* counts loops, so that a worker joins each at most once */
    atomic_size_t n_inside;  /* workers that joined the loop and have not left */

    /* The loop, valid while busy. */
    size_t n_threads; /* the caller is number 0, workers 1 to n_threads - 1 may join */
    bool open;        /* while the caller still works */
    ef_task *task;
    void *context;
    range ranges[MAX_WORKERS + 1]; /* of each thread */
} pool = {
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .finish = PTHREAD_COND_INITIALIZER,
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes the mutex. As a rule it is held for less time than a call into the kernel takes. */
static void lock_pool(void) {
    for (int i = 0; i < 1000; i++) {
        if (pthread_mutex_trylock(&pool.mutex) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&pool.mutex);
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

/* Does the tasks of thread `number`'s range, then what is left of the others'. */
static void run_tasks(size_t number, size_t n_threads, ef_task *task, void *context) {
    for (size_t i = 0; i < n_threads; i++) {
        range *r = &pool.ranges[(number + i) % n_threads];
        for (;;) {
            const size_t index = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
            if (index >= r->end)
                break;
            task(context, index);
        }
    }
}

static void *worker(void *number_as_pointer) {
    const size_t number = (size_t)(uintptr_t)number_as_pointer;
    unsigned long seen = 0;
    for (;;) {
        spin_for_loop(seen);
        lock_pool();
        if (pool.generation == seen)
            pthread_cond_wait(&pool.wake[number], &pool.mutex);
        if (!pool.open || pool.generation == seen || number >= pool.n_threads) {
            seen = pool.generation; /* full or over: not ours; the next one may come soon */
            pthread_mutex_unlock(&pool.mutex);
            continue;
        }
        seen = pool.generation;
        pool.n_inside++;
        ef_task *task = pool.task;
        void *context = pool.context;
        const size_t n_threads = pool.n_threads;
        pthread_mutex_unlock(&pool.mutex);
        run_tasks(number, n_threads, task, context);
        lock_pool();
        if (--pool.n_inside == 0)
            pthread_cond_signal(&pool.finish);
        pthread_mutex_unlock(&pool.mutex);
    }
    return NULL;
}

/* A fork copies the pool but none of its threads, so the child starts with an empty one.
 * The mutex is held across the fork, so that what is copied is in order. */
static void before_fork(void) {
    lock_pool();
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&pool.mutex);
}

static void after_fork_in_child(void) {
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.finish, NULL);
    pool.n_workers = 0;
    pool.busy = false;
    pool.open = false;
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
        const size_t number = pool.n_workers + 1;
        pthread_cond_init(&pool.wake[number], NULL);
        if (pthread_create(&thread, &attributes, worker, (void *)(uintptr_t)number) != 0)
            break;
        pool.n_workers = number;
    }
    pthread_attr_destroy(&attributes);
}

/* Begins a loop on n_threads threads; false if the pool is taken. */
static bool begin(size_t n_threads, size_t n_tasks, ef_task *task, void *context) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    lock_pool();
    const bool taken = pool.busy;
    if (!taken) {
        grow(n_threads - 1);
        pool.busy = true;
        pool.open = true;
        pool.n_threads = n_threads;
        pool.task = task;
        pool.context = context;
        for (size_t i = 0, next = 0; i < n_threads; i++) {
            atomic_store(&pool.ranges[i].next, next);
            next += n_tasks / n_threads + (i < n_tasks % n_threads);
            pool.ranges[i].end = next;
        }
        pool.generation++;
        for (size_t number = 1; number < n_threads && number <= pool.n_workers; number++)
            pthread_cond_signal(&pool.wake[number]);
    }
    pthread_mutex_unlock(&pool.mutex);
    return !taken;
}

static void end(void) {
    lock_pool();
    pool.open = false; /* who has not come yet need not */
    pthread_mutex_unlock(&pool.mutex);
    spin_for_workers();
    lock_pool();
    while (pool.n_inside > 0)
        pthread_cond_wait(&pool.finish, &pool.mutex);
    pool.busy = false;
    pthread_mutex_unlock(&pool.mutex);
}

void ef_parallel_for(size_t n_threads, size_t n_tasks, ef_task *task, void *context) {
    const size_t n = ef_least(ef_least(n_threads, n_tasks), MAX_WORKERS + 1);
    if (n > 1 && begin(n, n_tasks, task, context)) {
        run_tasks(0, n, task, context);
        end();
        return;
    }
    for (size_t i = 0; i < n_tasks; i++)
        task(context, i);
}
