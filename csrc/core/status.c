#include "core/embedfilter.h"

const char *ef_status_text(ef_status status) {
    switch (status) {
    case EF_OK:
        return "success";
    case EF_NO_MEMORY:
        return "out of memory";
    case EF_TOO_LARGE:
        return "the matrix is too large";
    case EF_NOT_FINITE:
        return "the input holds NaN or infinity";
    case EF_OVERFLOW:
        return "a value does not fit the arithmetic or the output type";
    case EF_LAPACK:
        return "the eigenvalue decomposition did not converge";
    case EF_NO_LIBRARY:
        return "OpenBLAS could not be loaded";
    case EF_UNAVAILABLE:
        return "not available on this machine";
    }
    return "unknown status";
}
