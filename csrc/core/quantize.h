/* The final form of a projected row; used by project.c only. */
#ifndef EMBEDFILTER_QUANTIZE_H
#define EMBEDFILTER_QUANTIZE_H

#include "core/embedfilter.h"
#include "kernels/kernels.h"

/* Normalises y (k) in place where the form says so and stores it at `out`, which is
 * aligned for its type. False if y is not finite or does not fit the output type; `out`
 * is then unspecified. */
bool ef_finish_row(const ef_kernels *kernels, const ef_output *form, float *y, size_t k,
                   unsigned char *out);

#endif
