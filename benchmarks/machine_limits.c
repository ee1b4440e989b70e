/* What this machine can do at most, now: float32 fused multiply-adds a second, and bytes read a
 * second from a buffer of a given size, on up to MOST_THREADS threads. Built by measure.py as a
 * library, so that both are measured in the same rounds as what is compared with them.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(AVX512) /* defined by who builds this, where the machine has it */
#include <immintrin.h>
enum { LANES = 16 };
typedef __m512 vector;
#define TARGET __attribute__((target("avx512f")))
#define SPLAT(x) _mm512_set1_ps(x)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define LOAD(p) _mm512_load_ps(p)
#define ADD(a, b) _mm512_add_ps(a, b)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#elif defined(__x86_64__)
#include <immintrin.h>
enum { LANES = 8 };
typedef __m256 vector;
#define TARGET __attribute__((target("avx2,fma")))
#define SPLAT(x) _mm256_set1_ps(x)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define LOAD(p) _mm256_load_ps(p)
#define ADD(a, b) _mm256_add_ps(a, b)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#else
#include <arm_neon.h>
enum { LANES = 4 };
typedef float32x4_t vector;
#define TARGET
#define SPLAT(x) vdupq_n_f32(x)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define LOAD(p) vld1q_f32(p)
#define ADD(a, b) vaddq_f32(a, b)
#define STORE(p, v) vst1q_f32(p, v)
#endif

enum { CHAINS = 12, MOST_THREADS = 64 };
static const double SECONDS = 0.02; /* of one measurement */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct work {
    const float *data; /* (n) or NULL for multiply-adds */
    size_t n;
    size_t rounds;
    float sink[LANES];
} work;

/* CHAINS independent chains, long enough to hide their latency. */
TARGET static void multiply_add(work *w) {
    /* Different numbers, or the compiler would do equal chains once. */
    vector s0 = SPLAT(0), s1 = SPLAT(1), s2 = SPLAT(2), s3 = SPLAT(3), s4 = SPLAT(4);
    vector s5 = SPLAT(5), s6 = SPLAT(6), s7 = SPLAT(7), s8 = SPLAT(8), s9 = SPLAT(9);
    vector s10 = SPLAT(10), s11 = SPLAT(11);
    const vector a = SPLAT(0.999999f), b = SPLAT(1e-6f);
    for (size_t i = 0; i < w->rounds; i++) {
        s0 = FMA(s0, a, b), s1 = FMA(s1, a, b), s2 = FMA(s2, a, b), s3 = FMA(s3, a, b);
        s4 = FMA(s4, a, b), s5 = FMA(s5, a, b), s6 = FMA(s6, a, b), s7 = FMA(s7, a, b);
        s8 = FMA(s8, a, b), s9 = FMA(s9, a, b), s10 = FMA(s10, a, b), s11 = FMA(s11, a, b);
    }
    s0 = ADD(ADD(ADD(s0, s1), ADD(s2, s3)), ADD(ADD(s4, s5), ADD(s6, s7)));
    STORE(w->sink, ADD(s0, ADD(ADD(s8, s9), ADD(s10, s11))));
}

TARGET static void read_all(work *w) {
    vector s0 = SPLAT(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    for (size_t round = 0; round < w->rounds; round++) {
        for (const float *p = w->data; p < w->data + w->n; p += 8 * LANES) {
            s0 = ADD(s0, LOAD(p)), s1 = ADD(s1, LOAD(p + LANES));
            s2 = ADD(s2, LOAD(p + 2 * LANES)), s3 = ADD(s3, LOAD(p + 3 * LANES));
            s4 = ADD(s4, LOAD(p + 4 * LANES)), s5 = ADD(s5, LOAD(p + 5 * LANES));
            s6 = ADD(s6, LOAD(p + 6 * LANES)), s7 = ADD(s7, LOAD(p + 7 * LANES));
        }
    }
    STORE(w->sink, ADD(ADD(ADD(s0, s1), ADD(s2, s3)), ADD(ADD(s4, s5), ADD(s6, s7))));
}

static void *run(void *w) {
    if (((work *)w)->data == NULL)
        multiply_add(w);
    else
        read_all(w);
    return NULL;
}

/* Seconds for all threads to do their rounds. */
static double timed(work *works, int n_threads, size_t rounds) {
    pthread_t threads[MOST_THREADS];
    const double start = now();
    for (int i = 1; i < n_threads; i++) {
        works[i].rounds = rounds;
        pthread_create(&threads[i], NULL, run, &works[i]);
    }
    works[0].rounds = rounds;
    run(&works[0]);
    for (int i = 1; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    return now() - start;
}

/* Rounds a second: `amount` a round, in as many rounds as take SECONDS. */
static double rate(work *works, int n_threads, double amount) {
    size_t rounds = 1;
    double seconds;
    while ((seconds = timed(works, n_threads, rounds)) < SECONDS / 4)
        rounds *= 2;
    rounds = 1 + (size_t)((double)rounds * SECONDS / seconds);
    return amount * (double)rounds / timed(works, n_threads, rounds);
}

/* Flop/s of fused multiply-adds, each being two; -1 for more than MOST_THREADS threads. */
double fma_rate(int n_threads) {
    work works[MOST_THREADS] = {0};
    if (n_threads < 1 || n_threads > MOST_THREADS)
        return -1;
    return rate(works, n_threads, 2.0 * LANES * CHAINS * n_threads);
}

/* Bytes/s read again and again from n_bytes, of which each thread has its part; -1 for more than
 * MOST_THREADS threads, or without memory. */
double read_rate(int n_threads, size_t n_bytes) {
    work works[MOST_THREADS] = {0};
    void *memory = NULL;
    if (n_threads < 1 || n_threads > MOST_THREADS)
        return -1;
    const size_t part = n_bytes / (size_t)n_threads / 512 * 512;
    if (posix_memalign(&memory, 4096, part * (size_t)n_threads) != 0)
        return -1;
    memset(memory, 0, part * (size_t)n_threads);
    for (int i = 0; i < n_threads; i++) {
        works[i].data = (const float *)memory + part / sizeof(float) * (size_t)i;
        works[i].n = part / sizeof(float);
    }
    const double result = rate(works, n_threads, (double)part * n_threads);
    free(memory);
    return result;
}
