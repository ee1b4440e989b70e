#include "core/openblas.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The build says which file has OpenBLAS: OPENBLAS_FILE, an absolute path or a name. By a name
 * our own copy is meant, which lies beside the file that this code is in; with OPENBLAS_SYSTEM,
 * whichever the system's loader finds. OPENBLAS_PREFIX stands before each of its symbols, so that
 * several copies live in one process. */

static ef_openblas functions;

static const struct {
    const char *name;
    size_t place;
} FUNCTIONS[] = {
#define FORTRAN(name) {OPENBLAS_PREFIX #name "_", offsetof(ef_openblas, name)}
    FORTRAN(dgemm),
    FORTRAN(dlaed2),
    FORTRAN(dlaed4),
    FORTRAN(dlamrg),
    FORTRAN(dlarfb),
    FORTRAN(dlarft),
    FORTRAN(dlatrd),
    FORTRAN(dsteqr),
    FORTRAN(dsyr2k),
    FORTRAN(dsytd2),
#undef FORTRAN
    {OPENBLAS_PREFIX "openblas_get_num_threads", offsetof(ef_openblas, get_num_threads)},
    {OPENBLAS_PREFIX "openblas_set_num_threads", offsetof(ef_openblas, set_num_threads)},
};

/* ---- the lock ------------------------------------------------------------- */

/* OpenBLAS has buffers for twice as many callers. */
enum { MOST_INSIDE = 64 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* Written with the mutex held. */
static size_t n_inside;
static size_t n_forking; /* threads that wait until none is inside, so none may enter */
static int threads_before;

/* The mutex is held across the fork, and nobody is inside: OpenBLAS has locks of its own, which the
 * child would inherit taken by a thread that it does not have. */
static void before_fork(void) {
    pthread_mutex_lock(&mutex);
    n_forking++;
    while (n_inside > 0)
        pthread_cond_wait(&changed, &mutex);
}

static void after_fork_in_parent(void) {
    n_forking--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void after_fork_in_child(void) {
    pthread_mutex_init(&mutex, NULL);
    pthread_cond_init(&changed, NULL);
    n_forking = 0;
}

const ef_openblas *ef_enter_openblas(void) {
    pthread_mutex_lock(&mutex);
    while (n_forking > 0 || n_inside == MOST_INSIDE)
        pthread_cond_wait(&changed, &mutex);
    if (n_inside++ == 0) {
        threads_before = functions.get_num_threads();
        if (threads_before != 1)
            functions.set_num_threads(1);
    }
    pthread_mutex_unlock(&mutex);
    return &functions;
}

void ef_leave_openblas(void) {
    pthread_mutex_lock(&mutex);
    if (--n_inside == 0 && threads_before != 1)
        functions.set_num_threads(threads_before); /* a system's OpenBLAS is not ours alone */
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

/* ---- loading -------------------------------------------------------------- */

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool loaded;
static atomic_bool half_loaded; /* by a thread that is at it, or that was when its process forked */

/* A fork cannot wait for the loading: OpenBLAS, as it is loaded, registers handlers for forks, and
 * most C libraries let that wait for a fork. */
static void loading_after_fork_in_child(void) {
    pthread_mutex_init(&loading, NULL);
}

static void register_loading(void) {
    pthread_atfork(NULL, NULL, loading_after_fork_in_child);
}

/* Says why OpenBLAS cannot be had, but not in which folder: it is nobody's business. */
static ef_status refuse(ef_detail *detail, const char *why) {
    static _Thread_local char reason[256];
    const char *name = strrchr(OPENBLAS_FILE, '/');
    snprintf(reason, sizeof reason, "%s: %s", name == NULL ? OPENBLAS_FILE : name + 1, why);
    detail->reason = reason;
    return EF_NO_LIBRARY;
}

#ifdef OPENBLAS_SYSTEM
void ef_locate_openblas(void) {
}

static bool find_file(char path[], size_t size) {
    return (size_t)snprintf(path, size, "%s", OPENBLAS_FILE) < size;
}

static void *open_file(const char *path) {
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}
#else
static char folder[PATH_MAX]; /* that this code is in; nothing if it is not known */

void ef_locate_openblas(void) {
    Dl_info here;
    char given[PATH_MAX] = "./", resolved[PATH_MAX];
    if (dladdr(&functions, &here) == 0)
        return;
    const char *slash = strrchr(here.dli_fname, '/');
    if (slash != NULL)
        snprintf(given, sizeof given, "%.*s", (int)(slash + 1 - here.dli_fname), here.dli_fname);
    if (realpath(given, resolved) != NULL)
        snprintf(folder, sizeof folder, "%.*s/", (int)sizeof folder - 2, resolved);
}

static bool find_file(char path[], size_t size) {
    return (size_t)snprintf(path, size, "%s%s", *OPENBLAS_FILE == '/' ? "" : folder,
                            OPENBLAS_FILE) < size;
}

/* When it is loaded OpenBLAS makes a thread for each processor but one that the loading thread may
 * use, and interrupts the process where it cannot. We need none of them: on Linux with glibc it
 * makes none; elsewhere it counts all processors, whatever the thread may use. */
static void *open_file(const char *path) {
#ifdef __linux__
    cpu_set_t before, one;
    const int cpu = sched_getcpu();
    CPU_ZERO(&one);
    if (cpu >= 0)
        CPU_SET(cpu, &one);
    const bool confined = sched_getaffinity(0, sizeof before, &before) == 0 &&
                          sched_setaffinity(0, sizeof one, &one) == 0;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (confined)
        sched_setaffinity(0, sizeof before, &before);
    return library;
#else
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
#endif
}
#endif

static ef_status load(ef_detail *detail) {
    char path[2 * PATH_MAX];
    if (!find_file(path, sizeof path))
        return refuse(detail, "its path is too long");
    void *library = open_file(path);
    if (library == NULL) {
        const char *why = dlerror();
        const size_t n = strlen(path);
        if (why != NULL && strncmp(why, path, n) == 0 && strncmp(why + n, ": ", 2) == 0)
            why += n + 2;
        return refuse(detail, why == NULL || strchr(why, '/') ? "cannot be opened" : why);
    }
    for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++) {
        void *address = dlsym(library, FUNCTIONS[i].name);
        if (address == NULL) {
            char why[64];
            snprintf(why, sizeof why, "lacks the function %s", FUNCTIONS[i].name);
            return refuse(detail, why);
        }
        memcpy((char *)&functions + FUNCTIONS[i].place, &address, sizeof address);
    }
    /* After OpenBLAS's own, so that ours comes first before a fork. */
    if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
        return refuse(detail, "cannot be used beside forks: out of memory");
    return EF_OK;
}

ef_status ef_load_openblas(ef_detail *detail) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (atomic_load_explicit(&loaded, memory_order_acquire))
        return EF_OK;
    pthread_once(&once, register_loading);
    pthread_mutex_lock(&loading);
    ef_status status = EF_OK;
    if (half_loaded) {
        status = refuse(detail, "was being loaded when the process was forked");
    } else if (!loaded) {
        half_loaded = true;
        status = load(detail);
        half_loaded = false;
        loaded = status == EF_OK;
    }
    pthread_mutex_unlock(&loading);
    return status;
}
