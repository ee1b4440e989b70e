/* The Python module: the function eigh. */
#define NO_IMPORT_ARRAY
#include "python/module.h"

PyDoc_STRVAR(eigh_doc,
             "eigh(matrix, wanted, n_threads, /)\n--\n\n"
             "Eigenvalues of a symmetric matrix, and some of its eigenvectors.\n\n"
             "Parameters\n----------\n"
             "matrix : (d, d) float64, C-contiguous\n"
             "    The upper triangle is read; then its numbers are lost.\n"
             "wanted : (n,) int64, C-contiguous\n"
             "    Which eigenvalues' vectors.\n"
             "n_threads : int\n\n"
             "Returns\n-------\n"
             "values : (d,) float64\n    Ascending.\n"
             "vectors : (n, d) float64\n    Row i is the unit eigenvector of values[wanted[i]].\n\n"
             "Raises\n------\n"
             "ValueError\n    If the matrix has NaN or infinity, d > 32766, or wanted is not\n"
             "    from 0 to d - 1.\n"
             "OverflowError\n    If the matrix's norm is no float64.\n"
             "ArithmeticError\n    If LAPACK's iteration did not converge.\n"
             "ImportError\n    If OpenBLAS, loaded at the first call, could not be.");

static PyObject *eigh(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *matrix_object, *wanted_object;
    Py_ssize_t threads;
    if (!PyArg_ParseTuple(args, "OOn:eigh", &matrix_object, &wanted_object, &threads))
        return NULL;
    size_t n_threads;
    PyArrayObject *matrix = checked_array(matrix_object, "matrix", NPY_DOUBLE, 2, true);
    if (matrix == NULL || threads_from_long(threads, &n_threads) < 0)
        return NULL;
    PyArrayObject *wanted = checked_array(wanted_object, "wanted", NPY_INT64, 1, false);
    if (wanted == NULL)
        return NULL;
    npy_intp d = PyArray_DIM(matrix, 0), shape[2] = {PyArray_DIM(wanted, 0), d};
    if (PyArray_DIM(matrix, 1) != d)
        return PyErr_Format(PyExc_ValueError, "matrix: expected a square, found (%zd, %zd)", d,
                            PyArray_DIM(matrix, 1));
    const int64_t *ranks = PyArray_DATA(wanted);
    for (npy_intp i = 0; i < shape[0]; i++)
        if (ranks[i] < 0 || ranks[i] >= d)
            return PyErr_Format(PyExc_ValueError, "wanted: expected from 0 to %zd, found %lld",
                                d - 1, (long long)ranks[i]);
    PyObject *values = PyArray_SimpleNew(1, &d, NPY_DOUBLE);
    PyObject *vectors = PyArray_SimpleNew(2, shape, NPY_DOUBLE);
    if (values == NULL || vectors == NULL)
        goto fail;
    double *matrix_data = PyArray_DATA(matrix);
    double *values_data = PyArray_DATA((PyArrayObject *)values);
    double *vectors_data = PyArray_DATA((PyArrayObject *)vectors);
    ef_detail detail = {0};
    /* With the interpreter held, where there is one lock: no thread of Python's forks meanwhile. */
    ef_status status = ef_load_openblas(&detail);
    if (status != EF_OK) {
        raise_status(status, detail);
        goto fail;
    }
    Py_BEGIN_ALLOW_THREADS
    status = ef_eigh(matrix_data, values_data, (size_t)d, ranks, (size_t)shape[0], vectors_data,
                     n_threads, &detail);
    Py_END_ALLOW_THREADS
    if (status == EF_OK)
        return Py_BuildValue("NN", values, vectors);
    raise_status(status, detail);
fail:
    Py_XDECREF(values);
    Py_XDECREF(vectors);
    return NULL;
}

PyMethodDef eigh_methods[] = {
    {"eigh", eigh, METH_VARARGS, eigh_doc},
    {NULL, NULL, 0, NULL},
};
