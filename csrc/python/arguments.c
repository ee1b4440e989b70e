/* The Python module: from a status to an exception, and from arguments to what the core takes. */
#define NO_IMPORT_ARRAY
#include "python/module.h"

#include <string.h>

PyObject *raise_status(ef_status status, ef_detail detail) {
    const char *text = ef_status_text(status);
    switch (status) {
    case EF_NO_MEMORY:
        return PyErr_Format(PyExc_MemoryError, "%s: %zu bytes were asked for", text, detail.count);
    case EF_NOT_FINITE:
    case EF_OVERFLOW: {
        PyObject *type = status == EF_OVERFLOW ? PyExc_OverflowError : PyExc_ValueError;
        PyObject *arguments =
            Py_BuildValue("(snn)", text, (Py_ssize_t)detail.row, (Py_ssize_t)detail.count);
        if (arguments != NULL)
            PyErr_SetObject(type, arguments);
        Py_XDECREF(arguments);
        return NULL;
    }
    case EF_LAPACK:
        return PyErr_Format(PyExc_ArithmeticError, "%s (info %zu)", text, detail.count);
    case EF_NO_LIBRARY:
        return PyErr_Format(PyExc_ImportError, "%s: %s", text, detail.reason);
    default:
        return PyErr_Format(PyExc_ValueError, "%s", text);
    }
}

PyObject *none_or_raise(ef_status status, ef_detail detail) {
    if (status != EF_OK)
        return raise_status(status, detail);
    Py_RETURN_NONE;
}

PyArrayObject *checked_array(PyObject *object, const char *name, int type, int ndim,
                             bool writeable) {
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: expected an array, found %s", name,
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (PyArray_TYPE(array) != type || !PyArray_ISCARRAY_RO(array) || PyArray_NDIM(array) != ndim ||
        (writeable && !PyArray_ISWRITEABLE(array))) {
        PyErr_Format(PyExc_ValueError,
                     "%s: expected a%s C-contiguous array of type %d and %d "
                     "dimensions, found type %d and %d dimensions",
                     name, writeable ? " writeable" : "", type, ndim, PyArray_TYPE(array),
                     PyArray_NDIM(array));
        return NULL;
    }
    return array;
}

int matrix_from_array(PyObject *object, const char *name, ef_matrix *matrix) {
    if (!PyArray_Check(object) || PyArray_NDIM((PyArrayObject *)object) != 2) {
        PyErr_Format(PyExc_TypeError, "%s: expected a 2-D array", name);
        return -1;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    switch (PyArray_TYPE(array)) {
    case NPY_HALF:
        matrix->dtype = EF_F16;
        break;
    case NPY_UINT16:
        matrix->dtype = EF_BF16;
        break;
    case NPY_FLOAT:
        matrix->dtype = EF_F32;
        break;
    case NPY_DOUBLE:
        matrix->dtype = EF_F64;
        break;
    default:
        PyErr_Format(PyExc_TypeError,
                     "%s: expected float16, float32, float64, or bfloat16 as "
                     "uint16, found type %d",
                     name, PyArray_TYPE(array));
        return -1;
    }
    const npy_intp item = PyArray_ITEMSIZE(array);
    if (!PyArray_ISALIGNED(array) || !PyArray_ISNOTSWAPPED(array) ||
        (PyArray_SIZE(array) > 0 && PyArray_DIM(array, 1) > 1 &&
         PyArray_STRIDE(array, 1) != item)) {
        PyErr_Format(PyExc_ValueError,
                     "%s: the elements of a row must be adjacent, aligned and "
                     "in native byte order",
                     name);
        return -1;
    }
    matrix->data = PyArray_DATA(array);
    matrix->stride_bytes = PyArray_STRIDE(array, 0);
    matrix->n_rows = (size_t)PyArray_DIM(array, 0);
    matrix->n_cols = (size_t)PyArray_DIM(array, 1);
    return 0;
}

int threads_from_long(Py_ssize_t value, size_t *n_threads) {
    if (value < 1) {
        PyErr_Format(PyExc_ValueError, "n_threads: expected at least 1, found %zd", value);
        return -1;
    }
    *n_threads = (size_t)value;
    return 0;
}

int place_of_name(const char *argument, const char *name, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return (int)i;
    PyErr_Format(PyExc_ValueError, "%s: '%s' is unknown", argument, name);
    return -1;
}

int enter(atomic_flag *busy, const char *what) {
    if (!atomic_flag_test_and_set(busy))
        return 0;
    PyErr_Format(PyExc_RuntimeError, "the %s is in use by another thread", what);
    return -1;
}

int rows_from_args(PyObject *args, Py_ssize_t d, ef_matrix *w, size_t *n_threads) {
    PyObject *w_object;
    Py_ssize_t threads;
    if (!PyArg_ParseTuple(args, "On:add", &w_object, &threads) ||
        matrix_from_array(w_object, "w", w) < 0 || threads_from_long(threads, n_threads) < 0)
        return -1;
    if (w->n_cols != (size_t)d) {
        PyErr_Format(PyExc_ValueError, "w: expected %zd columns, found %zu", d, w->n_cols);
        return -1;
    }
    return 0;
}
