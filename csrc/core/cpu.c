/* Which instruction sets this machine can run, and the table of kernels in use. */
#include "core/embedfilter.h"
#include "kernels/kernels.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* True if the processor has every feature the _avx2.c files are compiled with (AVX2, FMA,
 * F16C) and the operating system saves the registers they use. */
static bool has_avx2(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return false;
    const unsigned needed = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
    if ((c & needed) != needed)
        return false;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); /* XCR0, readable as OSXSAVE is set */
    if ((low & 6u) != 6u)                               /* SSE and AVX state */
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2) != 0;
}

/* The same for the _avx512.c files (AVX-512 F, BW, DQ, VL and VNNI), where AVX2 is there. */
static bool has_avx512(void) {
    unsigned a, b, c, d, low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0xe6u) != 0xe6u) /* SSE, AVX, mask and both halves of the wide registers */
        return false;
    const unsigned needed = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & needed) == needed &&
           (c & bit_AVX512VNNI) != 0;
}
#endif

enum { MAX_ISAS = 3 };
static ef_kernels tables[MAX_ISAS]; /* scalar first, the best last; written by detect alone */
static size_t n_tables;
static _Atomic(const ef_kernels *) active;

/* Makes the next table: an instruction set's own functions over those of the table before. */
static void add(ef_lay *lay) {
    tables[n_tables] = tables[n_tables - 1];
    lay(&tables[n_tables++]);
}

/* Runs when the library is loaded, before any other function of it. */
__attribute__((constructor)) static void detect(void) {
    tables[n_tables++] = ef_kernels_scalar;
#if defined(__x86_64__)
    if (has_avx2()) {
        add(ef_lay_avx2);
        if (has_avx512())
            add(ef_lay_avx512);
    }
#elif defined(__aarch64__)
    add(ef_lay_neon); /* part of the base architecture */
#endif
    atomic_store(&active, &tables[n_tables - 1]);
}

size_t ef_isa_count(void) {
    return n_tables;
}

const char *ef_isa_name(size_t index) {
    return tables[n_tables - 1 - index].isa;
}

const char *ef_get_isa(void) {
    return ef_active_kernels()->isa;
}

ef_status ef_set_isa(const char *name) {
    for (size_t i = 0; i < n_tables; i++) {
        if (strcmp(tables[i].isa, name) == 0) {
            atomic_store(&active, &tables[i]);
            return EF_OK;
        }
    }
    return EF_UNAVAILABLE;
}

const ef_kernels *ef_active_kernels(void) {
    return atomic_load_explicit(&active, memory_order_acquire);
}
