"""Embeddings in a column of Parquet and Arrow files, filtered a batch at a time.

A batch's list column is one flat array of numbers, so that it becomes a matrix, and the filtered
matrix a column, without a copy. The next batch is read, and the last one written, meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfilter.errors import EmbedFilterError
from embedfilter.files.atomic import atomic_output
from embedfilter.files.endings import PARQUET, ending

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError(
        'Parquet and Arrow files need pyarrow: pip install "embedfilter[arrow]"'
    ) from error

__all__ = ["filter_column"]

_BATCH_BYTES = 16 << 20  # of embeddings
_READ_BYTES = 4 << 20  # of a column at a time: a row group may be larger than memory


def filter_column(
    source: str,
    output: str,
    transform: Callable[[NDArray[Any]], NDArray[Any]],
    d: int,
    *,
    column: str | None = None,
    output_column: str | None = None,
    progress: Callable[[int], object] = int,
) -> tuple[int, int]:
    """Filter a column of lists into a file like the source, whose other columns it keeps.

    Parameters
    ----------
    source, output : str
        Parquet (.parquet, .pq) or Arrow (.arrow, .feather, .ipc) files; "-" is a stream of Arrow
        batches on standard input or output. `output` appears whole or not at all.
    transform : callable
        Takes a matrix (n, d) of float16, float32 or float64, and returns one of n rows.
    d : int
        The length of the lists.
    column : str, optional
        The column; by default the only one of lists of such numbers.
    output_column : str, optional
        Where filtered embeddings go; by default into the same column.
    progress : callable
        Is told of the number of rows after each batch.

    Returns
    -------
    n_rows, width : int
        Of what was written.

    Raises
    ------
    EmbedFilterError
        If a file or the column is not as it must be.
    OSError
        If a file cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        schema, batches, codec = _open(source, d, stack)
        name = _embedding_column(source, schema, column)
        target = output_column or name
        empty = transform(np.empty((0, d), np.float32))
        type_ = pa.list_(pa.from_numpy_dtype(empty.dtype), empty.shape[1])
        place = schema.get_field_index(target)
        field = pa.field(target, type_)
        changed = schema.append(field) if place < 0 else schema.set(place, field)
        write = _writer(output, changed, target, codec, stack)
        n_rows = 0

        def filtered(batch: pa.RecordBatch) -> pa.RecordBatch:
            rows = _matrix(source, name, batch.column(name), d, n_rows)
            try:
                values = transform(rows)
            except ValueError as error:
                raise EmbedFilterError(
                    f"{source}: column {name!r}, rows {n_rows} to {n_rows + len(rows) - 1}: {error}"
                ) from None
            lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), empty.shape[1])
            columns = list(batch.columns)
            if place < 0:
                columns.append(lists)
            else:
                columns[place] = lists
            return pa.RecordBatch.from_arrays(columns, schema=changed)

        # One thread reads ahead, one writes behind.
        reading, writing = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
        written: Future[None] | None = None
        coming = reading.submit(next, batches, None)
        with _arrow_errors(source):
            while (batch := coming.result()) is not None:
                coming = reading.submit(next, batches, None)
                result = filtered(batch)
                if written is not None:
                    written.result()
                written = writing.submit(write, result)
                n_rows += batch.num_rows
                progress(batch.num_rows)
            if written is not None:
                written.result()
    return n_rows, empty.shape[1]


# ---- Files ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _arrow_errors(where: str) -> Iterator[None]:
    """Name the file in what pyarrow says of it."""
    try:
        yield
    except pa.ArrowException as error:
        raise EmbedFilterError(f"{where}: {error}") from None


def _open(
    source: str, d: int, stack: contextlib.ExitStack
) -> tuple[pa.Schema, Iterator[pa.RecordBatch], str]:
    """Return a file's schema, its batches and its codec."""
    n_rows = max(1, _BATCH_BYTES // (4 * d))
    with _arrow_errors(source):
        if source == "-":
            stream = stack.enter_context(pa.ipc.open_stream(sys.stdin.buffer))
            return stream.schema, _sliced(stream, n_rows), "snappy"
        if ending(source) in PARQUET:
            file = stack.enter_context(
                pq.ParquetFile(source, buffer_size=_READ_BYTES, pre_buffer=False)
            )
            codec = "snappy"
            if file.metadata.num_row_groups and file.metadata.num_columns:
                codec = file.metadata.row_group(0).column(0).compression.lower()
            codec = "none" if codec == "uncompressed" else codec
            return file.schema_arrow, file.iter_batches(n_rows), codec
        mapped = stack.enter_context(pa.memory_map(source))
        reader = stack.enter_context(pa.ipc.open_file(mapped))
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        return reader.schema, _sliced(batches, n_rows), "snappy"


def _sliced(batches: Iterator[pa.RecordBatch], n_rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, n_rows):
            yield batch.slice(start, n_rows)


def _writer(
    output: str, schema: pa.Schema, column: str, codec: str, stack: contextlib.ExitStack
) -> Callable[[pa.RecordBatch], None]:
    """Open the output; it gets its name when the stack is left without an error."""
    if output == "-":
        stream = stack.enter_context(pa.ipc.new_stream(sys.stdout.buffer, schema))
        return stream.write_batch  # type: ignore[no-any-return]
    file = stack.enter_context(atomic_output(Path(output)))
    if ending(output) in PARQUET:
        # Hardly two embeddings are equal: to look for those that are costs more than writing.
        others = [field.name for field in schema if field.name != column]
        writer = pq.ParquetWriter(file, schema, compression=codec, use_dictionary=others)
    else:
        writer = pa.ipc.new_file(file, schema)
    stack.enter_context(writer)
    return writer.write_batch  # type: ignore[no-any-return]


# ---- Columns ----------------------------------------------------------------------------------


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_fixed_size_list(type_)
        or pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
    )


def _embedding_column(source: str, schema: pa.Schema, column: str | None) -> str:
    """Return the column's name."""
    lists = [
        field.name
        for field in schema
        if _is_list(field.type) and pa.types.is_floating(field.type.value_type)
    ]
    known = ", ".join(f"{field.name} ({field.type})" for field in schema) or "no columns"
    if column is None:
        if len(lists) != 1:
            found = ", ".join(lists) or f"none among {known}"
            raise EmbedFilterError(
                f"{source}: expected one column of lists of floats, or its name, found {found}"
            )
        return str(lists[0])
    if schema.get_field_index(column) < 0:
        raise EmbedFilterError(f"{source}: expected a column {column!r}, found {known}")
    if column not in lists:
        raise EmbedFilterError(
            f"{source}: column {column!r}: expected lists of float16, float32 or float64,"
            f" found {schema.field(column).type}"
        )
    return column


def _matrix(source: str, name: str, column: pa.Array, d: int, first: int) -> NDArray[Any]:
    """Return a column of lists as a matrix (n, d), without a copy; `first` is its first row."""
    where = f"{source}: column {name!r}"
    if column.null_count:
        row = first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise EmbedFilterError(
            f"{where}: expected an embedding in each row, found null in row {row}"
            f" ({column.null_count} such rows among rows {first} to {first + len(column) - 1})"
        )
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(len(column), column.type.list_size)
    else:
        lengths = np.diff(column.offsets.to_numpy())
    wrong = lengths != d
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EmbedFilterError(
            f"{where}: expected lists of {d} numbers, found {lengths[row]} in row {first + row}"
        )
    values = column.flatten()
    if values.null_count:
        place = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise EmbedFilterError(f"{where}: expected numbers, found null in row {first + place // d}")
    matrix: NDArray[Any] = values.to_numpy(zero_copy_only=True).reshape(-1, d)
    return matrix
