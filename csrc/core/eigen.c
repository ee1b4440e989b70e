/* Eigenvectors of a symmetric matrix, by LAPACK. */
#include "core/embedfilter.h"
#include "core/arithmetic.h"
#include "core/memory.h"
#include "core/openblas.h"
#include "core/rows.h"
#include "core/tridiagonal.h"

#include <string.h>

static bool upper_finite(const double *matrix, size_t d, size_t *row) {
    for (size_t i = 0; i < d; i++) {
        if (!ef_finite_f64(matrix + i * d + i, d - i)) {
            *row = i;
            return false;
        }
    }
    return true;
}

enum {
    PANEL = 32,    /* columns reduced before the rest is brought up to date, as LAPACK has it */
    STRIPE = 128,  /* columns of the rest in a task */
    VECTORS = 128, /* turned back in a task */
    BLOCK = 64,    /* reflections that turn them at once */
};

/* The rest of the matrix, to be brought up to date by two panels: a -= v w^T + w v^T. */
typedef struct rest {
    double *a;
    const double *v, *w; /* (n, PANEL) in Fortran's order */
    int n, lda, ldw;     /* lda is v's too */
} rest;

/* Columns of the lower triangle, from the diagonal down. */
static void rest_task(void *context, size_t slot, size_t index) {
    (void)slot;
    const rest *r = context;
    const double minus = -1.0, one = 1.0;
    const int k = PANEL, first = (int)index * STRIPE;
    const int n = r->n - first < STRIPE ? r->n - first : STRIPE, m = r->n - first - n;
    double *diagonal = r->a + (size_t)first * ((size_t)r->lda + 1), *below = diagonal + n;
    const double *v = r->v + first, *w = r->w + first;
    const ef_openblas *blas = ef_enter_openblas();
    blas->dsyr2k("L", "N", &n, &k, &minus, v, &r->lda, w, &r->ldw, &one, diagonal, &r->lda, 1, 1);
    if (m > 0) {
        blas->dgemm("N", "T", &m, &n, &k, &minus, v + n, &r->lda, w, &r->ldw, &one, below, &r->lda,
                    1, 1);
        blas->dgemm("N", "T", &m, &n, &k, &minus, w + n, &r->ldw, v, &r->lda, &one, below, &r->lda,
                    1, 1);
    }
    ef_leave_openblas();
}

/* LAPACK's dsytrd, in pieces: matrix = Q T Q^T with T tridiagonal; work is (PANEL, d). */
static void reduce(double *matrix, int d, double *values, double *off_diagonal, double *tau,
                   double *work, size_t n_threads) {
    const int nb = PANEL;
    const size_t ld = (size_t)d;
    const ef_openblas *blas;
    int i = 0, info;
    for (; i < d - PANEL; i += PANEL) {
        double *panel = matrix + (size_t)i * (ld + 1);
        const int n = d - i;
        blas = ef_enter_openblas();
        blas->dlatrd("L", &n, &nb, panel, &d, off_diagonal + i, tau + i, work, &d, 1);
        ef_leave_openblas();
        rest r = {panel + PANEL * (ld + 1), panel + PANEL, work + PANEL, n - PANEL, d, d};
        ef_parallel_for(n_threads, ef_ceil_div((size_t)r.n, STRIPE), rest_task, &r);
        for (int j = i; j < i + PANEL; j++) {
            values[j] = matrix[(size_t)j * (ld + 1)];
            matrix[(size_t)j * (ld + 1) + 1] = off_diagonal[j];
        }
    }
    const int n = d - i;
    blas = ef_enter_openblas();
    blas->dsytd2("L", &n, matrix + (size_t)i * (ld + 1), &d, values + i, off_diagonal + i, tau + i,
                 &info, 1);
    ef_leave_openblas();
}

/* Vectors (n, d), to be turned by the reflections that reduced a matrix. */
typedef struct turn {
    const double *matrix, *tau; /* reflection i stands in row i, from column i + 1 on */
    double *vectors;
    double *factors; /* (BLOCK, BLOCK) for each block */
    double *scratch; /* (VECTORS, BLOCK) for each slot */
    int d, n;
} turn;

/* What of a turn is common to all vectors: the triangular factor of a block of reflections. */
static void factor_task(void *context, size_t slot, size_t index) {
    (void)slot;
    const turn *t = context;
    const size_t first = index * BLOCK;
    const int m = t->d - 1 - (int)first, k = m < BLOCK ? m : BLOCK, ldt = BLOCK;
    const ef_openblas *blas = ef_enter_openblas();
    blas->dlarft("F", "C", &m, &k, t->matrix + first * ((size_t)t->d + 1) + 1, &t->d,
                 t->tau + first, t->factors + index * BLOCK * BLOCK, &ldt, 1, 1);
    ef_leave_openblas();
}

static void turn_task(void *context, size_t slot, size_t index) {
    const turn *t = context;
    const size_t d = (size_t)t->d;
    const int left = t->n - (int)index * VECTORS, n = left < VECTORS ? left : VECTORS, ldt = BLOCK;
    double *vectors = t->vectors + index * VECTORS * d;
    for (size_t block = ef_ceil_div(d - 1, BLOCK); block-- > 0;) {
        const size_t first = block * BLOCK;
        const int m = t->d - 1 - (int)first, k = m < BLOCK ? m : BLOCK;
        const ef_openblas *blas = ef_enter_openblas();
        blas->dlarfb("L", "N", "F", "C", &m, &n, &k, t->matrix + first * (d + 1) + 1, &t->d,
                     t->factors + block * BLOCK * BLOCK, &ldt, vectors + first + 1, &t->d,
                     t->scratch + slot * VECTORS * BLOCK, &n, 1, 1, 1, 1);
        ef_leave_openblas();
    }
}

/* The three steps of dsyevd, but the last one for the wanted eigenvectors only:
 * matrix = Q T Q^T, T = Z diag(values) Z^T, vectors = Q times columns of Z.
 * z is (d, d), order (d); work is two rows of d, a block for the factors, in which there is room
 * for a panel, and (VECTORS, BLOCK) for each of n_slots.
 * Fortran's columns are our rows, its lower triangle our upper. */
static ef_status decompose(double *matrix, double *values, size_t d, const int64_t *wanted,
                           size_t n_wanted, double *vectors, double *z, double *work, int *order,
                           size_t n_slots, size_t n_threads, ef_detail *detail) {
    double *off_diagonal = work, *tau = work + d, *panel = tau + d;
    reduce(matrix, (int)d, values, off_diagonal, tau, panel, n_threads);
    detail->row = 0;
    if (!ef_finite_f64(values, d) || !ef_finite_f64(off_diagonal, d - 1))
        return EF_OVERFLOW;
    const ef_status status = ef_tridiagonal(values, off_diagonal, d, z, order, n_threads, detail);
    if (status != EF_OK)
        return status;
    for (size_t i = 0; i < n_wanted; i++)
        memcpy(vectors + i * d, z + (size_t)order[wanted[i]] * d, d * sizeof(double));
    turn t = {matrix, tau,          vectors, panel, panel + ef_round_up(d, BLOCK) * BLOCK,
              (int)d, (int)n_wanted};
    ef_parallel_for(n_threads, ef_ceil_div(d - 1, BLOCK), factor_task, &t);
    ef_parallel_for(n_slots, ef_ceil_div(n_wanted, VECTORS), turn_task, &t);
    return EF_OK;
}

ef_status ef_eigh(double *matrix, double *values, size_t d, const int64_t *wanted, size_t n_wanted,
                  double *vectors, size_t n_threads, ef_detail *detail) {
    if (d == 0)
        return EF_OK;
    if (d > EF_MAX_COLUMNS || n_wanted > EF_MAX_COLUMNS)
        return EF_TOO_LARGE;
    if (!upper_finite(matrix, d, &detail->row))
        return EF_NOT_FINITE;
    ef_status status = ef_load_openblas(detail);
    if (status != EF_OK)
        return status;
    const size_t n_slots = ef_least(n_threads, ef_ceil_div(n_wanted, VECTORS));
    const size_t n_numbers =
        d * d + 2 * d + ef_round_up(d, BLOCK) * BLOCK + n_slots * VECTORS * BLOCK;
    double *z = ef_new_array(n_numbers * sizeof(double) + d * sizeof(int), 1, detail);
    if (z == NULL)
        return EF_NO_MEMORY;
    status = decompose(matrix, values, d, wanted, n_wanted, vectors, z, z + d * d,
                       (int *)(z + n_numbers), n_slots, n_threads, detail);
    ef_free(z);
    return status;
}
