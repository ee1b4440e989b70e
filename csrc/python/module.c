/* The Python module embedfilter._core: its making. */
#include "python/module.h"

#include <stdlib.h>

static int module_exec(PyObject *module) {
    if (PyArray_ImportNumPyAPI() < 0 ||
        PyModule_AddIntConstant(module, "THREAD_WORK", EF_THREAD_WORK) < 0)
        return -1;
    ef_locate_openblas();
    const char *isa = getenv("EMBEDFILTER_ISA");
    if (isa != NULL && *isa != '\0' && choose_isa("EMBEDFILTER_ISA", isa) < 0)
        return -1;
    PyMethodDef *const functions[] = {isa_methods, eigh_methods, dequantize_methods};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (PyModule_AddFunctions(module, functions[i]) < 0)
            return -1;
    PyType_Spec *const specs[] = {&gram_spec, &filter_spec, &lens_spec};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        if (type == NULL && !PyErr_Occurred()) /* CPython's omission: python/cpython#151126 */
            PyErr_NoMemory();
        const int status = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
        Py_XDECREF(type);
        if (status < 0)
            return -1;
    }
    return 0;
}

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
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&module_definition);
}
