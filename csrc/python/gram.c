/* The Python module: the type Gram. */
#define NO_IMPORT_ARRAY
#include "python/module.h"

typedef struct gram_object {
    PyObject_HEAD
    ef_gram *gram;
    Py_ssize_t d;
    atomic_flag busy; /* a thread is in the core with it */
} gram_object;

PyDoc_STRVAR(gram_doc, "Gram(d, basis=None)\n--\n\n"
                       "The sum of ``w.T @ w`` over blocks of rows w.\n\n"
                       "Parameters\n----------\n"
                       "d : int\n    Columns of the rows, at most 32766.\n"
                       "basis : (p, d) float32, C-contiguous, or None\n"
                       "    None: float64 throughout. Otherwise the p <= 8 dominant directions of\n"
                       "    the rows, and sums in float32 of what remains without them, over runs\n"
                       "    of 256 rows that are added in float64.");

static PyObject *gram_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"d", "basis", NULL};
    Py_ssize_t d;
    PyObject *basis_object = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n|O:Gram", names, &d, &basis_object))
        return NULL;
    const float *basis = NULL;
    size_t p = 0;
    if (basis_object != Py_None) {
        PyArrayObject *array = checked_array(basis_object, "basis", NPY_FLOAT, 2, false);
        if (array == NULL)
            return NULL;
        if (PyArray_DIM(array, 1) != d)
            return PyErr_Format(PyExc_ValueError, "basis: expected %zd columns, found %zd", d,
                                PyArray_DIM(array, 1));
        basis = PyArray_DATA(array);
        p = (size_t)PyArray_DIM(array, 0);
    }
    gram_object *self = (gram_object *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->d = d;
    atomic_flag_clear(&self->busy);
    ef_detail detail = {0};
    ef_gram *gram = NULL;
    ef_status status;
    Py_BEGIN_ALLOW_THREADS /* much memory is cleared */
    status = ef_gram_new(d < 0 ? 0 : (size_t)d, basis, p, &gram, &detail);
    Py_END_ALLOW_THREADS
    self->gram = gram;
    if (status != EF_OK) {
        Py_DECREF(self);
        return raise_status(status, detail);
    }
    return (PyObject *)self;
}

static void gram_dealloc(gram_object *self) {
    PyTypeObject *type = Py_TYPE(self);
    ef_gram_free(self->gram);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(gram_add_doc,
             "add($self, w, n_threads, /)\n--\n\n"
             "Add rows.\n\n"
             "Parameters\n----------\n"
             "w : (n, d) float16, float32, float64 or, for bfloat16, uint16\n"
             "n_threads : int\n\n"
             "Raises\n------\n"
             "ValueError\n"
             "    With arguments (message, row, count) where `w` has NaN or infinity: the\n"
             "    first such row and how many there are.\n"
             "OverflowError\n    If numbers are too large for float32 sums.");

static PyObject *gram_add(gram_object *self, PyObject *args) {
    ef_matrix w;
    size_t n_threads;
    if (rows_from_args(args, self->d, &w, &n_threads) < 0)
        return NULL;
    if (enter(&self->busy, "sum") < 0)
        return NULL;
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_gram_add(self->gram, w, n_threads, &detail);
    Py_END_ALLOW_THREADS
    atomic_flag_clear(&self->busy);
    return none_or_raise(status, detail);
}

PyDoc_STRVAR(gram_finish_doc, "finish($self, out, n_threads, /)\n--\n\n"
                              "Write the upper triangle of the sum so far.\n\n"
                              "Parameters\n----------\n"
                              "out : (d, d) float64, C-contiguous\n"
                              "    What is below its diagonal is left alone.\n"
                              "n_threads : int");

static PyObject *gram_finish(gram_object *self, PyObject *args) {
    PyObject *out_object;
    Py_ssize_t threads;
    if (!PyArg_ParseTuple(args, "On:finish", &out_object, &threads))
        return NULL;
    size_t n_threads;
    PyArrayObject *out = checked_array(out_object, "out", NPY_DOUBLE, 2, true);
    if (out == NULL || threads_from_long(threads, &n_threads) < 0)
        return NULL;
    if (PyArray_DIM(out, 0) != self->d || PyArray_DIM(out, 1) != self->d)
        return PyErr_Format(PyExc_ValueError, "out: expected (%zd, %zd), found (%zd, %zd)", self->d,
                            self->d, PyArray_DIM(out, 0), PyArray_DIM(out, 1));
    if (enter(&self->busy, "sum") < 0)
        return NULL;
    double *data = PyArray_DATA(out);
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_gram_finish(self->gram, data, n_threads, &detail);
    Py_END_ALLOW_THREADS
    atomic_flag_clear(&self->busy);
    return none_or_raise(status, detail);
}

static PyMethodDef gram_methods[] = {
    {"add", (PyCFunction)gram_add, METH_VARARGS, gram_add_doc},
    {"finish", (PyCFunction)gram_finish, METH_VARARGS, gram_finish_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot gram_slots[] = {
    {Py_tp_doc, (void *)gram_doc},
    {Py_tp_new, gram_new},
    {Py_tp_dealloc, gram_dealloc},
    {Py_tp_methods, gram_methods},
    {0, NULL},
};

PyType_Spec gram_spec = {
    .name = "embedfilter._core.Gram",
    .basicsize = sizeof(gram_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gram_slots,
};
