/* Arithmetic on sizes. */
#ifndef EMBEDFILTER_ARITHMETIC_H
#define EMBEDFILTER_ARITHMETIC_H

#include <stddef.h>

static inline size_t ef_least(size_t a, size_t b) {
    return a < b ? a : b;
}

static inline size_t ef_most(size_t a, size_t b) {
    return a > b ? a : b;
}

/* a / b, rounded up. */
static inline size_t ef_ceil_div(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

/* The least multiple of b that is a or more. */
static inline size_t ef_round_up(size_t a, size_t b) {
    return ef_ceil_div(a, b) * b;
}

#endif
