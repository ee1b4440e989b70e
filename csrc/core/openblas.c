#include "core/openblas.h"
#include "core/system.h"

#include <stdatomic.h>
#include <stdio.h>
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

static ef_mutex mutex = EF_MUTEX_INIT;
static ef_condition changed = EF_CONDITION_INIT;
/* Written with the mutex held. */
static size_t n_inside;
static size_t n_forking; /* threads that wait until none is inside, so none may enter */
static int threads_before;

/* The mutex is held across the fork, and nobody is inside: OpenBLAS has locks of its own, which the
 * child would inherit taken by a thread that it does not have. */
static void before_fork(void) {
    ef_lock(&mutex);
    n_forking++;
    while (n_inside > 0)
        ef_wait(&changed, &mutex);
}

static void after_fork_in_parent(void) {
    n_forking--;
    ef_wake_all(&changed);
    ef_unlock(&mutex);
}

static void after_fork_in_child(void) {
    ef_new_mutex(&mutex);
    ef_new_condition(&changed);
    n_forking = 0;
}

const ef_openblas *ef_enter_openblas(void) {
    ef_lock(&mutex);
    while (n_forking > 0 || n_inside == MOST_INSIDE)
        ef_wait(&changed, &mutex);
    if (n_inside++ == 0) {
        threads_before = functions.get_num_threads();
        if (threads_before != 1)
            functions.set_num_threads(1);
    }
    ef_unlock(&mutex);
    return &functions;
}

void ef_leave_openblas(void) {
    ef_lock(&mutex);
    if (--n_inside == 0 && threads_before != 1)
        functions.set_num_threads(threads_before); /* a system's OpenBLAS is not ours alone */
    ef_wake_all(&changed);
    ef_unlock(&mutex);
}

/* ---- loading -------------------------------------------------------------- */

static ef_mutex loading = EF_MUTEX_INIT;
static atomic_bool loaded;
static atomic_bool half_loaded; /* by a thread that is at it, or that was when its process forked */

/* A fork cannot wait for the loading: OpenBLAS, as it is loaded, registers handlers for forks, and
 * most C libraries let that wait for a fork. */
static void loading_after_fork_in_child(void) {
    ef_new_mutex(&loading);
}

static void register_loading(void) {
    ef_at_fork(NULL, NULL, loading_after_fork_in_child);
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
enum { OURS = false };
#else
enum { OURS = true };
#endif

static char folder[EF_PATH_BYTES]; /* that our own copy is in; nothing if it is not known */

void ef_locate_openblas(void) {
    if (OURS)
        ef_folder_of(&functions, folder);
}

/* When it is loaded OpenBLAS makes a thread for each processor but one that the loading thread may
 * use, and interrupts the process where it cannot. We need none of them: confined, it makes none on
 * Linux with glibc; elsewhere it counts all processors, whatever the thread may use. */
static ef_status load(ef_detail *detail) {
    char path[EF_PATH_BYTES], why[128];
    const char *where = *OPENBLAS_FILE == '/' ? "" : folder;
    if ((size_t)snprintf(path, sizeof path, "%s%s", where, OPENBLAS_FILE) >= sizeof path)
        return refuse(detail, "its path is too long");
    void *library = ef_open_library(path, OURS, why, sizeof why);
    if (library == NULL)
        return refuse(detail, why);
    for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++) {
        void *address = ef_find_function(library, FUNCTIONS[i].name);
        if (address == NULL) {
            snprintf(why, sizeof why, "lacks the function %s", FUNCTIONS[i].name);
            return refuse(detail, why);
        }
        memcpy((char *)&functions + FUNCTIONS[i].place, &address, sizeof address);
    }
    /* After OpenBLAS's own, so that ours comes first before a fork. */
    if (!ef_at_fork(before_fork, after_fork_in_parent, after_fork_in_child))
        return refuse(detail, "cannot be used beside forks: out of memory");
    return EF_OK;
}

ef_status ef_load_openblas(ef_detail *detail) {
    static ef_once once = EF_ONCE_INIT;
    if (atomic_load_explicit(&loaded, memory_order_acquire))
        return EF_OK;
    ef_do_once(&once, register_loading);
    ef_lock(&loading);
    ef_status status = EF_OK;
    if (half_loaded) {
        status = refuse(detail, "was being loaded when the process was forked");
    } else if (!loaded) {
        half_loaded = true;
        status = load(detail);
        half_loaded = false;
        loaded = status == EF_OK;
    }
    ef_unlock(&loading);
    return status;
}
