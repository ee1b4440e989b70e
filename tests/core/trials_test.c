/* How calls are tried with threads and without, by a clock that the test sets. */
#include "core/system.h"
#include "core/trials.h"

#include <stdio.h>

enum { CALLS = 1280, ROWS = 8, THREADS = 4 };
static const double PER_ROW = 1 << 16;

static int64_t clock_now;

/* In place of the core's: linked with -Wl,--wrap=ef_nanoseconds. */
int64_t __wrap_ef_nanoseconds(void);
int64_t __wrap_ef_nanoseconds(void) {
    return clock_now;
}

/* Of calls that take so long each way, how many were made alone. The first of all is held up, and
 * with threads one of so many; 0: no more. */
static int calls_alone(size_t n_rows, size_t n_threads, int64_t alone, int64_t shared, int one_of) {
    int n = 0;
    for (int i = 0, n_shared = 0; i < CALLS; i++) {
        const ef_trial trial = ef_begin_trial(n_rows, PER_ROW, n_threads);
        clock_now += trial.n_threads == 1 ? alone : shared;
        if (trial.n_threads > 1 && one_of > 0 && ++n_shared % one_of == 0)
            clock_now += 1000 * shared;
        clock_now += i == 1 ? 100000000 : 0;
        n += trial.n_threads == 1;
        ef_end_trial(&trial);
    }
    return n;
}

static int n_wrong;

static void check(const char *what, int n, int least, int most) {
    if (n < least || n > most)
        n_wrong++;
    printf("%s: %d of %d alone, expected %d to %d\n", what, n, CALLS, least, most);
}

int main(void) {
    const int tried = CALLS / 128 * 4;
    check("threads are faster", calls_alone(ROWS, THREADS, 100, 60, 0), tried, CALLS / 4);
    check("threads are slower", calls_alone(4 * ROWS, THREADS, 100, 120, 0), CALLS - 2 * tried,
          CALLS);
    check("threads are far slower", calls_alone(16 * ROWS, THREADS, 100, 900, 0), CALLS - 12,
          CALLS);
    check("threads are held up now and then", calls_alone(2 * ROWS, THREADS, 100, 60, 10), tried,
          CALLS / 4);
    check("another number of threads", calls_alone(16 * ROWS, 2, 100, 60, 0), tried, CALLS / 4);
    check("they became faster", calls_alone(4 * ROWS, THREADS, 100, 60, 0), tried, CALLS / 4);
    check("long calls", calls_alone(1 << 14, THREADS, 1, 2, 0), 0, 0);
    check("calls of too many rows", calls_alone((size_t)1 << 40, THREADS, 1, 2, 0), 0, 0);
    /* Sizes that there is no record for: all threads that are offered are used. */
    static const struct {
        size_t n_rows, n_threads;
        double per_row;
    } beyond[] = {
        {0, THREADS, 1.0}, {1, THREADS, 0.25}, {1 << 20, THREADS, 1.0}, {1, (size_t)1 << 20, 1.0}};
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        const ef_trial trial =
            ef_begin_trial(beyond[i].n_rows, beyond[i].per_row, beyond[i].n_threads);
        n_wrong += trial.n_threads != beyond[i].n_threads || trial.record != NULL;
    }
    return n_wrong > 0;
}
