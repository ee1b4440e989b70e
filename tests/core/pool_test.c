/* How callers share the pool's threads: two loops of long tasks at once, on more processors than
 * there may be. The one that comes late must get a thread of the other's, which must keep one, and
 * each task is done once.
 */
#include "core/embedfilter.h"
#include "core/system.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { PROCESSORS = 8, THREADS = 4, TASKS = 400, LATE = 40, ATTEMPTS = 5 };

typedef struct caller {
    atomic_size_t n_done;
    atomic_int done[TASKS];      /* how often */
    atomic_int worked[THREADS];  /* by slot: while both loops ran */
    const struct caller *before; /* begins when that one has done LATE tasks */
    const struct caller *other;
} caller;

#ifdef _WIN32
bool __wrap_ef_find_place(ef_place *place, int cpu, size_t *n_processors);
bool __wrap_ef_find_place(ef_place *place, int cpu, size_t *n_processors) {
    (void)place, (void)cpu;
    *n_processors = PROCESSORS;
    return true;
}
#else
/* In place of the C library's: each thread on a processor of its own. */
int sched_getcpu(void) {
    static atomic_int next;
    static _Thread_local int mine = -1;
    if (mine < 0)
        mine = next++ % PROCESSORS;
    return mine;
}

int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *set) {
    (void)pid, (void)size, (void)set;
    return 0;
}

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    (void)pid;
    memset(set, 0, size);
    for (int i = 0; i < PROCESSORS; i++)
        CPU_SET(i, set);
    return 0;
}
#endif

static void pause_for(long nanoseconds) {
    nanosleep(&(struct timespec){0, nanoseconds}, NULL);
}

static void task(void *context, size_t slot, size_t index) {
    caller *c = context;
    pause_for(1000000);
    c->done[index]++;
    c->n_done++;
    if (c->other->n_done > 0 && c->other->n_done < TASKS)
        c->worked[slot] = 1;
}

static void *call(void *context) {
    caller *c = context;
    while (c->before != NULL && c->before->n_done < LATE)
        pause_for(100000);
    ef_parallel_for(THREADS, TASKS, task, c);
    return NULL;
}

/* How many of a caller's slots worked while both loops ran; 0 if a task was not done once. */
static int threads_of(caller *c) {
    int n = 0;
    for (size_t i = 0; i < TASKS; i++)
        if (c->done[i] != 1)
            return 0;
    for (size_t slot = 0; slot < THREADS; slot++)
        n += c->worked[slot];
    return n;
}

int main(void) {
    int first = 0, second = 0;
    /* On a machine that others keep busy the pool may have found threads to be of no use. */
    for (int i = 0; i < ATTEMPTS && (first < 2 || second < 2); i++) {
        static caller callers[2];
        memset(callers, 0, sizeof callers);
        callers[1].before = callers[1].other = &callers[0];
        callers[0].other = &callers[1];
        pthread_t threads[2];
        for (int c = 0; c < 2; c++)
            if (pthread_create(&threads[c], NULL, call, &callers[c]) != 0)
                return 2;
        for (int c = 0; c < 2; c++)
            pthread_join(threads[c], NULL);
        first = threads_of(&callers[0]);
        second = threads_of(&callers[1]);
    }
    printf("two callers at once: %d and %d threads\n", first, second);
    return first < 2 || second < 2;
}
