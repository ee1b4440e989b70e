/* The Python module: the functions that tell and choose the instruction set. */
#define NO_IMPORT_ARRAY
#include "python/module.h"

#include <string.h>

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

int choose_isa(const char *source, const char *name) {
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

PyMethodDef isa_methods[] = {
    {"available_isas", available_isas, METH_NOARGS, available_isas_doc},
    {"get_isa", get_isa, METH_NOARGS, get_isa_doc},
    {"set_isa", set_isa, METH_O, set_isa_doc},
    {NULL, NULL, 0, NULL},
};
