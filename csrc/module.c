/* The Python module embedfilter._core: instruction sets, the fit, the projection. */
#include "module.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- Instruction sets --------------------------------------------------- */

PyDoc_STRVAR(available_isas_doc, "available_isas()\n--\n\n"
                                 "Names of the instruction sets this machine can run, best first.");

static PyObject *available_isas(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    const size_t count = ef_isa_count();
    PyObject *names = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; names != NULL && i < count; i++) {
        PyObject *name = PyUnicode_FromString(ef_isa_name(i));
        if (name == NULL)
            Py_CLEAR(names);
        else
            PyTuple_SET_ITEM(names, (Py_ssize_t)i, name);
    }
    return names;
}

PyDoc_STRVAR(get_isa_doc, "get_isa()\n--\n\nName of the instruction set in use.");

static PyObject *get_isa(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyUnicode_FromString(ef_get_isa());
}

/* Chooses an instruction set; `source` names the argument in the message. */
static int choose_isa(const char *source, const char *name) {
    if (ef_set_isa(name) == EF_OK)
        return 0;
    PyObject *available = available_isas(NULL, NULL);
    if (available != NULL)
        PyErr_Format(PyExc_ValueError,
                     "%s: expected one of %R, which this machine can run, "
                     "found '%s'",
                     source, available, name);
    Py_XDECREF(available);
    return -1;
}

PyDoc_STRVAR(set_isa_doc, "set_isa(name, /)\n--\n\n"
                          "Use the kernels of another instruction set, for the whole process.\n\n"
                          "Parameters\n----------\nname : str\n    One of `available_isas()`.\n\n"
                          "Raises\n------\nValueError\n    If this machine cannot run it.");

static PyObject *set_isa(PyObject *module, PyObject *argument) {
    (void)module;
    if (!PyUnicode_Check(argument))
        return PyErr_Format(PyExc_TypeError, "name: expected str, found %s",
                            Py_TYPE(argument)->tp_name);
    Py_ssize_t length;
    const char *name = PyUnicode_AsUTF8AndSize(argument, &length);
    if (name == NULL)
        return NULL;
    if (strlen(name) != (size_t)length) /* NUL within */
        name = "";
    if (choose_isa("name", name) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- Fit ---------------------------------------------------------------- */

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
    const ef_status status = ef_gram_new(d < 0 ? 0 : (size_t)d, basis, p, &self->gram, &detail);
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

/* The core takes a sum from one thread at a time. Returns 0, or -1 with an exception. */
static int enter_gram(gram_object *self) {
    if (!atomic_flag_test_and_set(&self->busy))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "the sum is in use by another thread");
    return -1;
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
    if (enter_gram(self) < 0)
        return NULL;
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_gram_add(self->gram, w, n_threads, &detail);
    Py_END_ALLOW_THREADS
    atomic_flag_clear(&self->busy);
    if (status != EF_OK)
        return raise_status(status, detail);
    Py_RETURN_NONE;
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
    if (enter_gram(self) < 0)
        return NULL;
    double *data = PyArray_DATA(out);
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_gram_finish(self->gram, data, n_threads, &detail);
    Py_END_ALLOW_THREADS
    atomic_flag_clear(&self->busy);
    if (status != EF_OK)
        return raise_status(status, detail);
    Py_RETURN_NONE;
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

static PyType_Spec gram_spec = {
    .name = "embedfilter._core.Gram",
    .basicsize = sizeof(gram_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gram_slots,
};

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
             "ArithmeticError\n    If LAPACK's iteration did not converge.");

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
    ef_status status;
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

/* ---- Projection --------------------------------------------------------- */

typedef struct packed_filter {
    PyObject_HEAD
    ef_filter *filter;
    Py_ssize_t k, d;
} packed_filter;

typedef struct precision_name {
    const char *name;
    ef_precision precision;
    int type; /* NumPy's, of the output array */
} precision_name;

static const precision_name PRECISIONS[] = {
    {"float32", EF_OUT_F32, NPY_FLOAT},    {"float16", EF_OUT_F16, NPY_HALF},
    {"bfloat16", EF_OUT_BF16, NPY_UINT16}, {"int8", EF_OUT_I8, NPY_INT8},
    {"uint8", EF_OUT_U8, NPY_UINT8},       {"ubinary", EF_OUT_BITS, NPY_UINT8},
};

static const precision_name *precision_by_name(const char *name) {
    for (size_t i = 0; i < sizeof PRECISIONS / sizeof *PRECISIONS; i++)
        if (strcmp(PRECISIONS[i].name, name) == 0)
            return &PRECISIONS[i];
    PyErr_Format(PyExc_ValueError, "precision: '%s' is unknown", name);
    return NULL;
}

PyDoc_STRVAR(packed_filter_doc,
             "PackedFilter(components, bias=None)\n--\n\n"
             "A filter's matrix in the layout of the kernels, and its bias; immutable.\n\n"
             "Parameters\n----------\ncomponents : (k, d) float32, C-contiguous\n"
             "bias : (k,) float32, C-contiguous, or None\n    Added to each product.");

static PyObject *packed_filter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"components", "bias", NULL};
    PyObject *object, *bias_object = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:PackedFilter", names, &object,
                                     &bias_object))
        return NULL;
    PyArrayObject *components = checked_array(object, "components", NPY_FLOAT, 2, false);
    if (components == NULL)
        return NULL;
    const npy_intp k = PyArray_DIM(components, 0), d = PyArray_DIM(components, 1);
    if (k < 1 || d < 1)
        return PyErr_Format(PyExc_ValueError, "components: expected k, d >= 1, found (%zd, %zd)", k,
                            d);
    const float *bias = NULL;
    if (bias_object != Py_None) {
        PyArrayObject *array = checked_array(bias_object, "bias", NPY_FLOAT, 1, false);
        if (array == NULL)
            return NULL;
        if (PyArray_DIM(array, 0) != k)
            return PyErr_Format(PyExc_ValueError, "bias: expected %zd values, found %zd", k,
                                PyArray_DIM(array, 0));
        bias = PyArray_DATA(array);
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
    status = ef_filter_new(data, bias, (size_t)k, (size_t)d, &filter, &detail);
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
    const precision_name *precision = precision_by_name(name);
    if (precision == NULL || matrix_from_array(x_object, "x", &x) < 0 ||
        threads_from_long(threads, &n_threads) < 0)
        return NULL;
    PyArrayObject *out = checked_array(out_object, "out", precision->type, 2, true);
    if (out == NULL)
        return NULL;
    const size_t row_bytes = ef_output_row_bytes(precision->precision, (size_t)self->k);
    if (x.n_cols != (size_t)self->d || (size_t)PyArray_DIM(out, 0) != x.n_rows ||
        (size_t)(PyArray_DIM(out, 1) * PyArray_ITEMSIZE(out)) != row_bytes)
        return PyErr_Format(PyExc_ValueError,
                            "x, out: expected (n, %zd) and (n, %zu bytes), found (%zu, %zu) and "
                            "(%zd, %zd bytes)",
                            self->d, row_bytes, x.n_rows, x.n_cols, PyArray_DIM(out, 0),
                            PyArray_DIM(out, 1) * PyArray_ITEMSIZE(out));
    ef_output form = {.precision = precision->precision, .normalize = normalize != 0};
    if (form_from_objects(starts, steps, self->k, &form) < 0)
        return NULL;
    void *out_data = PyArray_DATA(out);
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS
    status = ef_project(self->filter, x, form, out_data, n_threads, &detail);
    Py_END_ALLOW_THREADS
    if (status != EF_OK)
        return raise_status(status, detail);
    Py_RETURN_NONE;
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

static PyType_Spec packed_filter_spec = {
    .name = "embedfilter._core.PackedFilter",
    .basicsize = sizeof(packed_filter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = packed_filter_slots,
};

/* ---- The module --------------------------------------------------------- */

static int module_exec(PyObject *module) {
    if (PyArray_ImportNumPyAPI() < 0 || PyModule_AddFunctions(module, dequantize_methods) < 0 ||
        PyModule_AddIntConstant(module, "THREAD_WORK", EF_THREAD_WORK) < 0)
        return -1;
    const char *isa = getenv("EMBEDFILTER_ISA");
    if (isa != NULL && *isa != '\0' && choose_isa("EMBEDFILTER_ISA", isa) < 0)
        return -1;
    PyType_Spec *const specs[] = {&gram_spec, &packed_filter_spec, &lens_spec};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        const int status = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
        Py_XDECREF(type);
        if (status < 0)
            return -1;
    }
    return 0;
}

static PyMethodDef module_methods[] = {
    {"available_isas", available_isas, METH_NOARGS, available_isas_doc},
    {"get_isa", get_isa, METH_NOARGS, get_isa_doc},
    {"set_isa", set_isa, METH_O, set_isa_doc},
    {"eigh", eigh, METH_VARARGS, eigh_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "embedfilter._core",
    .m_doc = "The C core of embedfilter on NumPy arrays. Private: import embedfilter instead.",
    .m_size = 0,
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&module_definition);
}
