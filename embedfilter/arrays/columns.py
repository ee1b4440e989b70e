"""Arrays, tensors, frames and columns of other libraries as NumPy arrays.

No library is imported for it: whoever hands over what is one of its own has loaded it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter.arrays.torch_tensors import is_torch, tensor_to_array

__all__ = ["arrow_rows", "as_array", "holds_floats"]

_NUMBERS = "iuf"


def as_array(X: Any, name: str) -> NDArray[Any]:
    """Return what a user has handed over as an array (..., d), without a copy where that can be.

    Parameters
    ----------
    X : array-like
        A NumPy array or lists; a torch tensor, on any device, with or without gradients, which
        are left behind; a pandas or polars frame or an Arrow table of columns of numbers, or of
        one column of lists and any others; a pandas or polars Series, a pyarrow Array or
        ChunkedArray of lists, arrays or tensors; a Dataset or a column of Hugging Face's
        datasets; a list, or what can be gone through again, of any of these; whatever NumPy takes,
        or has `to_numpy`, or offers DLPack.
    name : str
        The argument's name, for messages.

    Raises
    ------
    TypeError
        If it is none of them, or holds no numbers.
    ValueError
        For rows of unequal length, or without an embedding.
    """
    if np.ma.is_masked(X):
        raise TypeError(f"{name}: expected an array, found a masked array: fill it first")
    if isinstance(X, np.ndarray):
        return _from_objects(X, name) if X.dtype == object and X.ndim else np.asarray(X)
    if is_torch(X):
        return _from_torch(X, name)
    library, kind = _origin(X)
    if library == "pyarrow":
        return _from_arrow_table(X, name) if kind in _TABLES else _from_arrow(X, name)
    if (library, kind) in _FROM:
        return _FROM[library, kind](X, name)
    if library == "polars":
        raise TypeError(
            f"{name}: expected a Series or a DataFrame of polars, found {kind}: collect it first"
        )
    if isinstance(X, (list, tuple)) and X and _is_foreign(X[0]):
        return _stacked(X, name)
    return _from_any(X, name)


_KINDS = {
    "pandas": ("Series", "DataFrame"),
    "polars": ("Series", "DataFrame", "LazyFrame"),
    "datasets": ("Column", "Dataset"),
}
_TABLES = ("Table", "RecordBatch", "RecordBatchReader")


def _origin(X: Any) -> tuple[str, str]:
    """Return the library that a value's type is of, or is made from, and its name there."""
    for type_ in type(X).__mro__:
        library = type_.__module__.partition(".")[0]
        if library == "pyarrow" or type_.__name__ in _KINDS.get(library, ()):
            return library, type_.__name__
    return "", type(X).__name__


def _is_foreign(row: Any) -> bool:
    """Tell whether a row is not what NumPy makes an array of in one go."""
    return (
        is_torch(row)
        or _origin(row)[0] != ""
        or hasattr(row, "__dlpack__")
        or hasattr(row, "to_numpy")
    )


def _from_any(X: Any, name: str) -> NDArray[Any]:
    try:
        if hasattr(X, "__dlpack__") and not hasattr(X, "__array__"):
            return _from_dlpack(X)
        array = np.asarray(X.to_numpy() if hasattr(X, "to_numpy") else X)
    except (TypeError, ValueError, RuntimeError, BufferError):
        if isinstance(X, (list, tuple)):
            return _stacked(X, name)  # it names the row
        if hasattr(X, "__dlpack__"):  # such as CuPy's, which do not become NumPy's by themselves
            try:
                return _from_dlpack(X)
            except (TypeError, ValueError, RuntimeError, BufferError) as second:
                error = second
        raise TypeError(f"{name}: expected an array or lists of numbers: {error}") from error
    if array.dtype != object and array.dtype.kind not in "SU":
        return array
    if array.ndim:
        return _stacked(X, name) if isinstance(X, (list, tuple)) else _from_objects(array, name)
    # What can be gone through again: an iterator would be empty the next time.
    is_rows = isinstance(X, Iterable) and not isinstance(X, (str, bytes, Mapping, Set))
    is_sparse = hasattr(X, "toarray")
    if is_rows and iter(X) is not X and not is_sparse:
        return as_array(list(X), name)
    hint = ": X.toarray() is an array" if is_sparse else ": make a list of it" if is_rows else ""
    if isinstance(X, (str, os.PathLike)):
        hint = ": np.load reads a .npy file, and the command 'embedfilter apply' filters files"
    what = type(X).__name__ if X is not None else "None"
    raise TypeError(f"{name}: expected an array or lists of numbers, found {what}{hint}")


def _from_objects(X: NDArray[Any], name: str) -> NDArray[Any]:
    """Return an array of Python's numbers, or of arrays, as one of NumPy's numbers."""
    if X.size and isinstance(X.flat[0], (float, int, np.number)):
        try:
            array = np.asarray(X.tolist())
        except ValueError:
            array = X  # it is told which row is other
        if array.dtype.kind in _NUMBERS:
            return array
    return _stacked(X if X.ndim == 1 else X.tolist(), name)


def _from_dlpack(X: Any) -> NDArray[Any]:
    if X.__dlpack_device__()[0] == 1:  # the CPU
        return np.from_dlpack(X)
    return np.from_dlpack(X, device="cpu")  # from NumPy 2.1 on


def _from_torch(X: Any, name: str) -> NDArray[Any]:
    if not hasattr(X, "detach"):
        raise TypeError(f"{name}: expected a tensor, found {type(X).__name__}")
    if X.device.type == "meta":
        raise TypeError(
            f"{name}: expected a tensor with numbers, found a meta tensor, with no data"
        )
    if X.is_nested:
        raise TypeError(f"{name}: expected a dense tensor, found a nested one")
    try:
        return tensor_to_array(X.detach().cpu().resolve_neg())
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name}: {next(iter(str(error).splitlines()), '')}") from None


def _stacked(rows: Iterable[Any], name: str) -> NDArray[Any]:
    """Return one array of rows of equal shape, or raise naming the first that is other."""
    arrays: list[NDArray[Any]] = []
    for number, row in enumerate(rows):
        array = _row(row, f"{name}: row {number}")
        if array.ndim == 0:
            hint = ""
            if isinstance(row, str) and row.lstrip().startswith("["):
                hint = ", a text: json.loads makes a list of it"
            raise ValueError(
                f"{name}: expected an embedding in each row, found {_short(row)} in row"
                f" {number}{hint}"
            )
        if array.dtype.kind not in "iufV":  # V: bfloat16
            wrong = next((v for v in np.ravel(array) if not isinstance(v, (int, float))), array)
            raise TypeError(f"{name}: expected numbers, found {_short(wrong)} in row {number}")
        if arrays and array.shape != arrays[0].shape:
            hint = ""
            if array.ndim == 2 and array.shape[1:] == arrays[0].shape[1:]:
                hint = ": join them with np.concatenate, and split the result"
            raise ValueError(
                f"{name}: expected rows of equal length, found shape {arrays[0].shape} in row 0"
                f" and {array.shape} in row {number}{hint}"
            )
        arrays.append(array)
    return np.stack(arrays) if arrays else np.empty(0)


def _row(row: Any, name: str) -> NDArray[Any]:
    if type(row) is np.ndarray:
        return row
    if _is_foreign(row):
        return as_array(row, name)
    try:
        return np.asarray(row)
    except ValueError as error:  # lists of lists of unequal length
        raise ValueError(f"{name}: expected numbers: {error}") from None


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- pandas ---------------------------------------------------------------------------------


def _from_series(X: Any, name: str) -> NDArray[Any]:
    if hasattr(X.dtype, "pyarrow_dtype"):
        return arrow_rows(X.array.__arrow_array__(), name)
    if X.dtype == object:
        return _from_objects(X.to_numpy(), name)
    if not _is_numeric(X.dtype):
        hint = ": json.loads makes a list of a text" if str(_first(X)).startswith("[") else ""
        raise TypeError(f"{name}: expected numbers, or lists of them, found {X.dtype}{hint}")
    return _from_frame(X.to_frame(), name)[:, 0]


def _from_frame(X: Any, name: str) -> NDArray[Any]:
    # What NumPy's type is of columns that may hold pandas' or Arrow's missing values, or zeros.
    plain = [
        np.dtype(getattr(t, "numpy_dtype", getattr(t, "subtype", t)) if _is_numeric(t) else object)
        for t in X.dtypes
    ]
    others = [i for i, t in enumerate(plain) if t.kind not in _NUMBERS]
    if others:
        if len(plain) > 1 and all(isinstance(_first(X.iloc[:, i]), float) for i in others):
            return _from_objects(X.to_numpy(object), name)
        lists = [i for i in others if len(plain) == 1 or _is_list_column(X.iloc[:, i])]
        if len(lists) == 1:
            return _from_series(X.iloc[:, lists[0]], name)
        raise _not_numbers(name, [X.columns[i] for i in others], [X.columns[i] for i in lists])
    if all(isinstance(t, np.dtype) for t in X.dtypes):
        return np.asarray(X.to_numpy())
    missing = np.asarray(X.isna().to_numpy()).any(axis=1)
    if missing.any():
        raise ValueError(
            f"{name}: expected numbers, found missing ones in row {int(np.argmax(missing))}"
        )
    return np.asarray(X.to_numpy(np.result_type(*plain)))


def _first(column: Any) -> Any:
    """Return a column's first value; None of one without rows."""
    return column.iloc[0] if len(column) else None


def _is_list_column(column: Any) -> bool:
    """Tell whether a column holds lists of floats, by its type or its first row."""
    if hasattr(column.dtype, "pyarrow_dtype"):
        return holds_floats(column.dtype.pyarrow_dtype)
    first = _first(column)
    if isinstance(first, (str, bytes, Mapping)) or not hasattr(first, "__len__"):
        return False
    return bool(len(first)) and (is_torch(first) or np.asarray(first[0]).dtype.kind in "fV")


def _is_numeric(type_: Any) -> bool:
    return getattr(type_, "kind", "O") in _NUMBERS


def _not_numbers(name: str, columns: list[Any], lists: list[Any]) -> TypeError:
    """Return the error of a frame: several columns of lists, or none and others than numbers."""
    found = [str(column) for column in lists or columns]
    shown = ", ".join(map(repr, found[:5])) + (", ..." if len(found) > 5 else "")
    if lists:
        return TypeError(f"{name}: expected one column of lists of numbers, found {shown}")
    return TypeError(f"{name}: expected columns of numbers, found others: {shown}")


# ---- polars ---------------------------------------------------------------------------------


def _from_polars_series(X: Any, name: str) -> NDArray[Any]:
    shape = [len(X)]
    while (kind := type(X.dtype).__name__) in ("List", "Array"):
        _refuse_null(X, name, shape)
        if kind == "List":
            lengths = X.list.len().to_numpy()
            width = int(lengths[0]) if len(lengths) else 0
            _refuse_ragged(lengths, width, name, shape)
        else:
            width = X.dtype.shape[0] if X.dtype.shape else 0
        shape.append(width)
        if not width or not shape[0]:
            return np.empty(shape, np.float32)
        if kind == "Array":
            X = X.arr.to_list()
        X = X.explode()
    if kind == "Object":
        return _stacked(X.to_list(), name)
    _refuse_null(X, name, shape)
    return np.asarray(X.to_numpy()).reshape(shape)


def _refuse_null(X: Any, name: str, shape: list[int]) -> None:
    if X.null_count():
        place = int(np.argmax(X.is_null().to_numpy()))
        raise ValueError(
            f"{name}: expected an embedding in each row, found null in row"
            f" {place * shape[0] // len(X)}"
        )


def _from_polars_frame(X: Any, name: str) -> NDArray[Any]:
    columns = X.get_columns()
    others = [column for column in columns if not column.dtype.is_numeric()]
    if others:
        lists = [column for column in others if len(columns) == 1 or _is_polars_list(column.dtype)]
        if len(lists) == 1:
            return _from_polars_series(lists[0], name)
        raise _not_numbers(name, [c.name for c in others], [c.name for c in lists])
    for column in columns:
        _refuse_null(column, name, [len(column)])
    return np.asarray(X.to_numpy())


def _is_polars_list(type_: Any) -> bool:
    """Tell whether a type is of lists or arrays of floats, or of such."""
    is_list = hasattr(type_, "inner")
    while hasattr(type_, "inner"):
        type_ = type_.inner
    return is_list and bool(type_.is_float())


# ---- pyarrow --------------------------------------------------------------------------------


def arrow_rows(column: Any, name: str, first: int = 0, d: int | None = None) -> NDArray[Any]:
    """Return an Arrow array of lists, of any kind, or of tensors, as an array (n, ..., d).

    Parameters
    ----------
    column : pyarrow.Array or ChunkedArray
    name : str
        What it is called in messages.
    first : int
        The number of its first row, for messages.
    d : int, optional
        How long lists must be; by default as long as the first.

    Raises
    ------
    TypeError
        If it holds no numbers.
    ValueError
        For nulls and lists of unequal length, with the row.
    """
    pa = sys.modules["pyarrow"]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of extension types, in some versions
            column = pa.concat_arrays([chunk.storage for chunk in column.chunks])
    shape = [len(column)]
    while True:
        type_ = column.type
        if isinstance(column, pa.FixedShapeTensorArray):
            if not column.null_count and (type_.permutation or len(type_.shape) > 1):
                return np.asarray(column.to_numpy_ndarray())
            column = column.storage
        elif isinstance(type_, pa.BaseExtensionType):
            column = column.storage
        elif pa.types.is_dictionary(type_) and column.indices.null_count == column.null_count:
            column = column.dictionary_decode()
        elif pa.types.is_null(type_) or column.null_count:
            places = column.is_null().to_numpy(zero_copy_only=False)
            row = int(np.argmax(places)) * shape[0] // max(1, len(column))
            what = "an embedding in each row" if len(shape) == 1 else "numbers"
            raise ValueError(f"{name}: expected {what}, found null in row {first + row}")
        elif (lengths := _list_lengths(column)) is not None:
            width = int(lengths[0]) if len(lengths) else getattr(type_, "list_size", 0)
            flat = column.flatten()
            if d is not None and _list_lengths(flat[:0]) is None:
                width = d
            _refuse_ragged(lengths, width, name, shape, first)
            shape.append(width)
            column = flat
        else:
            break
    if not (pa.types.is_floating(type_) or pa.types.is_integer(type_)):
        raise TypeError(f"{name}: expected lists of numbers, found {type_}")
    values: NDArray[Any] = column.to_numpy(zero_copy_only=True)
    return values.reshape(shape)


def _list_lengths(column: Any) -> NDArray[Any] | None:
    """Return the lengths of an Arrow array's lists; None if it is of something else."""
    types: Any = sys.modules["pyarrow"].types
    if types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size)
    if types.is_list(column.type) or types.is_large_list(column.type):
        return np.asarray(np.diff(column.offsets.to_numpy()))
    if types.is_list_view(column.type) or types.is_large_list_view(column.type):
        return np.asarray(column.sizes.to_numpy())
    return None


def _refuse_ragged(
    lengths: NDArray[Any], width: int, name: str, shape: list[int], first: int = 0
) -> None:
    wrong = lengths != width
    if wrong.any():
        place = int(np.argmax(wrong))
        row = first + place * shape[0] // len(lengths)
        raise ValueError(
            f"{name}: expected lists of {width} numbers, found {lengths[place]} in row {row}"
        )


def holds_floats(type_: Any) -> bool:
    """Tell whether an Arrow type is of lists of floats, or of such lists, or of tensors."""
    pa = sys.modules["pyarrow"]
    is_list = False
    while True:
        if isinstance(type_, pa.BaseExtensionType):
            type_ = type_.storage_type
        elif pa.types.is_dictionary(type_):
            type_ = type_.value_type
        elif (
            pa.types.is_list(type_)
            or pa.types.is_large_list(type_)
            or pa.types.is_fixed_size_list(type_)
            or pa.types.is_list_view(type_)
            or pa.types.is_large_list_view(type_)
        ):
            type_, is_list = type_.value_type, True
        else:
            return is_list and bool(pa.types.is_floating(type_))


def _from_arrow(X: Any, name: str) -> NDArray[Any]:
    """Return an array, or one value of one, which is a list or a tensor."""
    pa = sys.modules["pyarrow"]
    if isinstance(X, (pa.Array, pa.ChunkedArray)):
        return arrow_rows(X, name)
    if isinstance(X, pa.ListScalar) and X.is_valid:
        return as_array(X.values, name)
    if isinstance(X, (pa.Tensor, pa.FixedShapeTensorScalar)):
        return np.asarray(X.to_numpy())
    found = "null" if isinstance(X, pa.Scalar) and not X.is_valid else type(X).__name__
    raise TypeError(f"{name}: expected an array or a table of pyarrow, found {found}")


def _from_arrow_table(X: Any, name: str) -> NDArray[Any]:
    if hasattr(X, "read_all"):
        X = X.read_all()
    types = sys.modules["pyarrow"].types
    others = [
        field
        for field in X.schema
        if not (types.is_floating(field.type) or types.is_integer(field.type))
    ]
    if others:
        lists = [field for field in others if X.num_columns == 1 or holds_floats(field.type)]
        if len(lists) == 1:
            return arrow_rows(X.column(X.schema.get_field_index(lists[0].name)), name)
        raise _not_numbers(name, [field.name for field in others], [field.name for field in lists])
    return np.column_stack([arrow_rows(column, name) for column in X.columns])


# ---- Hugging Face's datasets ----------------------------------------------------------------


def _from_dataset(X: Any, name: str) -> NDArray[Any]:
    return _from_arrow_table(X.with_format("arrow")[:], name)


def _from_dataset_column(X: Any, name: str) -> NDArray[Any]:
    """Return a column by way of Arrow, unless a function makes its values."""
    if getattr(X.source, "format", {"type": "custom"})["type"] == "custom":
        return as_array(list(X), name)
    return _from_dataset(X.source.select_columns([X.column_name]), name)


_FROM = {
    ("pandas", "Series"): _from_series,
    ("pandas", "DataFrame"): _from_frame,
    ("polars", "Series"): _from_polars_series,
    ("polars", "DataFrame"): _from_polars_frame,
    ("datasets", "Column"): _from_dataset_column,
    ("datasets", "Dataset"): _from_dataset,
}
