/* The Python module: the type PackedFilter. */
#define NO_IMPORT_ARRAY
#include "python/module.h"

typedef struct packed_filter {
    PyObject_HEAD
    ef_filter *filter;
    Py_ssize_t k, d;
} packed_filter;

enum { N_PRECISIONS = EF_OUT_BITS + 1 };
static const char *const PRECISIONS[N_PRECISIONS] = {
    [EF_OUT_F32] = "float32", [EF_OUT_F16] = "float16", [EF_OUT_BF16] = "bfloat16",
    [EF_OUT_I8] = "int8",     [EF_OUT_U8] = "uint8",    [EF_OUT_BITS] = "ubinary",
};
/* NumPy's types of the output array. */
static const int TYPES[N_PRECISIONS] = {
    [EF_OUT_F32] = NPY_FLOAT, [EF_OUT_F16] = NPY_HALF, [EF_OUT_BF16] = NPY_UINT16,
    [EF_OUT_I8] = NPY_INT8,   [EF_OUT_U8] = NPY_UINT8, [EF_OUT_BITS] = NPY_UINT8,
};

PyDoc_STRVAR(packed_filter_doc,
             "PackedFilter(components, mean=None)\n--\n\n"
             "A filter's matrix in the layout of the kernels, and its mean; immutable.\n\n"
             "Parameters\n----------\ncomponents : (k, d) float32, C-contiguous\n"
             "mean : (d,) float32, C-contiguous, or None\n    Subtracted from each row first.");

static PyObject *packed_filter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"components", "mean", NULL};
    PyObject *object, *mean_object = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:PackedFilter", names, &object,
                                     &mean_object))
        return NULL;
    PyArrayObject *components = checked_array(object, "components", NPY_FLOAT, 2, false);
    if (components == NULL)
        return NULL;
    const npy_intp k = PyArray_DIM(components, 0), d = PyArray_DIM(components, 1);
    if (k < 1 || d < 1)
        return PyErr_Format(PyExc_ValueError, "components: expected k, d >= 1, found (%zd, %zd)", k,
                            d);
    const float *mean = NULL;
    if (mean_object != Py_None) {
        PyArrayObject *array = checked_array(mean_object, "mean", NPY_FLOAT, 1, false);
        if (array == NULL)
            return NULL;
        if (PyArray_DIM(array, 0) != d)
            return PyErr_Format(PyExc_ValueError, "mean: expected %zd values, found %zd", d,
                                PyArray_DIM(array, 0));
        mean = PyArray_DATA(array);
    }
    packed_filter *self = (packed_filter *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->k = k;
    self->d = d;
    const float *data = PyArray_DATA(components);
    ef_filter *filter = NULL;
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_filter_new(data, mean, (size_t)k, (size_t)d, &filter, &detail);
    Py_END_ALLOW_THREADS
    self->filter = filter;
    if (status != EF_OK) {
        Py_DECREF(self);
        return raise_status(status, detail);
    }
    return (PyObject *)self;
}

static void packed_filter_dealloc(packed_filter *self) {
    PyTypeObject *type = Py_TYPE(self);
    ef_filter_free(self->filter);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Reads the starts and steps of an integer form; None for the others. */
static int form_from_objects(PyObject *starts, PyObject *steps, Py_ssize_t k, ef_output *form) {
    if (form->precision != EF_OUT_I8 && form->precision != EF_OUT_U8)
        return 0;
    PyArrayObject *a = checked_array(starts, "starts", NPY_FLOAT, 1, false);
    PyArrayObject *b = a == NULL ? NULL : checked_array(steps, "steps", NPY_FLOAT, 1, false);
    if (b == NULL)
        return -1;
    if (PyArray_DIM(a, 0) != k || PyArray_DIM(b, 0) != k) {
        PyErr_Format(PyExc_ValueError, "starts, steps: expected %zd values, found %zd and %zd", k,
                     PyArray_DIM(a, 0), PyArray_DIM(b, 0));
        return -1;
    }
    form->starts = PyArray_DATA(a);
    form->steps = PyArray_DATA(b);
    return 0;
}

PyDoc_STRVAR(project_doc,
             "project($self, x, out, precision, normalize, starts, steps, n_threads, /)\n--\n\n"
             "Project rows on the components and store them in their final form.\n\n"
             "Parameters\n----------\n"
             "x : (n, d) float16, float32, float64 or, for bfloat16, uint16\n"
             "out : (n, k) C-contiguous, of the precision's type; bfloat16 as uint16, and\n"
             "    ubinary (n, ceil(k / 8)) uint8. Must not overlap `x`.\n"
             "precision : 'float32', 'float16', 'bfloat16', 'int8', 'uint8' or 'ubinary'\n"
             "normalize : bool\n"
             "starts, steps : (k,) float32 for int8 and uint8, else None\n"
             "n_threads : int\n\n"
             "Raises\n------\n"
             "ValueError, OverflowError\n"
             "    With arguments (message, row, 0): the first row with NaN or infinity, or\n"
             "    whose values do not fit.");

static PyObject *packed_filter_project(packed_filter *self, PyObject *args) {
    PyObject *x_object, *out_object, *starts, *steps;
    const char *name;
    int normalize;
    Py_ssize_t threads;
    if (!PyArg_ParseTuple(args, "OOspOOn:project", &x_object, &out_object, &name, &normalize,
                          &starts, &steps, &threads))
        return NULL;
    ef_matrix x;
    size_t n_threads;
    const int precision = place_of_name("precision", name, PRECISIONS, N_PRECISIONS);
    if (precision < 0 || matrix_from_array(x_object, "x", &x) < 0 ||
        threads_from_long(threads, &n_threads) < 0)
        return NULL;
    PyArrayObject *out = checked_array(out_object, "out", TYPES[precision], 2, true);
    if (out == NULL)
        return NULL;
    ef_output form = {.precision = (ef_precision)precision, .normalize = normalize != 0};
    const size_t row_bytes = ef_output_row_bytes(form.precision, (size_t)self->k);
    if (x.n_cols != (size_t)self->d || (size_t)PyArray_DIM(out, 0) != x.n_rows ||
        (size_t)(PyArray_DIM(out, 1) * PyArray_ITEMSIZE(out)) != row_bytes)
        return PyErr_Format(PyExc_ValueError,
                            "x, out: expected (n, %zd) and (n, %zu bytes), found (%zu, %zu) and "
                            "(%zd, %zd bytes)",
                            self->d, row_bytes, x.n_rows, x.n_cols, PyArray_DIM(out, 0),
                            PyArray_DIM(out, 1) * PyArray_ITEMSIZE(out));
    if (form_from_objects(starts, steps, self->k, &form) < 0)
        return NULL;
    void *out_data = PyArray_DATA(out);
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_project(self->filter, x, form, out_data, n_threads, &detail);
    Py_END_ALLOW_THREADS
    return none_or_raise(status, detail);
}

static PyMethodDef packed_filter_methods[] = {
    {"project", (PyCFunction)packed_filter_project, METH_VARARGS, project_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot packed_filter_slots[] = {
    {Py_tp_doc, (void *)packed_filter_doc},
    {Py_tp_new, packed_filter_new},
    {Py_tp_dealloc, packed_filter_dealloc},
    {Py_tp_methods, packed_filter_methods},
    {0, NULL},
};

PyType_Spec filter_spec = {
    .name = "embedfilter._core.PackedFilter",
    .basicsize = sizeof(packed_filter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = packed_filter_slots,
};
