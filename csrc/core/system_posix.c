/* Linux, macOS and other systems of their kind. */
#ifndef _WIN32
#include "core/system.h"

#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

/* ---- memory --------------------------------------------------------------- */

void *ef_allocate(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : NULL;
}

void ef_free(void *memory) {
    free(memory);
}

/* ---- time ----------------------------------------------------------------- */

int64_t ef_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- locks ---------------------------------------------------------------- */

bool ef_new_mutex(ef_mutex *mutex) {
    return pthread_mutex_init(mutex, NULL) == 0;
}

void ef_end_mutex(ef_mutex *mutex) {
    pthread_mutex_destroy(mutex);
}

void ef_lock(ef_mutex *mutex) {
    pthread_mutex_lock(mutex);
}

void ef_unlock(ef_mutex *mutex) {
    pthread_mutex_unlock(mutex);
}

void ef_new_condition(ef_condition *condition) {
    pthread_cond_init(condition, NULL);
}

void ef_end_condition(ef_condition *condition) {
    pthread_cond_destroy(condition);
}

void ef_wait(ef_condition *condition, ef_mutex *mutex) {
    pthread_cond_wait(condition, mutex);
}

void ef_wake_one(ef_condition *condition) {
    pthread_cond_signal(condition);
}

void ef_wake_all(ef_condition *condition) {
    pthread_cond_broadcast(condition);
}

void ef_do_once(ef_once *once, void (*what)(void)) {
    pthread_once(once, what);
}

/* ---- processors ----------------------------------------------------------- */

static size_t all_processors(void) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (size_t)n : 1;
}

#ifdef __linux__
int ef_current_cpu(void) {
    return sched_getcpu();
}

bool ef_keep_off(ef_place *p, int cpu) {
    cpu_set_t others = p->process;
    CPU_CLR((size_t)cpu, &others); /* nothing for -1, which is far beyond the set */
    const bool elsewhere = CPU_COUNT(&others) > 0;
    if (!elsewhere)
        others = p->process;
    if (!CPU_EQUAL(&others, &p->own) && sched_setaffinity(p->thread, sizeof others, &others) == 0)
        p->own = others;
    return elsewhere;
}

bool ef_find_place(ef_place *p, int cpu, size_t *n_processors) {
    p->thread = (pid_t)syscall(SYS_gettid);
    if (sched_getaffinity(getpid(), sizeof p->process, &p->process) != 0) {
        *n_processors = all_processors();
        return ef_current_cpu() != cpu;
    }
    *n_processors = (size_t)CPU_COUNT(&p->process);
    if (cpu >= 0 && ef_current_cpu() == cpu)
        CPU_ZERO(&p->own); /* whatever it was given: somebody else may have changed it */
    return ef_keep_off(p, cpu) && (cpu < 0 || ef_current_cpu() != cpu);
}
#else
int ef_current_cpu(void) {
    return -1;
}

bool ef_keep_off(ef_place *p, int cpu) {
    (void)p, (void)cpu;
    return true;
}

bool ef_find_place(ef_place *p, int cpu, size_t *n_processors) {
    (void)p, (void)cpu;
    *n_processors = all_processors();
    return true;
}
#endif

/* ---- threads and forks ---------------------------------------------------- */

bool ef_make_thread(void *(*run)(void *), void *argument) {
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool made = pthread_create(&thread, &attributes, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return made;
}

bool ef_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
    return pthread_atfork(before, in_parent, in_child) == 0;
}

/* ---- libraries ------------------------------------------------------------ */

void ef_folder_of(const void *address, char folder[EF_PATH_BYTES]) {
    Dl_info here;
    char given[PATH_MAX] = "./", resolved[PATH_MAX];
    *folder = '\0';
    if (dladdr(address, &here) == 0)
        return;
    const char *slash = strrchr(here.dli_fname, '/');
    if (slash != NULL)
        snprintf(given, sizeof given, "%.*s", (int)(slash + 1 - here.dli_fname), here.dli_fname);
    if (realpath(given, resolved) != NULL)
        snprintf(folder, EF_PATH_BYTES, "%.*s/", EF_PATH_BYTES - 2, resolved);
}

static void *open_confined(const char *path) {
#ifdef __linux__
    cpu_set_t before, one;
    const int cpu = sched_getcpu();
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one); /* nothing for -1, which is far beyond the set */
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

void *ef_open_library(const char *path, bool confined, char why[], size_t why_bytes) {
    void *library = confined ? open_confined(path) : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library != NULL)
        return library;
    const char *said = dlerror(), *named = strstr(said, path);
    if (named != NULL && strncmp(named + strlen(path), ": ", 2) == 0)
        said = named + strlen(path) + 2; /* musl says something before it */
    snprintf(why, why_bytes, "%s", strchr(said, '/') != NULL ? "cannot be opened" : said);
    return NULL;
}

void *ef_find_function(void *library, const char *name) {
    return dlsym(library, name);
}
#endif
