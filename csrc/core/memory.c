#include "core/memory.h"
#include "core/arithmetic.h"

void *ef_new_array(size_t n, size_t item_bytes, ef_detail *detail) {
    const size_t bytes = n * item_bytes;
    /* A byte at least: NULL would mean that there is none. */
    void *memory = n <= SIZE_MAX / item_bytes ? ef_allocate(ef_most(bytes, 1)) : NULL;
    if (memory == NULL)
        detail->count = bytes;
    return memory;
}
