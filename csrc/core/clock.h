/* A clock that only goes forward. */
#ifndef EMBEDFILTER_CLOCK_H
#define EMBEDFILTER_CLOCK_H

#include <time.h>

static inline long ef_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

#endif
