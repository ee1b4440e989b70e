/* Divide and conquer, as LAPACK's dstedc does it, with the large steps in pieces that several
 * threads share and that a fork need not wait for long: the matrix is cut into halves that differ
 * from it by a matrix of rank one, and of their eigenvectors those of the whole are made (Gu and
 * Eisenstat). Matrices here are in Fortran's order. */
#include "core/tridiagonal.h"
#include "core/arithmetic.h"
#include "core/memory.h"
#include "core/openblas.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEAF = 25,     /* columns that are not cut, as LAPACK has it */
    COLUMNS = 128, /* in a task */
};

typedef struct pair {
    double value;
    int column;
} pair;

/* What a solution works with; n is the size of the part that is being merged, of which k columns
 * are to be found. Names are dlaed2's. */
typedef struct solution {
    double *values, *off_diagonal, *q; /* of the whole */
    int ldq;
    double *z, *lambda, *w, *weights, *q2;
    int *order, *indx, *indxc, *indxp, *coltyp;
    double *scratch; /* (d, COLUMNS) for each slot */
    size_t n_threads;

    int first, n, n1, k; /* of the part */
    double rho;
    atomic_int info; /* of the last root that was not found */
} solution;

static double *at(const solution *s, int row, int column) {
    return s->q + (size_t)(s->first + column) * (size_t)s->ldq + (size_t)(s->first + row);
}

static int end_of(const solution *s, size_t index) {
    return (int)ef_least((index + 1) * COLUMNS, (size_t)s->k);
}

/* Roots of the secular equation; column j becomes the distances of the j-th from all poles. */
static void find_roots(void *context, size_t slot, size_t index) {
    (void)slot;
    solution *s = context;
    const ef_openblas *blas = ef_enter_openblas();
    for (int j = (int)index * COLUMNS + 1; j <= end_of(s, index); j++) {
        int info = 0;
        blas->dlaed4(&s->k, &j, s->lambda, s->w, at(s, 0, j - 1), &s->rho,
                     s->values + s->first + j - 1, &info);
        if (info != 0)
            s->info = info;
    }
    ef_leave_openblas();
}

/* Of the matrix whose eigenvalues the roots are to the last bit, the vector of rank one. */
static void find_weights(void *context, size_t slot, size_t index) {
    (void)slot;
    solution *s = context;
    const int begin = (int)index * COLUMNS, end = end_of(s, index);
    for (int i = begin; i < end; i++)
        s->weights[i] = *at(s, i, i);
    for (int j = 0; j < s->k; j++) {
        const double *distances = at(s, 0, j);
        for (int i = begin; i < end; i++)
            if (i != j)
                s->weights[i] *= distances[i] / (s->lambda[i] - s->lambda[j]);
    }
    for (int i = begin; i < end; i++)
        s->weights[i] = copysign(sqrt(-s->weights[i]), s->w[i]);
}

/* An eigenvector (k) of the merged matrix, in terms of the halves' eigenvectors. */
static void find_vector(const solution *s, int j, double *vector) {
    const double *column = at(s, 0, j);
    double sum = 0.0;
    for (int i = 0; i < s->k; i++) {
        const int from = s->indxc[i] - 1;
        vector[i] = s->k <= 2 ? column[from] : s->weights[from] / column[from];
        sum += vector[i] * vector[i];
    }
    const double length = sqrt(sum);
    for (int i = 0; i < s->k; i++)
        vector[i] /= length;
}

/* Eigenvectors of the part: products of those of its halves, one above the other. */
static void find_vectors(void *context, size_t slot, size_t index) {
    const solution *s = context;
    const double one = 1.0, zero = 0.0;
    const int begin = (int)index * COLUMNS, n = end_of(s, index) - begin;
    const int n2 = s->n - s->n1;
    const int k1 = s->coltyp[0] + s->coltyp[1], k2 = s->coltyp[1] + s->coltyp[2];
    double *vectors = s->scratch + slot * (size_t)s->ldq * COLUMNS;
    for (int j = 0; j < n; j++)
        find_vector(s, begin + j, vectors + (size_t)j * (size_t)s->k);
    /* Where a half has no part in them (k1 or k2 is 0), zeros. */
    const ef_openblas *blas = ef_enter_openblas();
    blas->dgemm("N", "N", &s->n1, &n, &k1, &one, s->q2, &s->n1, vectors, &s->k, &zero,
                at(s, 0, begin), &s->ldq, 1, 1);
    blas->dgemm("N", "N", &n2, &n, &k2, &one, s->q2 + (size_t)s->n1 * (size_t)k1, &n2,
                vectors + s->coltyp[0], &s->k, &zero, at(s, s->n1, begin), &s->ldq, 1, 1);
    ef_leave_openblas();
}

/* Makes one part of two halves, the first of n1. */
static int merge(solution *s, int first, int n, int n1) {
    int info = 0, *order = s->order + first;
    double *values = s->values + first;
    s->first = first, s->n = n, s->n1 = n1;
    s->rho = s->off_diagonal[first + n1 - 1];
    for (int j = 0; j < n; j++)
        s->z[j] = *at(s, j < n1 ? n1 - 1 : n1, j);
    const ef_openblas *blas = ef_enter_openblas();
    blas->dlaed2(&s->k, &n, &n1, values, at(s, 0, 0), &s->ldq, order, &s->rho, s->z, s->lambda,
                 s->w, s->q2, s->indx, s->indxc, s->indxp, s->coltyp, &info);
    ef_leave_openblas();
    for (int j = 0; j < n && s->k == 0; j++)
        order[j] = j + 1;
    if (info != 0 || s->k == 0)
        return info;
    const size_t n_tasks = ef_ceil_div((size_t)s->k, COLUMNS);
    ef_parallel_for(s->n_threads, n_tasks, find_roots, s);
    if (s->info != 0)
        return s->info;
    if (s->k > 2)
        ef_parallel_for(s->n_threads, n_tasks, find_weights, s);
    ef_parallel_for(s->n_threads, n_tasks, find_vectors, s);
    const int deflated = n - s->k, up = 1, down = -1;
    blas = ef_enter_openblas();
    blas->dlamrg(&s->k, &deflated, values, &up, &down, order);
    ef_leave_openblas();
    return 0;
}

/* A part without halves. */
static int solve_leaf(solution *s, int first, int n) {
    int info = 0;
    s->first = first;
    const ef_openblas *blas = ef_enter_openblas();
    blas->dsteqr("I", &n, s->values + first, s->off_diagonal + first, at(s, 0, 0), &s->ldq,
                 s->scratch, &info, 1);
    ef_leave_openblas();
    for (int i = 0; i < n; i++)
        s->order[first + i] = i + 1;
    return info;
}

/* Of n columns from `first` on the eigenvalues and vectors, and in which order they ascend. */
static int solve(solution *s, int first, int n) {
    if (n <= LEAF)
        return solve_leaf(s, first, n);
    const int n1 = n / 2, second = first + n1;
    const double cut = fabs(s->off_diagonal[second - 1]);
    s->values[second - 1] -= cut;
    s->values[second] -= cut;
    int info = solve(s, first, n1);
    if (info == 0)
        info = solve(s, second, n - n1);
    return info == 0 ? merge(s, first, n, n1) : info;
}

/* How many columns from `first` on hang together. */
static int connected(const solution *s, int first) {
    int last = first;
    while (last + 1 < s->ldq && fabs(s->off_diagonal[last]) > DBL_EPSILON / 2 *
                                                                  sqrt(fabs(s->values[last])) *
                                                                  sqrt(fabs(s->values[last + 1])))
        last++;
    return last + 1 - first;
}

/* Solves columns that hang together, as if the largest of their numbers were 1. */
static int solve_scaled(solution *s, int first, int n) {
    double *values = s->values + first, *off_diagonal = s->off_diagonal + first, largest = 0.0;
    for (int i = 0; i < n; i++)
        largest = fmax(largest, fmax(fabs(values[i]), i + 1 < n ? fabs(off_diagonal[i]) : 0.0));
    const double scale = largest > 0.0 ? largest : 1.0;
    for (int i = 0; i < n; i++) {
        values[i] /= scale;
        off_diagonal[i] /= scale;
    }
    const int info = solve(s, first, n);
    for (int i = 0; i < n; i++)
        values[i] *= scale;
    return info;
}

static int compare(const void *a, const void *b) {
    const pair *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? -1 : 1;
    return x->column - y->column;
}

static void sort(const solution *s, pair *pairs) {
    const size_t d = (size_t)s->ldq;
    for (size_t i = 0; i < d; i++)
        pairs[i] = (pair){s->values[i], (int)i};
    qsort(pairs, d, sizeof *pairs, compare);
    for (size_t i = 0; i < d; i++) {
        s->values[i] = pairs[i].value;
        s->order[i] = pairs[i].column;
    }
}

ef_status ef_tridiagonal(double *values, double *off_diagonal, size_t d, double *z, int *order,
                         size_t n_threads, ef_detail *detail) {
    const size_t n_slots = ef_least(n_threads, ef_ceil_div(d, COLUMNS));
    const size_t n_numbers = d * d + 4 * d + n_slots * d * COLUMNS;
    double *numbers = ef_new_array(n_numbers * sizeof(double) + 4 * d * sizeof(int), 1, detail);
    if (numbers == NULL)
        return EF_NO_MEMORY;
    solution s = {
        .values = values,
        .off_diagonal = off_diagonal,
        .q = z,
        .ldq = (int)d,
        .q2 = numbers,
        .z = numbers + d * d,
        .order = order,
        .n_threads = n_slots,
    };
    s.lambda = s.z + d;
    s.w = s.lambda + d;
    s.weights = s.w + d;
    s.scratch = s.weights + d;
    s.indx = (int *)(numbers + n_numbers);
    s.indxc = s.indx + d;
    s.indxp = s.indxc + d;
    s.coltyp = s.indxp + d;
    memset(z, 0, d * d * sizeof(double));
    int info = 0;
    for (int first = 0; first < s.ldq && info == 0;) {
        const int n = connected(&s, first);
        info = solve_scaled(&s, first, n);
        first += n;
    }
    if (info == 0)
        sort(&s, (pair *)s.scratch);
    ef_free(numbers);
    detail->count = (size_t)info;
    return info == 0 ? EF_OK : EF_LAPACK;
}
