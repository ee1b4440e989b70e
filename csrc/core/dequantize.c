/* Blocks of quantised weights as float32. */
#include "core/embedfilter.h"
#include "kernels/kernels.h"

ef_block_size ef_size_of_block(ef_block_type type) {
    switch (type) {
    case EF_Q4_0:
        return (ef_block_size){EF_BLOCK, sizeof(ef_block_q4_0)};
    case EF_Q8_0:
        return (ef_block_size){EF_BLOCK, sizeof(ef_block_q8_0)};
    case EF_Q4_K:
        return (ef_block_size){EF_SUPER_BLOCK, sizeof(ef_block_q4_k)};
    case EF_Q6_K:
        return (ef_block_size){EF_SUPER_BLOCK, sizeof(ef_block_q6_k)};
    }
    return (ef_block_size){1, 1};
}

void ef_dequantize(ef_block_type type, const unsigned char *blocks, size_t n, float *out) {
    const ef_kernels *kernels = ef_active_kernels();
    switch (type) {
    case EF_Q4_0:
        kernels->dequantize_q4_0((const ef_block_q4_0 *)blocks, out, n);
        return;
    case EF_Q8_0:
        kernels->dequantize_q8_0((const ef_block_q8_0 *)blocks, out, n);
        return;
    case EF_Q4_K:
        kernels->dequantize_q4_k((const ef_block_q4_k *)blocks, out, n);
        return;
    case EF_Q6_K:
        kernels->dequantize_q6_k((const ef_block_q6_k *)blocks, out, n);
        return;
    }
}
