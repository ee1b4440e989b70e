/* The Python module embedfilter._core: the only file that knows Python and NumPy.
 *
 * It checks arrays against the core's contract, releases the interpreter around the core,
 * and turns a status into an exception. What paths, dtypes and messages mean to a user is
 * Python's business: a wrong array here is a mistake of embedfilter's own code. */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_1_23_API_VERSION
#define NPY_TARGET_VERSION NPY_1_23_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>

#include "embedfilter.h"

#include <math.h>
#include <string.h>

typedef struct module_state {
    PyTypeObject *packed_filter_type;
} module_state;

typedef struct packed_filter {
    PyObject_HEAD
    ef_filter *filter;
    Py_ssize_t k, d;
} packed_filter;

/* ---- From status to exception ------------------------------------------- */

/* Sets the exception for a status other than EF_OK and returns NULL. The exceptions that
 * concern a row carry (message, row, count) as their arguments. */
static PyObject *raise_status(ef_status status, ef_detail detail) {
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
    default:
        return PyErr_Format(PyExc_ValueError, "%s", text);
    }
}

/* ---- Arrays ------------------------------------------------------------- */

/* Checks that `object` is an aligned, C-contiguous, native array of this type and number of
 * dimensions, writeable if asked. Returns it borrowed, or NULL with an exception. */
static PyArrayObject *checked_array(PyObject *object, const char *name, int type, int ndim,
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

/* Reads a 2-D array of float16, float32, float64 or, for bfloat16, uint16, whose rows may lie
 * any distance apart. Returns 0, or -1 with an exception. */
static int matrix_from_array(PyObject *object, const char *name, ef_matrix *matrix) {
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

static int threads_from_long(Py_ssize_t value, size_t *n_threads) {
    if (value < 1) {
        PyErr_Format(PyExc_ValueError, "n_threads: expected at least 1, found %zd", value);
        return -1;
    }
    *n_threads = (size_t)value;
    return 0;
}

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

PyDoc_STRVAR(set_isa_doc, "set_isa(name)\n--\n\n"
                          "Use the kernels of another instruction set, for the whole process.\n\n"
                          "Parameters\n----------\nname : str\n    One of `available_isas()`.\n\n"
                          "Raises\n------\nValueError\n    If this machine cannot run it.");

static PyObject *set_isa(PyObject *module, PyObject *argument) {
    (void)module;
    if (!PyUnicode_Check(argument))
        return PyErr_Format(PyExc_TypeError, "name: expected str, found %s",
                            Py_TYPE(argument)->tp_name);
    const char *name = PyUnicode_AsUTF8(argument);
    if (name == NULL || choose_isa("name", name) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- Fit ---------------------------------------------------------------- */

PyDoc_STRVAR(gram_add_doc,
             "gram_add(gram, w, n_threads)\n--\n\n"
             "Add the upper triangle of ``w.T @ w`` to `gram`, in float64.\n\n"
             "Parameters\n----------\n"
             "gram : (d, d) float64, C-contiguous\n"
             "w : (n, d) float16, float32, float64 or, for bfloat16, uint16\n"
             "n_threads : int\n\n"
             "Raises\n------\n"
             "ValueError\n"
             "    With arguments (message, row, count) where `w` has NaN or infinity: the\n"
             "    first such row and how many there are.");

static PyObject *gram_add(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *gram_object, *w_object;
    Py_ssize_t threads;
    if (!PyArg_ParseTuple(args, "OOn:gram_add", &gram_object, &w_object, &threads))
        return NULL;
    ef_matrix w;
    size_t n_threads;
    PyArrayObject *gram = checked_array(gram_object, "gram", NPY_DOUBLE, 2, true);
    if (gram == NULL || matrix_from_array(w_object, "w", &w) < 0 ||
        threads_from_long(threads, &n_threads) < 0)
        return NULL;
    if ((size_t)PyArray_DIM(gram, 0) != w.n_cols || (size_t)PyArray_DIM(gram, 1) != w.n_cols)
        return PyErr_Format(PyExc_ValueError, "gram: expected shape (%zu, %zu), found (%zd, %zd)",
                            w.n_cols, w.n_cols, PyArray_DIM(gram, 0), PyArray_DIM(gram, 1));
    double *data = PyArray_DATA(gram);
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS status = ef_gram_add(data, w, n_threads, &detail);
    Py_END_ALLOW_THREADS if (status != EF_OK) return raise_status(status, detail);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(eigh_doc,
             "eigh(matrix, n_threads)\n--\n\n"
             "Eigenvalues of a symmetric matrix, which its eigenvectors replace.\n\n"
             "Parameters\n----------\n"
             "matrix : (d, d) float64, C-contiguous\n"
             "    The upper triangle is read. On return row i is the unit eigenvector of\n"
             "    value i.\n"
             "n_threads : int\n\n"
             "Returns\n-------\n(d,) float64\n    The eigenvalues, ascending.\n\n"
             "Raises\n------\n"
             "ValueError\n    If the matrix has NaN or infinity, or d > 32766.\n"
             "ArithmeticError\n    If LAPACK's iteration did not converge.");

static PyObject *eigh(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    Py_ssize_t threads;
    if (!PyArg_ParseTuple(args, "On:eigh", &object, &threads))
        return NULL;
    size_t n_threads;
    PyArrayObject *matrix = checked_array(object, "matrix", NPY_DOUBLE, 2, true);
    if (matrix == NULL || threads_from_long(threads, &n_threads) < 0)
        return NULL;
    npy_intp d = PyArray_DIM(matrix, 0);
    if (PyArray_DIM(matrix, 1) != d)
        return PyErr_Format(PyExc_ValueError, "matrix: expected a square, found (%zd, %zd)", d,
                            PyArray_DIM(matrix, 1));
    PyObject *values = PyArray_SimpleNew(1, &d, NPY_DOUBLE);
    if (values == NULL)
        return NULL;
    double *matrix_data = PyArray_DATA(matrix);
    double *values_data = PyArray_DATA((PyArrayObject *)values);
    ef_detail detail = {0};
    ef_status status;
    Py_BEGIN_ALLOW_THREADS status =
        ef_eigh(matrix_data, values_data, (size_t)d, n_threads, &detail);
    Py_END_ALLOW_THREADS if (status != EF_OK) {
        Py_DECREF(values);
        return raise_status(status, detail);
    }
    return values;
}

/* ---- Projection --------------------------------------------------------- */

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
             "PackedFilter(components)\n--\n\n"
             "A filter's matrix in the layout of the kernels; immutable.\n\n"
             "Parameters\n----------\ncomponents : (k, d) float32, C-contiguous");

static PyObject *packed_filter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"components", NULL};
    PyObject *object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:PackedFilter", names, &object))
        return NULL;
    PyArrayObject *components = checked_array(object, "components", NPY_FLOAT, 2, false);
    if (components == NULL)
        return NULL;
    const npy_intp k = PyArray_DIM(components, 0), d = PyArray_DIM(components, 1);
    if (k < 1 || d < 1)
        return PyErr_Format(PyExc_ValueError, "components: expected k, d >= 1, found (%zd, %zd)", k,
                            d);
    packed_filter *self = (packed_filter *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->k = k;
    self->d = d;
    ef_detail detail = {0};
    const ef_status status =
        ef_filter_new(PyArray_DATA(components), (size_t)k, (size_t)d, &self->filter, &detail);
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
             "project(x, out, precision, normalize, starts, steps, n_threads)\n--\n\n"
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
    Py_BEGIN_ALLOW_THREADS status = ef_project(self->filter, x, form, out_data, n_threads, &detail);
    Py_END_ALLOW_THREADS if (status != EF_OK) return raise_status(status, detail);
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
    if (PyArray_ImportNumPyAPI() < 0)
        return -1;
    const char *isa = getenv("EMBEDFILTER_ISA");
    if (isa != NULL && *isa != '\0' && choose_isa("EMBEDFILTER_ISA", isa) < 0)
        return -1;
    module_state *state = PyModule_GetState(module);
    state->packed_filter_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &packed_filter_spec, NULL);
    if (state->packed_filter_type == NULL)
        return -1;
    return PyModule_AddType(module, state->packed_filter_type);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->packed_filter_type);
    return 0;
}

static int module_clear(PyObject *module) {
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->packed_filter_type);
    return 0;
}

static void module_free(void *module) {
    module_clear(module);
}

static PyMethodDef module_methods[] = {
    {"available_isas", available_isas, METH_NOARGS, available_isas_doc},
    {"get_isa", get_isa, METH_NOARGS, get_isa_doc},
    {"set_isa", set_isa, METH_O, set_isa_doc},
    {"gram_add", gram_add, METH_VARARGS, gram_add_doc},
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
    .m_size = sizeof(module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&module_definition);
}
