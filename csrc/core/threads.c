/* A pool of threads, which all callers share.
 *
 * A caller does the tasks of its loop itself, and threads that come in time take some of them. It
 * never waits for a thread that has not come, only, at the end, for those that are in a task.
 * Each thread has a range of the tasks of its own, the same in each loop of one kind, so that it
 * finds its part of a matrix in its cache; when it is through it takes from the others'.
 *
 * Threads can cost more than they bring: waking one takes as long as a small product, it may wake
 * on the caller's own processor, and another library's threads that still spin on the others take
 * turns with it there. So a thread is kept off the caller's processor, where it would be put when
 * the others are in too deep a sleep to look idle; it sleeps at once unless loops follow one
 * another closely; and what threads cost beyond what they brought is a debt, in which callers work
 * alone until their own work was so much longer that it does not matter. */
#include "core/embedfilter.h"
#include "core/arithmetic.h"
#include "core/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#endif

enum { MAX_WORKERS = 255, CALLED_AT_ONCE = 2 };

/* Nanoseconds. A thread waits so long for the next loop without sleeping, if the last one came as
 * soon after the one before; a caller at most so long for the last task. */
static const long SPIN = 30000;
/* A debt of more than nothing is paid off until ENOUGH is in hand: a few fruitless calls of
 * sleeping threads are needed to find out whether loops follow closely. Paid with so many times as
 * much work alone. One thread that is kept from its processor costs milliseconds, on a machine
 * that others keep busy a tenth of a second; threads that brought much before may cost MOST_CREDIT
 * before they are given up. */
static const long ENOUGH = 100000, MOST_CREDIT = 20000000, MOST_DEBT = 200000000, PAY = 16;

/* ---- processors ----------------------------------------------------------- */

static size_t all_processors(void) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (size_t)n : 1;
}

#ifdef __linux__
/* Where a thread may run: all processors of the process but that of its last caller. */
typedef struct place {
    pid_t thread;
    cpu_set_t process, own;
} place;

static int current_cpu(void) {
    return sched_getcpu();
}

/* Takes a thread off processor `cpu`, and keeps it off; false where it can be nowhere else. */
static bool keep_off(place *p, int cpu) {
    cpu_set_t others = p->process;
    CPU_CLR((size_t)cpu, &others); /* nothing for -1, which is far beyond the set */
    const bool elsewhere = CPU_COUNT(&others) > 0;
    if (!elsewhere)
        others = p->process;
    if (!CPU_EQUAL(&others, &p->own) && sched_setaffinity(p->thread, sizeof others, &others) == 0)
        p->own = others;
    return elsewhere;
}

/* Reads which processors the process may use now, gives the calling thread its share of them and
 * counts them; false where there is none but `cpu`. */
static bool find_place(place *p, int cpu, size_t *n_processors) {
    p->thread = (pid_t)syscall(SYS_gettid);
    if (sched_getaffinity(getpid(), sizeof p->process, &p->process) != 0) {
        *n_processors = all_processors();
        return current_cpu() != cpu;
    }
    *n_processors = (size_t)CPU_COUNT(&p->process);
    if (cpu >= 0 && current_cpu() == cpu)
        CPU_ZERO(&p->own); /* whatever it was given: somebody else may have changed it */
    return keep_off(p, cpu) && (cpu < 0 || current_cpu() != cpu);
}
#else
typedef int place;

static int current_cpu(void) {
    return -1;
}

static bool keep_off(place *p, int cpu) {
    (void)p, (void)cpu;
    return true;
}

static bool find_place(place *p, int cpu, size_t *n_processors) {
    (void)p, (void)cpu;
    *n_processors = all_processors();
    return true;
}
#endif

/* ---- the pool ------------------------------------------------------------ */

/* Tasks from `next` to `end`, on a cache line of its own. */
typedef struct range {
    _Alignas(64) atomic_size_t next;
    size_t end;
} range;

/* A caller's loop, on its stack. */
typedef struct loop {
    ef_task *task;
    void *context;
    size_t n_threads;              /* one for each slot: the caller's is 0 */
    range ranges[MAX_WORKERS + 1]; /* of each slot */
    atomic_int cpu;                /* the caller's processor */

    /* With the pool's mutex held. */
    struct loop *next;           /* of the pool's */
    bool taken[MAX_WORKERS + 1]; /* slots of the workers inside */
    bool drained;                /* no task is left to take */
    pthread_cond_t finish;       /* the last worker has left */

    atomic_size_t n_inside; /* workers; written with the mutex held, watched without it */
} loop;

/* A thread of the pool. */
typedef struct worker {
    pthread_cond_t wake; /* it is not asleep any more */
    bool asleep;
    int cpu; /* of the last caller, -1 before there was one */
    place place;
} worker;

static struct {
    pthread_mutex_t mutex;
    worker workers[MAX_WORKERS];
    size_t n_workers;    /* made so far */
    size_t n_coming;     /* awake, and in no loop */
    size_t n_inside;     /* in a loop */
    size_t n_processors; /* that the process may use; 0 before there is a worker */
    loop *loops;         /* those that run */

    /* Written with the mutex held, watched without it. */
    atomic_size_t n_loops;
    atomic_ulong n_begun; /* loops so far */
    atomic_bool quick;    /* the last loop came soon after the one before */

    atomic_long last_end; /* of a loop */
    atomic_long debt;     /* nanoseconds; less than nothing is in hand */
    atomic_bool alone;    /* the debt is being paid */
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- who works on what; the mutex is held --------------------------------- */

/* How many more threads may be at work: a lone caller has as many as it asked for, several share
 * the processors. */
static size_t room(void) {
    const size_t n_busy = pool.n_loops + pool.n_inside;
    if (pool.n_loops < 2)
        return MAX_WORKERS;
    return pool.n_processors > n_busy ? pool.n_processors - n_busy : 0;
}

/* How many more workers a loop may have. */
static size_t n_wanted(const loop *l) {
    return l->drained ? 0 : ef_least(l->n_threads - 1 - l->n_inside, room());
}

/* The loop that has the fewest of those that want one, NULL if none does. */
static loop *neediest(void) {
    loop *found = NULL;
    for (loop *l = pool.loops; l != NULL; l = l->next)
        if (n_wanted(l) > 0 && (found == NULL || l->n_inside < found->n_inside))
            found = l;
    return found;
}

/* Whether a worker in a loop had better be in another, or in none. */
static bool misplaced(const loop *l) {
    if (pool.n_loops + pool.n_inside > pool.n_processors)
        return l->n_inside * pool.n_loops >= pool.n_inside;
    const loop *other = neediest();
    return other != NULL && other->n_inside + 1 < l->n_inside;
}

/* Chooses sleeping workers for a loop, the first ones first, and returns how many; each that comes
 * will call more. Whoever calls them does it without the mutex, which they take first. */
static size_t choose(const loop *l, worker *called[CALLED_AT_ONCE]) {
    size_t n = 0;
    if (l == NULL)
        return 0;
    for (size_t i = 0; i < pool.n_workers && n < CALLED_AT_ONCE && pool.n_coming < n_wanted(l);
         i++) {
        if (pool.workers[i].asleep) {
            pool.workers[i].asleep = false;
            pool.workers[i].cpu = current_cpu();
            keep_off(&pool.workers[i].place, pool.workers[i].cpu);
            pool.n_coming++;
            called[n++] = &pool.workers[i];
        }
    }
    return n;
}

static void call(worker *const called[], size_t n) {
    for (size_t i = 0; i < n; i++)
        pthread_cond_signal(&called[i]->wake);
}

/* ---- workers -------------------------------------------------------------- */

/* Takes a task of a loop, from the slot's range or another's. */
static bool take(loop *l, size_t slot, size_t *index) {
    for (size_t i = 0; i < l->n_threads; i++) {
        range *r = &l->ranges[(slot + i) % l->n_threads];
        if (atomic_load_explicit(&r->next, memory_order_relaxed) >= r->end)
            continue;
        *index = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
        if (*index < r->end)
            return true;
    }
    return false;
}

/* A worker's part of a loop; true if it left no task. */
static bool work(loop *l, size_t slot) {
    size_t index;
    while (take(l, slot, &index)) {
        l->task(l->context, slot, index);
        const int cpu = current_cpu();
        if (cpu >= 0 && cpu == atomic_load_explicit(&l->cpu, memory_order_relaxed))
            return false;
        if (pool.n_loops > 1) {
            pthread_mutex_lock(&pool.mutex);
            const bool leave = misplaced(l);
            pthread_mutex_unlock(&pool.mutex);
            if (leave)
                return false;
        }
    }
    return true;
}

/* Waits a while for a loop after `seen`. */
static void spin_for_loop(unsigned long seen) {
    const long start = ef_nanoseconds();
    do {
        for (int i = 0; i < 16; i++) {
            if (atomic_load_explicit(&pool.n_begun, memory_order_acquire) != seen)
                return;
            relax();
        }
    } while (ef_nanoseconds() - start < SPIN);
}

/* Waits until called; the mutex is held, but not meanwhile. */
static void rest(worker *self) {
    const unsigned long seen = pool.n_begun;
    if (pool.quick) {
        pthread_mutex_unlock(&pool.mutex);
        spin_for_loop(seen);
        pthread_mutex_lock(&pool.mutex);
    }
    if (pool.n_begun != seen)
        return;
    self->asleep = true;
    pool.n_coming--;
    while (self->asleep)
        pthread_cond_wait(&self->wake, &pool.mutex);
}

/* Takes part in a loop, as the slot of the same number if that is free; the mutex is held, but not
 * meanwhile. */
static void join(worker *self, loop *l) {
    worker *called[CALLED_AT_ONCE];
    size_t slot = (size_t)(self - pool.workers) + 1;
    if (slot >= l->n_threads || l->taken[slot])
        for (slot = 1; l->taken[slot]; slot++) {
        }
    l->taken[slot] = true;
    l->n_inside++;
    pool.n_inside++;
    pool.n_coming--;
    const size_t n_called = choose(l, called);
    pthread_mutex_unlock(&pool.mutex);
    call(called, n_called);
    const bool drained = work(l, slot);
    const int cpu = atomic_load_explicit(&l->cpu, memory_order_relaxed);
    pthread_mutex_lock(&pool.mutex);
    self->cpu = cpu;
    l->drained |= drained;
    l->taken[slot] = false;
    pool.n_coming++;
    pool.n_inside--;
    if (--l->n_inside == 0)
        pthread_cond_signal(&l->finish);
}

static void *run_worker(void *self_as_pointer) {
    worker *self = self_as_pointer;
    size_t n_processors = 0;
    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        const int cpu = self->cpu;
        pthread_mutex_unlock(&pool.mutex);
        const bool elsewhere = find_place(&self->place, cpu, &n_processors);
        pthread_mutex_lock(&pool.mutex);
        pool.n_processors = n_processors;
        loop *l = elsewhere ? neediest() : NULL;
        if (l != NULL)
            join(self, l);
        else
            rest(self);
    }
    return NULL;
}

/* Makes threads until there are `wanted`, or no more can be made. The mutex is held. Signals are
 * not for them: they are the process's other threads' to wait for or to block. */
static void grow(size_t wanted) {
    if (pool.n_workers >= wanted)
        return;
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.n_workers < wanted) {
        pthread_t thread;
        worker *new = &pool.workers[pool.n_workers];
        *new = (worker){.cpu = -1};
        pthread_cond_init(&new->wake, NULL);
        if (pthread_create(&thread, &attributes, run_worker, new) != 0)
            break;
        pool.n_workers++;
        pool.n_coming++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* ---- forks ---------------------------------------------------------------- */

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
    pool.n_workers = pool.n_coming = pool.n_inside = 0;
    pool.loops = NULL;
    pool.n_loops = 0;
    pool.debt = 0;
    pool.alone = false;
}

static void register_fork_handlers(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- callers -------------------------------------------------------------- */

static void begin(loop *l, long now) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    worker *called[CALLED_AT_ONCE];
    pthread_cond_init(&l->finish, NULL);
    pthread_mutex_lock(&pool.mutex);
    grow(l->n_threads - 1);
    l->next = pool.loops;
    pool.loops = l;
    pool.n_loops++;
    pool.quick = now - pool.last_end < SPIN;
    pool.n_begun++;
    const size_t n_called = choose(l, called);
    pthread_mutex_unlock(&pool.mutex);
    call(called, n_called);
}

/* Waits until no worker is in a task; as a rule that takes no longer than `patience`. */
static void end(loop *l, long patience) {
    worker *called[CALLED_AT_ONCE];
    pthread_mutex_lock(&pool.mutex);
    l->drained = true;
    if (l->n_inside > 0) {
        pthread_mutex_unlock(&pool.mutex);
        const long start = ef_nanoseconds();
        while (atomic_load_explicit(&l->n_inside, memory_order_acquire) > 0 &&
               ef_nanoseconds() - start < patience)
            relax();
        pthread_mutex_lock(&pool.mutex);
        while (l->n_inside > 0)
            pthread_cond_wait(&l->finish, &pool.mutex);
    }
    loop **place = &pool.loops;
    while (*place != l)
        place = &(*place)->next;
    *place = l->next;
    pool.n_loops--;
    const size_t n_called = choose(neediest(), called); /* for those who had to share */
    pthread_mutex_unlock(&pool.mutex);
    call(called, n_called);
    pthread_cond_destroy(&l->finish);
}

/* Keeps account of what threads cost more than they brought. */
static void account(long cost) {
    long debt = pool.debt + cost;
    debt = debt < -MOST_CREDIT ? -MOST_CREDIT : debt > MOST_DEBT ? MOST_DEBT : debt;
    pool.debt = debt;
    if (debt > 0)
        pool.alone = true;
    else if (debt <= -ENOUGH)
        pool.alone = false;
}

/* Does tasks while there is a debt to pay, and returns how many. */
static size_t pay(size_t n_tasks, ef_task *task, void *context) {
    size_t n_done = 0;
    if (!pool.alone)
        return 0;
    const long start = ef_nanoseconds(), most = (pool.debt + ENOUGH) * PAY;
    long paid = 0;
    while (n_done < n_tasks && paid < most) {
        task(context, 0, n_done++);
        paid = ef_nanoseconds() - start;
    }
    account(-(paid + PAY - 1) / PAY);
    return n_done;
}

/* Does the tasks from `first` on with other threads. */
static void share(size_t n_threads, size_t first, size_t n_tasks, ef_task *task, void *context) {
    loop l;
    l.task = task;
    l.context = context;
    l.n_threads = n_threads;
    l.drained = false;
    atomic_init(&l.cpu, current_cpu());
    atomic_init(&l.n_inside, 0);
    for (size_t i = 0, left = n_tasks - first; i < n_threads; i++) {
        l.taken[i] = false;
        atomic_init(&l.ranges[i].next, n_tasks - left);
        left -= ef_ceil_div(left, n_threads - i);
        l.ranges[i].end = n_tasks - left;
    }
    const long start = ef_nanoseconds();
    begin(&l, start);
    const long begun = ef_nanoseconds();
    size_t index, n_own = 0;
    for (; take(&l, 0, &index); n_own++) {
        task(context, 0, index);
        atomic_store_explicit(&l.cpu, current_cpu(), memory_order_relaxed);
    }
    const long done = ef_nanoseconds();
    const long each = (done - begun) / (long)ef_most(n_own, 1);
    end(&l, each < SPIN ? each : SPIN);
    const long ended = ef_nanoseconds();
    pool.last_end = ended;
    account((begun - start) + (ended - done) - each * (long)(n_tasks - first - n_own));
}

void ef_parallel_for(size_t n_threads, size_t n_tasks, ef_task *task, void *context) {
    const size_t n = ef_least(ef_least(n_threads, n_tasks), MAX_WORKERS + 1);
    size_t n_done = n > 1 ? pay(n_tasks, task, context) : 0;
    if (n > 1 && n_done + 1 < n_tasks) {
        share(ef_least(n, n_tasks - n_done), n_done, n_tasks, task, context);
        return;
    }
    for (; n_done < n_tasks; n_done++)
        task(context, 0, n_done);
}
