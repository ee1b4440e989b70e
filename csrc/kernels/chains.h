/* How eight chains of sums become one: in the same order for every instruction set. */
#ifndef EMBEDFILTER_CHAINS_H
#define EMBEDFILTER_CHAINS_H

static inline float ef_sum_of_8_f32(const float s[8]) {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static inline double ef_sum_of_8_f64(const double s[8]) {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

#endif
