/* Memory, and what of it is in the caches. */
#ifndef EMBEDFILTER_MEMORY_H
#define EMBEDFILTER_MEMORY_H

#include "core/embedfilter.h"
#include "core/system.h"

/* n items of item_bytes >= 1 each, 64-byte aligned, which ef_free frees. NULL where memory is
 * short or the product does not fit; detail->count has it then. */
void *ef_new_array(size_t n, size_t item_bytes, ef_detail *detail);

/* Fetches bytes into the L2 cache. */
static inline void ef_prefetch(const unsigned char *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(from + i, 0, 2);
}

#endif
