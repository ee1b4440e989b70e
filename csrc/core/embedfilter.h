/* The contract of embedfilter's C core.
 *
 * The core is arithmetic on plain arrays: it opens no files, knows nothing of
 * Python, and never prints, exits or aborts. Every fallible function returns an
 * ef_status; the caller's ef_detail then says where the fault lies.
 *
 * Conventions
 *   - matrices are row-major; the shape stands in a comment beside each pointer;
 *   - sizes are size_t and count elements unless the name ends in _bytes;
 *   - input is only read, output is only written, and the two never overlap;
 *   - n_threads is the number of threads to use, the caller included; the result does
 *     not depend on it;
 *   - every function may be called from several threads at once.
 */
#ifndef EMBEDFILTER_H
#define EMBEDFILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Status ------------------------------------------------------------- */

typedef enum ef_status {
    EF_OK = 0,
    EF_NO_MEMORY,   /* an allocation of detail.count bytes failed */
    EF_TOO_LARGE,   /* a size does not fit the arithmetic (size_t, or LAPACK's int) */
    EF_NOT_FINITE,  /* row detail.row of the input holds NaN or infinity */
    EF_OVERFLOW,    /* row detail.row overflows the arithmetic or the output type */
    EF_LAPACK,      /* the LAPACK routine reported detail.count as its info */
    EF_NO_LIBRARY,  /* OpenBLAS could not be loaded: detail.reason names the file and says why */
    EF_UNAVAILABLE, /* this machine or this build lacks what was asked for */
} ef_status;

/* Where a fault lies. Meaningful only after a status other than EF_OK. */
typedef struct ef_detail {
    size_t row;         /* the first faulty row, counted from 0 */
    size_t count;       /* see the status */
    const char *reason; /* see EF_NO_LIBRARY; until the calling thread's next error */
} ef_detail;

/* One line of English for a status, never NULL. */
const char *ef_status_text(ef_status status);

/* ---- Element types ------------------------------------------------------ */

typedef enum ef_dtype { EF_F16, EF_BF16, EF_F32, EF_F64 } ef_dtype;

/* A matrix that is read: (n_rows, n_cols), rows `stride_bytes` apart (any sign,
 * a multiple of the element's size), elements of a row adjacent. */
typedef struct ef_matrix {
    const unsigned char *data;
    ptrdiff_t stride_bytes;
    size_t n_rows, n_cols;
    ef_dtype dtype;
} ef_matrix;

/* ---- Instruction sets (cpu.c) ------------------------------------------- */

/* Number of instruction sets that this build *and* this machine can run, and their
 * names, best first: "avx512" and "avx2", or "neon"; then always "scalar", the oracle of the
 * tests, which serves where there is no other: right, and slow. A filter, a lens and a Gram matrix
 * keep the set that was in use when they were made. */
size_t ef_isa_count(void);
const char *ef_isa_name(size_t index); /* index < ef_isa_count() */

/* The instruction set in use, and its choice by name; EF_UNAVAILABLE leaves it as it
 * was. The best one is chosen before the first call. */
const char *ef_get_isa(void);
ef_status ef_set_isa(const char *name);

/* ---- Threads (threads.c) ------------------------------------------------ */

/* Runs task(context, slot, i) once for each i < n_tasks, on at most n_threads threads, the
 * caller's own among them, and returns when all are done. Of the tasks that run at one time each
 * has another slot < n_threads, for memory of its own. Tasks are handed out one at a time, so they
 * may be of unequal cost, and a thread that comes late takes few: a task had better last 10 to
 * 1000 microseconds. Threads are made at first use and again after fork. Callers share them;
 * where none can be made, or they were of no use of late, the caller does the tasks itself. */
typedef void ef_task(void *context, size_t slot, size_t index);
void ef_parallel_for(size_t n_threads, size_t n_tasks, ef_task *task, void *context);

/* ---- Dequantisation (dequantize.c) --------------------------------------- */

/* Quantised weights, in blocks as ggml lays them out; kernels/blocks.h describes them. */
typedef enum ef_block_type { EF_Q4_0, EF_Q8_0, EF_Q4_K, EF_Q6_K } ef_block_type;

typedef struct ef_block_size {
    size_t elements, bytes;
} ef_block_size;
ef_block_size ef_size_of_block(ef_block_type type);

/* Decodes n blocks, which may lie at any address, into out (n * elements). The result is that of
 * the gguf package to the bit, infinity and NaN included, which damaged scales give. On the
 * calling thread: it is faster than a file is read, and runs while others work. */
void ef_dequantize(ef_block_type type, const unsigned char *blocks, size_t n, float *out);

/* ---- Gram matrix (gram.c) ----------------------------------------------- */

/* W^T W of a matrix W (n, d) that comes in blocks of rows, whatever n. Its memory is
 * 4 d^2 bytes, a chunk of about 4 MiB or 1024 rows, and 72 d bytes a thread. */
typedef struct ef_gram ef_gram;

enum { EF_MAX_COLUMNS = 32766 }; /* of W: LAPACK's work sizes are 32-bit */

/* Begins a sum over rows of d numbers, in one of two ways.
 *   basis  (p, d), p <= 8: the dominant directions of the rows, orthonormal to rounding.
 *          p = 0: all in float64, from inputs of any type.
 *          p > 0: twice as fast: float32 products and sums over runs of 256 rows, added in
 *          float64, of what remains of the rows when the directions are taken out. float64
 *          input is rounded to float32 first. The result is exact to about 1e-7 of the
 *          square of the largest singular value that remains.
 * EF_TOO_LARGE for d = 0, d > EF_MAX_COLUMNS or p > 8; EF_NO_MEMORY. */
ef_status ef_gram_new(size_t d, const float *basis, size_t p, ef_gram **gram, ef_detail *detail);
void ef_gram_free(ef_gram *gram); /* NULL is allowed */

/* Adds the rows of w (n, d). The blocks in which rows come do not change the result.
 * EF_NOT_FINITE: detail.row is the first row with NaN or infinity, detail.count the number of
 * such rows. EF_OVERFLOW: all are finite, but numbers are too large for float32 sums.
 * EF_NO_MEMORY. The sum is of no use after an error. Not for several threads at once. */
ef_status ef_gram_add(ef_gram *gram, ef_matrix w, size_t n_threads, ef_detail *detail);

/* Writes the upper triangle of the sum so far to out (d, d), and leaves the rest alone. More
 * rows may be added after it. It may hold infinity or NaN where squares overflow. */
ef_status ef_gram_finish(ef_gram *gram, double *out, size_t n_threads, ef_detail *detail);

/* ---- Eigenvectors (eigen.c) --------------------------------------------- */

/* Finds the folder that our copy of OpenBLAS lies in, once, before the process changes its own: the
 * path by which this code was loaded may be relative. */
void ef_locate_openblas(void);

/* Loads OpenBLAS, whose LAPACK ef_eigh takes, unless it is loaded: nothing else needs it. Of
 * several threads that come at once one loads it. EF_NO_LIBRARY: it cannot be loaded; the next call
 * tries again. The process had better not be forked meanwhile: in the child it is EF_NO_LIBRARY. */
ef_status ef_load_openblas(ef_detail *detail);

/* All eigenvalues and the wanted eigenvectors of a symmetric matrix, by LAPACK's divide and
 * conquer.
 *   matrix   (d, d) float64: the upper triangle is read; then its numbers are lost
 *   values   (d), ascending
 *   wanted   (n_wanted): which eigenvalues' vectors, each under d, in any order
 *   vectors  (n_wanted, d): row i is the unit eigenvector of values[wanted[i]]
 * The same to the bit for every thread count; between machines the last bits differ, as OpenBLAS
 * has kernels for each kind of processor.
 * EF_NOT_FINITE: the matrix has NaN or infinity in detail.row; LAPACK, which might not
 * return, does not see it. EF_OVERFLOW: its norm is no float64. EF_LAPACK: no convergence.
 * EF_NO_MEMORY. EF_NO_LIBRARY.
 * EF_TOO_LARGE for d or n_wanted > EF_MAX_COLUMNS. A fork in another thread waits for a piece
 * of the work, which grows with d^2: a quarter of a second at 3072. */
ef_status ef_eigh(double *matrix, double *values, size_t d, const int64_t *wanted, size_t n_wanted,
                  double *vectors, size_t n_threads, ef_detail *detail);

/* ---- Projection (project.c, quantize.c) --------------------------------- */

enum { EF_THREAD_WORK = 1 << 18 }; /* least multiply-adds of a projection for each thread */

/* A filter's matrix, laid out for the kernels, and its mean. */
typedef struct ef_filter ef_filter;

/* Packs `components` (k, d) float32 and `mean` (d), NULL for none, into *filter, which the
 * caller frees. k, d >= 1. */
ef_status ef_filter_new(const float *components, const float *mean, size_t k, size_t d,
                        ef_filter **filter, ef_detail *detail);
void ef_filter_free(ef_filter *filter); /* NULL is allowed */

/* The form of a projected row: k values each, except EF_OUT_BITS. */
typedef enum ef_precision {
    EF_OUT_F32,
    EF_OUT_F16,
    EF_OUT_BF16,
    EF_OUT_I8,  /* trunc((y - start) / step - 128), saturated */
    EF_OUT_U8,  /* trunc((y - start) / step), saturated */
    EF_OUT_BITS /* ceil(k / 8) bytes: bit 7 of byte 0 is set where y[0] > 0, and so on */
} ef_precision;

/* What becomes of y = C (x - m) before it is stored. */
typedef struct ef_output {
    ef_precision precision;
    bool normalize;      /* divide by the L2 norm; a row of zeros stays so */
    const float *starts; /* (k), EF_OUT_I8 and EF_OUT_U8 only */
    const float *steps;  /* (k), finite and not 0 */
} ef_output;

/* Bytes of one output row, 0 for k = 0. */
size_t ef_output_row_bytes(ef_precision precision, size_t k);

/* out[i] = form(C (x[i] - m)) for every row i of x, m being the filter's mean.
 *   x    (n, d) of any ef_dtype; x - m is rounded to float32, as float64 without a mean is
 *   out  (n, ef_output_row_bytes), C-contiguous, aligned for its type
 * A product is a chain of float32 fused multiply-adds over runs of 256 inputs, the runs
 * added up in float32; norms are summed in float64. The order is fixed, so a row's result is the
 * same to the bit for every batch, thread count and instruction set. EF_NOT_FINITE: x has NaN or
 * infinity in detail.row. EF_OVERFLOW: the row's values do not fit float32 or the output type.
 * `out` is then unspecified. EF_NO_MEMORY. */
ef_status ef_project(const ef_filter *filter, ef_matrix x, ef_output form, void *out,
                     size_t n_threads, ef_detail *detail);

/* ---- Logit lens (lens.c) ------------------------------------------------ */

/* The k largest logits W x, and whose they are, of each of n vectors x, over a matrix W (V, d)
 * that comes in blocks of rows, whatever V. Its memory is 6 n d + 8 n k bytes, and under a MiB
 * for each thread while rows are added. */
typedef struct ef_lens ef_lens;

/* Begins with the vectors x (n, d), which are copied; float64 is rounded to float32 first.
 * n, d, k >= 1. EF_NOT_FINITE, EF_OVERFLOW: row detail.row of x has NaN or infinity, or numbers
 * that float32 does not hold. EF_TOO_LARGE for k >= 2^32. EF_NO_MEMORY. */
ef_status ef_lens_new(ef_matrix x, size_t k, ef_lens **lens, ef_detail *detail);
void ef_lens_free(ef_lens *lens); /* NULL is allowed */

/* Adds the rows of w (m, d), whose ids count on from those before.
 * A logit is 32 chains of float32 fused multiply-adds whose sums are added in a fixed order, so
 * the result is the same to the bit for every batch, block of rows, thread count and instruction
 * set; float64 rows are rounded to float32 first.
 * EF_NOT_FINITE: row detail.row of w has NaN or infinity. EF_OVERFLOW: it has none, but a logit
 * of it does not fit float32. EF_TOO_LARGE for 2^32 rows in all. EF_NO_MEMORY. The lens is of no
 * use after an error. Not for several threads at once. */
ef_status ef_lens_add(ef_lens *lens, ef_matrix w, size_t n_threads, ef_detail *detail);

/* Writes what was found, each (n, k): by descending logit, equal ones by ascending id. At least
 * k rows have been added, and no more may be. */
void ef_lens_finish(ef_lens *lens, int64_t *ids, float *logits);

#endif
