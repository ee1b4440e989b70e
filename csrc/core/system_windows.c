/* Windows. Its own locks: they need no memory, and cannot fail. */
#ifdef _WIN32
#include "core/system.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

/* ---- memory --------------------------------------------------------------- */

void *ef_allocate(size_t bytes) {
    return _aligned_malloc(bytes, 64);
}

void ef_free(void *memory) {
    _aligned_free(memory);
}

/* ---- time ----------------------------------------------------------------- */

int64_t ef_nanoseconds(void) {
    LARGE_INTEGER now, per_second;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&per_second);
    const int64_t seconds = now.QuadPart / per_second.QuadPart;
    const int64_t rest = now.QuadPart % per_second.QuadPart;
    return seconds * 1000000000 + rest * 1000000000 / per_second.QuadPart;
}

/* ---- locks ---------------------------------------------------------------- */

_Static_assert(sizeof(ef_mutex) == sizeof(SRWLOCK) &&
                   sizeof(ef_condition) == sizeof(CONDITION_VARIABLE) &&
                   sizeof(ef_once) == sizeof(INIT_ONCE),
               "each is a pointer, NULL at first");

static SRWLOCK *lock_of(ef_mutex *mutex) {
    return (SRWLOCK *)&mutex->state;
}

static CONDITION_VARIABLE *variable_of(ef_condition *condition) {
    return (CONDITION_VARIABLE *)&condition->state;
}

bool ef_new_mutex(ef_mutex *mutex) {
    InitializeSRWLock(lock_of(mutex));
    return true;
}

void ef_end_mutex(ef_mutex *mutex) {
    (void)mutex;
}

void ef_lock(ef_mutex *mutex) {
    AcquireSRWLockExclusive(lock_of(mutex));
}

void ef_unlock(ef_mutex *mutex) {
    ReleaseSRWLockExclusive(lock_of(mutex));
}

void ef_new_condition(ef_condition *condition) {
    InitializeConditionVariable(variable_of(condition));
}

void ef_end_condition(ef_condition *condition) {
    (void)condition;
}

void ef_wait(ef_condition *condition, ef_mutex *mutex) {
    SleepConditionVariableSRW(variable_of(condition), lock_of(mutex), INFINITE, 0);
}

void ef_wake_one(ef_condition *condition) {
    WakeConditionVariable(variable_of(condition));
}

void ef_wake_all(ef_condition *condition) {
    WakeAllConditionVariable(variable_of(condition));
}

void ef_do_once(ef_once *once, void (*what)(void)) {
    INIT_ONCE *state = (INIT_ONCE *)&once->state;
    BOOL first;
    InitOnceBeginInitialize(state, 0, &first, NULL);
    if (first) {
        what();
        InitOnceComplete(state, 0, NULL);
    }
}

/* ---- processors ----------------------------------------------------------- */

int ef_current_cpu(void) {
    return -1;
}

bool ef_keep_off(ef_place *p, int cpu) {
    (void)p, (void)cpu;
    return true;
}

bool ef_find_place(ef_place *p, int cpu, size_t *n_processors) {
    (void)p, (void)cpu;
    const DWORD n = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    *n_processors = n > 0 ? n : 1;
    return true;
}

/* ---- threads and forks ---------------------------------------------------- */

typedef struct beginning {
    void *(*run)(void *);
    void *argument;
} beginning;

static DWORD WINAPI begin(void *given) {
    const beginning b = *(beginning *)given;
    free(given);
    b.run(b.argument);
    return 0;
}

bool ef_make_thread(void *(*run)(void *), void *argument) {
    beginning *b = malloc(sizeof *b);
    if (b == NULL)
        return false;
    *b = (beginning){run, argument};
    const HANDLE thread = CreateThread(NULL, 0, begin, b, 0, NULL);
    if (thread == NULL)
        free(b);
    else
        CloseHandle(thread);
    return thread != NULL;
}

/* There are none. */
bool ef_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
    (void)before, (void)in_parent, (void)in_child;
    return true;
}

/* ---- libraries ------------------------------------------------------------ */

void ef_folder_of(const void *address, char folder[EF_PATH_BYTES]) {
    HMODULE file;
    wchar_t path[EF_PATH_BYTES];
    *folder = '\0';
    if (!GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS |
                                GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                            address, &file))
        return;
    const DWORD n = GetModuleFileNameW(file, path, EF_PATH_BYTES);
    if (n == 0 || n == EF_PATH_BYTES)
        return;
    wchar_t *slash = wcsrchr(path, L'\\');
    if (slash != NULL)
        slash[1] = L'\0';
    if (WideCharToMultiByte(CP_UTF8, 0, path, -1, folder, EF_PATH_BYTES, NULL, NULL) == 0)
        *folder = '\0';
}

/* With a folder, what the library needs is looked for in it too. */
void *ef_open_library(const char *path, bool confined, char why[], size_t why_bytes) {
    (void)confined;
    wchar_t wide[EF_PATH_BYTES];
    HMODULE library = NULL;
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, EF_PATH_BYTES) > 0)
        library = LoadLibraryExW(wide, NULL,
                                 wcschr(wide, L'\\') != NULL ? LOAD_WITH_ALTERED_SEARCH_PATH : 0);
    if (library == NULL)
        snprintf(why, why_bytes, "cannot be opened (Windows' error %lu)", GetLastError());
    return library;
}

void *ef_find_function(void *library, const char *name) {
    void *function = NULL;
    const FARPROC found = GetProcAddress(library, name);
    memcpy(&function, &found, sizeof function);
    return function;
}
#endif
