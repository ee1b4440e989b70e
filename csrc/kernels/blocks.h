/* Blocks of quantised weights as they lie in GGUF files: ggml's block_q4_0, block_q8_0,
 * block_q4_K and block_q6_K (ggml/src/ggml-common.h). Numbers are little-endian; there is no
 * padding, and no alignment. */
#ifndef EMBEDFILTER_BLOCKS_H
#define EMBEDFILTER_BLOCKS_H

#include <stdint.h>

enum {
    EF_BLOCK = 32,       /* weights of a block of Q4_0 and Q8_0 */
    EF_SUPER_BLOCK = 256 /* and of Q4_K and Q6_K */
};

/* w[i] = d * (q[i] - 8); q[i] is the low half of byte i, q[i + 16] its high half. */
typedef struct ef_block_q4_0 {
    uint8_t d[2]; /* float16 */
    uint8_t q[16];
} ef_block_q4_0;

/* w[i] = d * q[i] */
typedef struct ef_block_q8_0 {
    uint8_t d[2]; /* float16 */
    int8_t q[32];
} ef_block_q8_0;

/* Eight runs s of 32 weights: w = (d * scale[s]) * q - (least * minimum[s]).
 * Runs s = 2 j and 2 j + 1 are the low and the high halves of bytes 32 j to 32 j + 31. */
typedef struct ef_block_q4_k {
    uint8_t d[2], least[2]; /* float16 */
    uint8_t scales[12];     /* 6 bits each, see ef_unpack_q4_k */
    uint8_t q[128];
} ef_block_q4_k;

/* Sixteen runs s of 16 weights: w = (d * scale[s]) * (q - 32), q of 6 bits.
 * Weight 128 h + 32 g + i, with h < 2, g < 4 and i < 32, has its low four bits in byte
 * 64 h + 32 (g mod 2) + i of `low`, in the low half for g < 2; and its high two in byte 32 h + i
 * of `high`, from bit 2 g on. */
typedef struct ef_block_q6_k {
    uint8_t low[128], high[64];
    int8_t scales[16];
    uint8_t d[2]; /* float16 */
} ef_block_q6_k;

_Static_assert(sizeof(ef_block_q4_0) == 18 && sizeof(ef_block_q8_0) == 34 &&
                   sizeof(ef_block_q4_k) == 144 && sizeof(ef_block_q6_k) == 210,
               "blocks have no padding");

static inline uint16_t ef_half_bits(const uint8_t bytes[2]) {
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

/* The scales and minima of a block. Those of runs 0 to 3 are the low six bits of bytes 0 to 3
 * and 4 to 7; those of runs 4 to 7 have their low four bits in bytes 8 to 11, and their high two
 * are the high two of bytes 0 to 3 and 4 to 7. */
static inline void ef_unpack_q4_k(const ef_block_q4_k *block, uint8_t scales[8],
                                  uint8_t minima[8]) {
    const uint8_t *packed = block->scales;
    for (int s = 0; s < 4; s++) {
        scales[s] = packed[s] & 63;
        minima[s] = packed[s + 4] & 63;
        scales[s + 4] = (uint8_t)((packed[s + 8] & 15) | packed[s] >> 6 << 4);
        minima[s + 4] = (uint8_t)(packed[s + 8] >> 4 | packed[s + 4] >> 6 << 4);
    }
}

#endif
