/* Whether threads pay, found out by trying.
 *
 * Two threads may be slower than one: two processors can be halves of one core, or stand still in
 * turns on a machine that others use, and then what a caller sees of its own tasks (threads.c) does
 * not tell. So of each PERIOD calls of a kind some are made with threads and as many without,
 * and the rest in the way that was faster. What either way takes is the least of the first few
 * calls, then a mean over the last ones that follows slowly, in which one that was held up counts
 * for no more than a few times the mean: the way that was not chosen is seldom measured again.
 * Threads that take three times as long, or more, are tried less often. Where the kernels are
 * changed, the means follow. */
#include "core/trials.h"
#include "core/system.h"

#include <math.h>
#include <stdatomic.h>

enum {
    PERIOD = 128,
    TRIED = 4,  /* calls in a row each way, the first of which wakes threads and does not count */
    SELDOM = 8, /* periods without a trial of threads that are far slower */
    ROW_KINDS = 16,
    SIZE_KINDS = 48,
    THREAD_KINDS = 16
};
static const double LONG = 1 << 28; /* multiply-adds: some milliseconds */
static const float OUTLIER = 4, RISE = 1 / 16.F, FALL = 1 / 8.F;

/* Nanoseconds for each multiply-add, 0 before there is one. Callers in several threads share it; a
 * call that one of them overwrites is no loss. */
typedef struct mean {
    _Atomic float value;
    atomic_uint n_calls; /* that count */
} mean;

typedef struct record {
    atomic_uint n_calls;
    mean alone, shared;
} record;

/* By the binary logarithms of the rows, of the work of a row, and of the threads. */
static record records[ROW_KINDS][SIZE_KINDS][THREAD_KINDS];

ef_trial ef_begin_trial(size_t n_rows, double per_row, size_t n_threads) {
    ef_trial trial = {.n_threads = n_threads, .work = (double)n_rows * per_row};
    const int rows = ilogb((double)n_rows), size = ilogb(per_row), threads = ilogb(n_threads);
    if (trial.work >= LONG || rows < 0 || rows >= ROW_KINDS || size < 0 || size >= SIZE_KINDS ||
        threads >= THREAD_KINDS)
        return trial;
    record *r = &records[rows][size][threads];
    const unsigned n_calls = atomic_fetch_add_explicit(&r->n_calls, 1, memory_order_relaxed);
    const unsigned call = n_calls % PERIOD;
    const float alone = r->alone.value, shared = r->shared.value;
    const bool faster_alone = alone > 0 && alone < shared;
    const bool hopeless = faster_alone && 3 * alone < shared && n_calls / PERIOD % SELDOM > 0;
    trial.record = r;
    trial.counts = call % TRIED > 0 || call >= 2 * TRIED;
    if (hopeless || (call >= TRIED && (call < 2 * TRIED || faster_alone)))
        trial.n_threads = 1;
    trial.start = ef_nanoseconds();
    return trial;
}

static void follow(mean *m, float took) {
    const unsigned n = atomic_fetch_add_explicit(&m->n_calls, 1, memory_order_relaxed);
    const float old = m->value;
    if (old <= 0 || n < TRIED - 1) {
        m->value = old <= 0 ? took : fminf(took, old);
        return;
    }
    const float change = fminf(took, OUTLIER * old) - old;
    m->value = old + fmaxf(change < 0 ? FALL : RISE, 1 / (float)(n - 1)) * change;
}

void ef_end_trial(const ef_trial *trial) {
    record *r = trial->record;
    if (r != NULL && trial->counts)
        follow(trial->n_threads == 1 ? &r->alone : &r->shared,
               (float)((double)(ef_nanoseconds() - trial->start) / trial->work));
}
