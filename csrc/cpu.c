/* Which instruction sets this machine can run, and the table of kernels in use. */
#include "embedfilter.h"
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

enum { MAX_ISAS = 4 };
static const ef_kernels *available[MAX_ISAS];
static size_t n_available;
static ef_kernels generic; /* OpenBLAS's products, the rest as scalar */
static _Atomic(const ef_kernels *) active;

/* Runs when the library is loaded, before any other function of it. */
__attribute__((constructor)) static void detect(void) {
#if defined(__x86_64__)
    if (has_avx2()) {
        if (has_avx512())
            available[n_available++] = &ef_kernels_avx512;
        available[n_available++] = &ef_kernels_avx2;
    }
#elif defined(__aarch64__)
    available[n_available++] = &ef_kernels_neon; /* part of the base architecture */
#endif
    generic = ef_kernels_scalar;
    generic.isa = "generic";
    generic.products_by_openblas = true;
    available[n_available++] = &generic;
    available[n_available++] = &ef_kernels_scalar;
    atomic_store(&active, available[0]);
}

size_t ef_isa_count(void) {
    return n_available;
}

const char *ef_isa_name(size_t index) {
    return available[index]->isa;
}

const char *ef_get_isa(void) {
    return ef_active_kernels()->isa;
}

ef_status ef_set_isa(const char *name) {
    for (size_t i = 0; i < n_available; i++) {
        if (strcmp(available[i]->isa, name) == 0) {
            atomic_store(&active, available[i]);
            return EF_OK;
        }
    }
    return EF_UNAVAILABLE;
}

const ef_kernels *ef_active_kernels(void) {
    return atomic_load_explicit(&active, memory_order_acquire);
}
