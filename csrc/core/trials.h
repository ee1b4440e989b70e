/* Whether threads pay, found out by trying. */
#ifndef EMBEDFILTER_TRIALS_H
#define EMBEDFILTER_TRIALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One call of a kind that is done again and again. */
typedef struct ef_trial {
    size_t n_threads; /* how many to use: 1, or those offered */
    void *record;     /* NULL: too long a call, which threads are for */
    double work;
    bool counts;
    int64_t start;
} ef_trial;

/* Begins a call of n_rows times per_row multiply-adds, which may use n_threads > 1. Calls of about
 * the same sizes, with about as many threads, are one kind. */
ef_trial ef_begin_trial(size_t n_rows, double per_row, size_t n_threads);

/* Ends one that went well: how long it took is what later ones are chosen by. */
void ef_end_trial(const ef_trial *trial);

#endif
