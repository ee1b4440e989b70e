#include "core/memory.h"
#include "core/arithmetic.h"

#include <stdlib.h>

void *ef_new_array(size_t n, size_t item_bytes, ef_detail *detail) {
    const size_t bytes = n * item_bytes;
    void *memory = NULL;
    /* A byte at least: NULL would mean that there is none. */
    if (n <= SIZE_MAX / item_bytes && posix_memalign(&memory, 64, ef_most(bytes, 1)) == 0)
        return memory;
    detail->count = bytes;
    return NULL;
}
