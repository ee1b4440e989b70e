"""Tables written as Parquet and Arrow files and streams."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from embedfilter.errors import EmbedFilterError
from embedfilter.files.tables.arrow import ArrowPart, arrow_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedfilter.files.tables.base import Layout, Part

__all__ = ["ArrowOutput", "pa"]

_GROUP_BYTES = 8 << 20  # of a row group of Parquet, which is in memory whole


class ArrowOutput:
    """A Parquet or Arrow file, or a stream of Arrow batches, with the other columns of a table.

    Parameters
    ----------
    target : binary file
    format : {"parquet", "arrow"}
    layout : Layout
    is_stream : bool
        Whether "arrow" is a stream.
    """

    def __init__(self, target: BinaryIO, format: str, layout: Layout, is_stream: bool) -> None:  # noqa: A002
        if layout.dtype.name == "bfloat16":
            raise EmbedFilterError(
                f"--precision: expected a type that {format} has, found bfloat16"
            )
        self._target, self._format, self._layout = target, format, layout
        self._is_stream = is_stream
        self._type = pa.list_(pa.from_numpy_dtype(layout.dtype), layout.width)
        self._writer: Any = None
        self._is_finished = False  # a stream that is closed twice has two ends
        self._waiting: list[pa.RecordBatch] = []  # of Parquet: less than a row group
        self._n_waiting = 0  # bytes
        self._dictionaries: dict[str, pa.Array] = {}
        schema = getattr(layout.table, "schema", None)
        if schema is not None:
            self._open(schema)

    def write(self, part: Part, rows: NDArray[Any]) -> None:
        """Write rows, with the part's other columns."""
        name = self._layout.column
        batch = part.batch if isinstance(part, ArrowPart) else self._from_records(part)
        if self._writer is None:
            self._open(batch.schema)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self._layout.width)
        columns = {field.name: batch.column(i) for i, field in enumerate(batch.schema)}
        columns[name] = lists
        arrays = [self._unified(field, columns[field.name]) for field in self._schema]
        with arrow_errors(self._layout.table.where):
            self._write(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._format == "arrow":
            self._writer.write_batch(batch)
            return
        self._waiting.append(batch)
        # Dictionaries are those of all batches.
        own = (column for column in batch.columns if not pa.types.is_dictionary(column.type))
        self._n_waiting += sum(column.nbytes for column in own)
        if self._n_waiting >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._waiting, self._n_waiting = [], 0

    def finish(self) -> None:
        """Write what comes last."""
        if self._writer is None:  # no rows
            self._open(pa.schema([]))
        with arrow_errors(self._layout.table.where):
            self._write_group()
        self._is_finished = True
        self._writer.close()

    def close(self) -> None:
        """Let go of the file, finished or not."""
        # What goes wrong here after an error, such as a full disk, has been told.
        with contextlib.suppress(OSError, pa.ArrowException):
            if self._writer is not None and not self._is_finished:
                self._writer.close()

    def _open(self, schema: pa.Schema) -> None:
        name = self._layout.column
        schema = _with_length(schema, self._layout.table.n_rows)
        place, field = schema.get_field_index(name), pa.field(name, self._type)
        self._schema = schema.append(field) if place < 0 else schema.set(place, field)
        if self._format == "parquet":
            # Hardly two embeddings are equal: to look for those that are costs more than writing.
            others = [field.name for field in schema if field.name != name]
            codec = getattr(self._layout.table, "codec", None) or "snappy"
            self._writer = pq.ParquetWriter(
                self._target, self._schema, compression=codec, use_dictionary=others
            )
            return
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        new = pa.ipc.new_stream if self._is_stream else pa.ipc.new_file
        self._writer = new(self._target, self._schema, options=options)

    def _from_records(self, part: Part) -> pa.RecordBatch:
        """Return a part's other columns; their types are those of its first rows."""
        name, records = self._layout.column, part.records(self._layout.column)
        columns: dict[str, Any] = {}
        schema: pa.Schema | None = None if self._writer is None else self._schema
        for key in dict.fromkeys(key for row in records for key in row):
            if key == name:
                columns[key] = pa.nulls(len(records), self._type)
                continue
            if schema is not None and schema.get_field_index(key) < 0:
                raise EmbedFilterError(
                    f"{self._layout.table.where}: expected the keys of the first rows, found"
                    f" {key!r}, for which {self._format} would need a column from the first row on"
                )
            type_ = None if schema is None else schema.field(key).type
            try:
                columns[key] = pa.array([row.get(key) for row in records], type_)
            except (pa.ArrowException, OverflowError) as error:
                kind = "one type" if type_ is None else f"{type_}, as in the first rows"
                raise EmbedFilterError(
                    f"{self._layout.table.where}: column {key!r}: expected values of {kind}:"
                    f" {' '.join(str(error).splitlines())}"
                ) from None
            if type_ is None and pa.types.is_null(columns[key].type):
                columns[key] = columns[key].cast(pa.string())
        for key in self._schema.names if self._writer is not None else ():
            if key not in columns:
                columns[key] = pa.nulls(len(records), self._schema.field(key).type)
        return pa.RecordBatch.from_pydict(columns) if columns else _no_columns(len(records))

    def _unified(self, field: pa.Field, column: pa.Array) -> pa.Array:
        """Return a column of categories by one dictionary for all batches, which only grows."""
        if self._format == "parquet" or not pa.types.is_dictionary(field.type):
            return column
        import pyarrow.compute as pc  # noqa: PLC0415

        known = self._dictionaries.get(field.name, column.dictionary)
        new = column.dictionary.filter(pc.invert(pc.is_in(column.dictionary, value_set=known)))
        known = pa.concat_arrays([known, new])
        self._dictionaries[field.name] = known
        places = pc.index_in(column.dictionary, value_set=known)
        with arrow_errors(f"{self._layout.table.where}: column {field.name!r}"):
            indices = places.take(column.indices).cast(field.type.index_type)
            return pa.DictionaryArray.from_arrays(indices, known, ordered=field.type.ordered)


def _with_length(schema: pa.Schema, n_rows: int | None) -> pa.Schema:
    """Return a schema whose range of pandas' index is as long as all rows: the first file's was.

    pandas drops an index, and its name, whose length is not that of the table. What pandas would
    not have written stays as it is.
    """
    metadata = schema.metadata or {}
    if n_rows is None or b"pandas" not in metadata:
        return schema
    try:
        told = json.loads(metadata[b"pandas"])
        ranges = [
            index
            for index in told["index_columns"]
            if isinstance(index, dict) and index["kind"] == "range"
        ]
        steps = [(index["start"], index["step"]) for index in ranges]
    except (ValueError, TypeError, KeyError):
        return schema
    if not all(type(number) is int for step in steps for number in step):
        return schema
    for index, (start, step) in zip(ranges, steps, strict=True):
        index["stop"] = start + n_rows * step
    return schema.with_metadata({**metadata, b"pandas": json.dumps(told).encode()})


def _no_columns(n_rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_struct_array(pa.array([{}] * n_rows, pa.struct([])))
