/* The Python module embedfilter._core: the files beside this one are the only ones that know
 * Python and NumPy.
 *
 * They check arrays against the core's contract, release the interpreter around the core,
 * and turn a status into an exception. What paths, dtypes and messages mean to a user is
 * Python's business: a wrong array here is a mistake of embedfilter's own code. */
#ifndef EMBEDFILTER_MODULE_H
#define EMBEDFILTER_MODULE_H

#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_1_23_API_VERSION
#define NPY_TARGET_VERSION NPY_1_23_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL embedfilter_numpy /* module.c imports it for all */
#include <Python.h>
#include <numpy/arrayobject.h>

#include "core/embedfilter.h"

#include <stdatomic.h>

/* ---- From a status to an exception (arguments.c) -------------------------- */

/* Sets the exception for a status other than EF_OK and returns NULL. The exceptions that
 * concern a row carry (message, row, count) as their arguments. */
PyObject *raise_status(ef_status status, ef_detail detail);

/* None for EF_OK, else as raise_status. */
PyObject *none_or_raise(ef_status status, ef_detail detail);

/* ---- From arguments to what the core takes (arguments.c) ------------------ */

/* Checks that `object` is an aligned, C-contiguous, native array of this type and number of
 * dimensions, writeable if asked. Returns it borrowed, or NULL with an exception. */
PyArrayObject *checked_array(PyObject *object, const char *name, int type, int ndim,
                             bool writeable);

/* Reads a 2-D array of float16, float32, float64 or, for bfloat16, uint16, whose rows may lie
 * any distance apart. Returns 0, or -1 with an exception. */
int matrix_from_array(PyObject *object, const char *name, ef_matrix *matrix);

/* Reads a number of threads. Returns 0, or -1 with an exception. */
int threads_from_long(Py_ssize_t value, size_t *n_threads);

/* The place of `name` among n names, or -1 with an exception. */
int place_of_name(const char *argument, const char *name, const char *const *names, size_t n);

/* Reads the arguments (w, n_threads) of a method `add`, w being of d columns. Returns 0, or -1 with
 * an exception. */
int rows_from_args(PyObject *args, Py_ssize_t d, ef_matrix *w, size_t *n_threads);

/* The core takes an object from one thread at a time: sets `busy`, which whoever has entered
 * clears. `what` names the object in the message. Returns 0, or -1 with an exception. */
int enter(atomic_flag *busy, const char *what);

/* ---- What each file adds to the module ------------------------------------ */

/* Functions, up to a NULL. */
extern PyMethodDef dequantize_methods[], eigh_methods[], isa_methods[];

extern PyType_Spec filter_spec, gram_spec, lens_spec;

/* Chooses an instruction set (isa.c); `source` names the argument in the message. Returns 0, or -1
 * with an exception. */
int choose_isa(const char *source, const char *name);

#endif
