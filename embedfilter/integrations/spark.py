"""Filters in Spark: a column of a DataFrame, filtered by its workers' Python processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.arrays.columns import arrow_rows
from embedfilter.filter import as_filter

try:
    import pyarrow as pa
    from pyspark.sql import types
except ImportError as error:
    raise ImportError('to filter in Spark: pip install "embedfilter[spark]"') from error

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedfilter.filter import EmbedFilter

__all__ = ["filter_column"]

# What Spark's types can hold.
_TYPES = {
    "float32": types.ArrayType(types.FloatType(), containsNull=False),
    "int8": types.ArrayType(types.ByteType(), containsNull=False),
    "ubinary": types.BinaryType(),
}
_NUMBERS = (types.FloatType, types.DoubleType)


def filter_column(
    df: DataFrame,
    f: EmbedFilter | str | os.PathLike[str],
    column: str,
    *,
    output_column: str | None = None,
    precision: str = "float32",
    n_threads: int = 1,
    **options: Any,
) -> DataFrame:
    """Filter a column of embeddings by ``DataFrame.mapInArrow``.

    The filter is broadcast: each worker has it once. Workers need this package.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
        Of a session with a SparkContext, which that of Spark Connect has not.
    f : EmbedFilter, or the file of one
    column : str
        A column of arrays of float or double, each of length d.
    output_column : str, optional
        Where filtered embeddings go; by default into the same column.
    precision : {"float32", "int8", "ubinary"}
        An array of floats, an array of bytes, or a binary value of ceil(k / 8) bytes.
    n_threads : int
        Threads of each worker, of which Spark starts one for each of its cores.
    **options
        For `EmbedFilter.transform`: normalize, ranges.

    Returns
    -------
    pyspark.sql.DataFrame
        All columns of `df`, computed when it is asked for.

    Raises
    ------
    TypeError, ValueError
        For a column that is missing or of another type, or wrong options. When the result is
        computed, Spark reports what `EmbedFilter.transform` refuses, and values that are null.
    """
    if precision not in _TYPES:
        raise ValueError(
            f"precision: expected one of {', '.join(_TYPES)}, which Spark has types for, found"
            f" {precision!r}"
        )
    fields = {field.name: field for field in df.schema.fields}
    if column not in fields:
        raise ValueError(f"column: expected one of {', '.join(fields)}, found {column!r}")
    found = fields[column].dataType
    if not (isinstance(found, types.ArrayType) and isinstance(found.elementType, _NUMBERS)):
        hint = ""
        if found.typeName() == "vectorudt":
            hint = ": pyspark.ml.functions.vector_to_array makes arrays of vectors"
        raise TypeError(
            f"column: expected arrays of float or double in {column!r}, found"
            f" {found.simpleString()}{hint}"
        )
    target = output_column or column
    fields[target] = types.StructField(target, _TYPES[precision], nullable=False)
    f = as_filter(f)
    options |= {"precision": precision, "n_threads": n_threads}
    # Wrong options are told of here, and not by every worker.
    f.transform(np.empty((0, f.n_features_in), np.float32), **options)
    shared = df.sparkSession.sparkContext.broadcast(f)
    return df.mapInArrow(
        _filtering(shared, column, target, options), types.StructType(list(fields.values()))
    )


def _filtering(
    shared: Any, column: str, target: str, options: dict[str, Any]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return what each worker does with its batches."""

    def filtered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        f = shared.value
        name = f"column {column!r} of an Arrow batch"  # in which rows are counted
        for batch in batches:
            rows = f.transform(
                arrow_rows(batch.column(column), name, 0, f.n_features_in),
                **options,
            )
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            columns[target] = _lists(rows)
            yield pa.RecordBatch.from_pydict(columns)

    return filtered


def _lists(rows: NDArray[Any]) -> pa.Array:
    n, width = rows.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * np.int32(width))
    if rows.dtype == np.uint8:
        return pa.Array.from_buffers(
            pa.binary(), n, [None, offsets.buffers()[1], pa.py_buffer(np.ascontiguousarray(rows))]
        )
    return pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1)))
