/* The Python module: the function dequantize. */
#define NO_IMPORT_ARRAY
#include "python/module.h"

enum { N_TYPES = EF_Q6_K + 1 };
static const char *const TYPES[N_TYPES] = {
    [EF_Q4_0] = "Q4_0", [EF_Q8_0] = "Q8_0", [EF_Q4_K] = "Q4_K", [EF_Q6_K] = "Q6_K"};

PyDoc_STRVAR(dequantize_doc,
             "dequantize(dtype, blocks, /)\n--\n\n"
             "Decode rows of quantised weights, to the bit as gguf.quants.dequantize does.\n\n"
             "Parameters\n----------\n"
             "dtype : 'Q4_0', 'Q8_0', 'Q4_K' or 'Q6_K'\n"
             "blocks : (n, row_bytes) uint8, C-contiguous\n"
             "    Rows of whole blocks, as GGUF files have them.\n\n"
             "Returns\n-------\n"
             "(n, d) float32\n");

static PyObject *dequantize(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "sO:dequantize", &name, &object))
        return NULL;
    const int type = place_of_name("dtype", name, TYPES, N_TYPES);
    PyArrayObject *blocks = type < 0 ? NULL : checked_array(object, "blocks", NPY_UINT8, 2, false);
    if (blocks == NULL)
        return NULL;
    const ef_block_size size = ef_size_of_block((ef_block_type)type);
    const size_t n_rows = (size_t)PyArray_DIM(blocks, 0);
    const size_t row_bytes = (size_t)PyArray_DIM(blocks, 1);
    if (row_bytes % size.bytes != 0)
        return PyErr_Format(
            PyExc_ValueError,
            "blocks: expected rows of whole %s blocks of %zu bytes, found %zu bytes", name,
            size.bytes, row_bytes);
    const size_t row_blocks = row_bytes / size.bytes;
    npy_intp shape[2] = {PyArray_DIM(blocks, 0), (npy_intp)(row_blocks * size.elements)};
    PyObject *out = PyArray_SimpleNew(2, shape, NPY_FLOAT);
    if (out == NULL)
        return NULL;
    const unsigned char *data = PyArray_DATA(blocks);
    float *out_data = PyArray_DATA((PyArrayObject *)out);
    Py_BEGIN_ALLOW_THREADS
    ef_dequantize((ef_block_type)type, data, n_rows * row_blocks, out_data);
    Py_END_ALLOW_THREADS
    return out;
}

PyMethodDef dequantize_methods[] = {
    {"dequantize", dequantize, METH_VARARGS, dequantize_doc},
    {NULL, NULL, 0, NULL},
};
