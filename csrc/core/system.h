/* What differs between operating systems. */
#ifndef EMBEDFILTER_SYSTEM_H
#define EMBEDFILTER_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifndef _WIN32
#include <pthread.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

/* ---- memory --------------------------------------------------------------- */

/* bytes > 0 on a cache line's edge, NULL where there are none. */
void *ef_allocate(size_t bytes);
void ef_free(void *memory); /* NULL is allowed */

/* ---- time ----------------------------------------------------------------- */

/* Nanoseconds of a clock that only goes forward. */
int64_t ef_nanoseconds(void);

/* ---- locks ---------------------------------------------------------------- */

#ifdef _WIN32 /* as SRWLOCK, CONDITION_VARIABLE and INIT_ONCE are, without windows.h's names */
typedef struct ef_word {
    void *state;
} ef_mutex, ef_condition, ef_once;
#define EF_MUTEX_INIT {NULL}
#define EF_CONDITION_INIT {NULL}
#define EF_ONCE_INIT {NULL}
#else
typedef pthread_mutex_t ef_mutex;
typedef pthread_cond_t ef_condition;
typedef pthread_once_t ef_once;
#define EF_MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
#define EF_CONDITION_INIT PTHREAD_COND_INITIALIZER
#define EF_ONCE_INIT PTHREAD_ONCE_INIT
#endif

bool ef_new_mutex(ef_mutex *mutex); /* false where there is none to be had */
void ef_end_mutex(ef_mutex *mutex);
void ef_lock(ef_mutex *mutex);
void ef_unlock(ef_mutex *mutex);

void ef_new_condition(ef_condition *condition);
void ef_end_condition(ef_condition *condition);
void ef_wait(ef_condition *condition, ef_mutex *mutex); /* may return for nothing */
void ef_wake_one(ef_condition *condition);
void ef_wake_all(ef_condition *condition);

void ef_do_once(ef_once *once, void (*what)(void));

/* ---- processors ----------------------------------------------------------- */

/* Where a thread may run: all processors of the process but that of its last caller. Only Linux is
 * told; others place their threads as they like, and the processor is -1. */
#ifdef __linux__
typedef struct ef_place {
    pid_t thread;
    cpu_set_t process, own;
} ef_place;
#else
typedef int ef_place;
#endif

int ef_current_cpu(void);

/* Takes a thread off processor `cpu`, and keeps it off; false where it can be nowhere else. */
bool ef_keep_off(ef_place *place, int cpu);

/* Reads which processors the process may use now, gives the calling thread its share of them and
 * counts them; false where there is none but `cpu`. */
bool ef_find_place(ef_place *place, int cpu, size_t *n_processors);

/* ---- threads and forks ---------------------------------------------------- */

/* Makes a thread that nobody waits for; false where none can be made. Signals are not for it: they
 * are the process's other threads' to wait for or to block. */
bool ef_make_thread(void *(*run)(void *), void *argument);

/* Has these called at each fork from now on, NULL for nothing; false where memory is short. */
bool ef_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void));

/* ---- libraries ------------------------------------------------------------ */

enum { EF_PATH_BYTES = 4096 }; /* room for a path, in UTF-8 on Windows */

/* Writes the folder of the file that has the code or data at `address`, absolute and with the slash
 * at its end, or nothing where it is not known. */
void ef_folder_of(const void *address, char folder[EF_PATH_BYTES]);

/* Opens a library by its path, or by a name that the system looks for; NULL, and why not in a line
 * without the path, where it cannot be opened. Where `confined`, it finds on Linux but the one
 * processor that the calling thread is on. */
void *ef_open_library(const char *path, bool confined, char why[], size_t why_bytes);
void *ef_find_function(void *library, const char *name); /* NULL where it has none */

#endif
