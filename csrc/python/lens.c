/* The Python module: the type Lens. */
#define NO_IMPORT_ARRAY
#include "python/module.h"

typedef struct lens_object {
    PyObject_HEAD
    ef_lens *lens;
    Py_ssize_t n, d, k;
    size_t n_rows;    /* added so far */
    bool finished;    /* or of no use after an error */
    atomic_flag busy; /* a thread is in the core with it */
} lens_object;

PyDoc_STRVAR(lens_doc, "Lens(x, k)\n--\n\n"
                       "The k largest logits ``w @ x`` of each vector, over blocks of rows w.\n\n"
                       "Parameters\n----------\n"
                       "x : (n, d) float16, float32, float64 or, for bfloat16, uint16\n"
                       "    The vectors, which are copied; n, d >= 1.\n"
                       "k : int\n\n"
                       "Raises\n------\n"
                       "ValueError, OverflowError\n"
                       "    With arguments (message, row, count): the first row with NaN or\n"
                       "    infinity, or with numbers that float32 does not hold.");

static PyObject *lens_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"x", "k", NULL};
    PyObject *x_object;
    Py_ssize_t k;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On:Lens", names, &x_object, &k))
        return NULL;
    ef_matrix x;
    if (matrix_from_array(x_object, "x", &x) < 0)
        return NULL;
    if (x.n_rows < 1 || x.n_cols < 1 || k < 1)
        return PyErr_Format(PyExc_ValueError, "x, k: expected n, d, k >= 1, found (%zu, %zu), %zd",
                            x.n_rows, x.n_cols, k);
    lens_object *self = (lens_object *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->n = (Py_ssize_t)x.n_rows;
    self->d = (Py_ssize_t)x.n_cols;
    self->k = k;
    atomic_flag_clear(&self->busy);
    ef_lens *lens = NULL;
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_lens_new(x, (size_t)k, &lens, &detail);
    Py_END_ALLOW_THREADS
    self->lens = lens;
    if (status != EF_OK) {
        Py_DECREF(self);
        return raise_status(status, detail);
    }
    return (PyObject *)self;
}

static void lens_dealloc(lens_object *self) {
    PyTypeObject *type = Py_TYPE(self);
    ef_lens_free(self->lens);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Begins a call of the core, which takes a lens from one thread at a time, and none that has
 * come to its end. Returns 0, or -1 with an exception. */
static int enter_lens(lens_object *self) {
    if (enter(&self->busy, "lens") < 0)
        return -1;
    if (!self->finished)
        return 0;
    atomic_flag_clear(&self->busy);
    PyErr_SetString(PyExc_ValueError, "the lens is finished, or had an error");
    return -1;
}

PyDoc_STRVAR(lens_add_doc, "add($self, w, n_threads, /)\n--\n\n"
                           "Add rows, whose ids count on from those before.\n\n"
                           "Parameters\n----------\n"
                           "w : (m, d) float16, float32, float64 or, for bfloat16, uint16\n"
                           "n_threads : int\n\n"
                           "Raises\n------\n"
                           "ValueError, OverflowError\n"
                           "    With arguments (message, row, count): the first row with NaN or\n"
                           "    infinity, or with a logit that float32 does not hold.");

static PyObject *lens_add(lens_object *self, PyObject *args) {
    ef_matrix w;
    size_t n_threads;
    if (rows_from_args(args, self->d, &w, &n_threads) < 0)
        return NULL;
    if (enter_lens(self) < 0)
        return NULL;
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_lens_add(self->lens, w, n_threads, &detail);
    Py_END_ALLOW_THREADS
    self->n_rows += w.n_rows;
    self->finished = status != EF_OK;
    atomic_flag_clear(&self->busy);
    return none_or_raise(status, detail);
}

PyDoc_STRVAR(lens_finish_doc,
             "finish($self, ids, logits, /)\n--\n\n"
             "Write what was found, by descending logit, equal ones by ascending id.\n\n"
             "Parameters\n----------\n"
             "ids : (n, k) int64, C-contiguous\n"
             "logits : (n, k) float32, C-contiguous\n\n"
             "Raises\n------\n"
             "ValueError\n    If fewer than k rows were added.");

static PyObject *lens_finish(lens_object *self, PyObject *args) {
    PyObject *ids_object, *logits_object;
    if (!PyArg_ParseTuple(args, "OO:finish", &ids_object, &logits_object))
        return NULL;
    PyArrayObject *ids = checked_array(ids_object, "ids", NPY_INT64, 2, true);
    PyArrayObject *logits =
        ids == NULL ? NULL : checked_array(logits_object, "logits", NPY_FLOAT, 2, true);
    if (logits == NULL)
        return NULL;
    if (PyArray_DIM(ids, 0) != self->n || PyArray_DIM(ids, 1) != self->k ||
        PyArray_DIM(logits, 0) != self->n || PyArray_DIM(logits, 1) != self->k)
        return PyErr_Format(PyExc_ValueError, "ids, logits: expected (%zd, %zd), found others",
                            self->n, self->k);
    if (enter_lens(self) < 0)
        return NULL;
    const bool enough = self->n_rows >= (size_t)self->k;
    if (enough) {
        int64_t *ids_data = PyArray_DATA(ids);
        float *logits_data = PyArray_DATA(logits);
        Py_BEGIN_ALLOW_THREADS
        ef_lens_finish(self->lens, ids_data, logits_data);
        Py_END_ALLOW_THREADS
        self->finished = true;
    }
    atomic_flag_clear(&self->busy);
    if (!enough)
        return PyErr_Format(PyExc_ValueError, "expected at least %zd rows, found %zu", self->k,
                            self->n_rows);
    Py_RETURN_NONE;
}

static PyMethodDef lens_methods[] = {
    {"add", (PyCFunction)lens_add, METH_VARARGS, lens_add_doc},
    {"finish", (PyCFunction)lens_finish, METH_VARARGS, lens_finish_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lens_slots[] = {
    {Py_tp_doc, (void *)lens_doc},
    {Py_tp_new, lens_new},
    {Py_tp_dealloc, lens_dealloc},
    {Py_tp_methods, lens_methods},
    {0, NULL},
};

PyType_Spec lens_spec = {
    .name = "embedfilter._core.Lens",
    .basicsize = sizeof(lens_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lens_slots,
};
