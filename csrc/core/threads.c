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
#include "core/system.h"

#include <stdatomic.h>

enum { MAX_WORKERS = 255, CALLED_AT_ONCE = 2 };

/* Nanoseconds. A thread waits so long for the next loop without sleeping, if the last one came as
 * soon after the one before; a caller at most so long for the last task. */
static const int64_t SPIN = 30000;
/* A debt of more than nothing is paid off until ENOUGH is in hand: a few fruitless calls of
 * sleeping threads are needed to find out whether loops follow closely. Paid with so many times as
 * much work alone. One thread that is kept from its processor costs milliseconds, on a machine
 * that others keep busy a tenth of a second; threads that brought much before may cost MOST_CREDIT
 * before they are given up. */
static const int64_t ENOUGH = 100000, MOST_CREDIT = 20000000, MOST_DEBT = 200000000, PAY = 16;

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
    ef_condition finish;         /* the last worker has left */

    atomic_size_t n_inside; /* workers; written with the mutex held, watched without it */
} loop;

/* A thread of the pool. */
typedef struct worker {
    ef_condition wake; /* it is not asleep any more */
    bool asleep;
    int cpu; /* of the last caller, -1 before there was one */
    ef_place place;
} worker;

static struct {
    ef_mutex mutex;
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

    _Atomic int64_t last_end; /* of a loop */
    _Atomic int64_t debt;     /* nanoseconds; less than nothing is in hand */
    atomic_bool alone;        /* the debt is being paid */
} pool = {.mutex = EF_MUTEX_INIT};

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
            pool.workers[i].cpu = ef_current_cpu();
            ef_keep_off(&pool.workers[i].place, pool.workers[i].cpu);
            pool.n_coming++;
            called[n++] = &pool.workers[i];
        }
    }
    return n;
}

static void call(worker *const called[], size_t n) {
    for (size_t i = 0; i < n; i++)
        ef_wake_one(&called[i]->wake);
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
        const int cpu = ef_current_cpu();
        if (cpu >= 0 && cpu == atomic_load_explicit(&l->cpu, memory_order_relaxed))
            return false;
        if (pool.n_loops > 1) {
            ef_lock(&pool.mutex);
            const bool leave = misplaced(l);
            ef_unlock(&pool.mutex);
            if (leave)
                return false;
        }
    }
    return true;
}

/* Waits a while for a loop after `seen`. */
static void spin_for_loop(unsigned long seen) {
    const int64_t start = ef_nanoseconds();
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
        ef_unlock(&pool.mutex);
        spin_for_loop(seen);
        ef_lock(&pool.mutex);
    }
    if (pool.n_begun != seen)
        return;
    self->asleep = true;
    pool.n_coming--;
    while (self->asleep)
        ef_wait(&self->wake, &pool.mutex);
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
    ef_unlock(&pool.mutex);
    call(called, n_called);
    const bool drained = work(l, slot);
    const int cpu = atomic_load_explicit(&l->cpu, memory_order_relaxed);
    ef_lock(&pool.mutex);
    self->cpu = cpu;
    l->drained |= drained;
    l->taken[slot] = false;
    pool.n_coming++;
    pool.n_inside--;
    if (--l->n_inside == 0)
        ef_wake_one(&l->finish);
}

static void *run_worker(void *self_as_pointer) {
    worker *self = self_as_pointer;
    size_t n_processors = 0;
    ef_lock(&pool.mutex);
    for (;;) {
        const int cpu = self->cpu;
        ef_unlock(&pool.mutex);
        const bool elsewhere = ef_find_place(&self->place, cpu, &n_processors);
        ef_lock(&pool.mutex);
        pool.n_processors = n_processors;
        loop *l = elsewhere ? neediest() : NULL;
        if (l != NULL)
            join(self, l);
        else
            rest(self);
    }
    return NULL;
}

/* Makes threads until there are `wanted`, or no more can be made. The mutex is held. */
static void grow(size_t wanted) {
    while (pool.n_workers < wanted) {
        worker *new = &pool.workers[pool.n_workers];
        *new = (worker){.cpu = -1};
        ef_new_condition(&new->wake);
        if (!ef_make_thread(run_worker, new))
            break;
        pool.n_workers++;
        pool.n_coming++;
    }
}

/* ---- forks ---------------------------------------------------------------- */

/* A fork copies the pool but none of its threads, so the child starts with an empty one.
 * The mutex is held across the fork, so that what is copied is in order. */
static void before_fork(void) {
    ef_lock(&pool.mutex);
}

static void after_fork_in_parent(void) {
    ef_unlock(&pool.mutex);
}

static void after_fork_in_child(void) {
    ef_new_mutex(&pool.mutex);
    pool.n_workers = pool.n_coming = pool.n_inside = 0;
    pool.loops = NULL;
    pool.n_loops = 0;
    pool.debt = 0;
    pool.alone = false;
}

static void register_fork_handlers(void) {
    ef_at_fork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- callers -------------------------------------------------------------- */

static void begin(loop *l, int64_t now) {
    static ef_once once = EF_ONCE_INIT;
    ef_do_once(&once, register_fork_handlers);
    worker *called[CALLED_AT_ONCE];
    ef_new_condition(&l->finish);
    ef_lock(&pool.mutex);
    grow(l->n_threads - 1);
    l->next = pool.loops;
    pool.loops = l;
    pool.n_loops++;
    pool.quick = now - pool.last_end < SPIN;
    pool.n_begun++;
    const size_t n_called = choose(l, called);
    ef_unlock(&pool.mutex);
    call(called, n_called);
}

/* Waits until no worker is in a task; as a rule that takes no longer than `patience`. */
static void end(loop *l, int64_t patience) {
    worker *called[CALLED_AT_ONCE];
    ef_lock(&pool.mutex);
    l->drained = true;
    if (l->n_inside > 0) {
        ef_unlock(&pool.mutex);
        const int64_t start = ef_nanoseconds();
        while (atomic_load_explicit(&l->n_inside, memory_order_acquire) > 0 &&
               ef_nanoseconds() - start < patience)
            relax();
        ef_lock(&pool.mutex);
        while (l->n_inside > 0)
            ef_wait(&l->finish, &pool.mutex);
    }
    loop **place = &pool.loops;
    while (*place != l)
        place = &(*place)->next;
    *place = l->next;
    pool.n_loops--;
    const size_t n_called = choose(neediest(), called); /* for those who had to share */
    ef_unlock(&pool.mutex);
    call(called, n_called);
    ef_end_condition(&l->finish);
}

/* Keeps account of what threads cost more than they brought. */
static void account(int64_t cost) {
    int64_t debt = pool.debt + cost;
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
    const int64_t start = ef_nanoseconds(), most = (pool.debt + ENOUGH) * PAY;
    int64_t paid = 0;
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
    atomic_init(&l.cpu, ef_current_cpu());
    atomic_init(&l.n_inside, 0);
    for (size_t i = 0, left = n_tasks - first; i < n_threads; i++) {
        l.taken[i] = false;
        atomic_init(&l.ranges[i].next, n_tasks - left);
        left -= ef_ceil_div(left, n_threads - i);
        l.ranges[i].end = n_tasks - left;
    }
    const int64_t start = ef_nanoseconds();
    begin(&l, start);
    const int64_t begun = ef_nanoseconds();
    size_t index, n_own = 0;
    for (; take(&l, 0, &index); n_own++) {
        task(context, 0, index);
        atomic_store_explicit(&l.cpu, ef_current_cpu(), memory_order_relaxed);
    }
    const int64_t done = ef_nanoseconds();
    const int64_t each = (done - begun) / (int64_t)ef_most(n_own, 1);
    end(&l, each < SPIN ? each : SPIN);
    const int64_t ended = ef_nanoseconds();
    pool.last_end = ended;
    account((begun - start) + (ended - done) - each * (int64_t)(n_tasks - first - n_own));
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
