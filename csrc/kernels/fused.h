/* A float32 fused multiply-add for the oracle, rounded once on every machine. Where the processor
 * has none, glibc's own takes six times as long (27 ns; where it has one, 3.6 against 4.6 here),
 * and mingw-w64's rounds twice. */
#ifndef EMBEDFILTER_FUSED_H
#define EMBEDFILTER_FUSED_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* a * b + c. The product is exact in float64. Of the sum, which may not be, the last bit is made
 * odd where something was lost: then it lies on the right side of what float32 rounds at, which has
 * 29 bits less. */
static inline float fused_f32(float a, float b, float c) {
    const double product = (double)a * (double)b, added = (double)c, sum = product + added;
    const double of_added = sum - product;
    const double lost = (product - (sum - of_added)) + (added - of_added);
    if (!(lost != 0.0 && isfinite(sum)))
        return (float)sum;
    int64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if (bits % 2 == 0)
        bits += (lost > 0.0) == (sum > 0.0) ? 1 : -1;
    double odd;
    memcpy(&odd, &bits, sizeof odd);
    return (float)odd;
}

#endif
