"""Tables in Parquet and Arrow files and streams, a batch at a time.

A batch's list column is one flat array of numbers, so that it becomes a matrix without a copy.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from embedfilter.arrays.columns import arrow_rows, holds_floats
from embedfilter.errors import EmbedFilterError
from embedfilter.files.tables.base import Part, Table, joined
from embedfilter.files.tables.wide import spread

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError(
        'Parquet and Arrow files need pyarrow: pip install "embedfilter[arrow]"'
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "ArrowPart",
    "ArrowTable",
    "arrow_errors",
    "common_schema",
    "is_footer",
    "open_arrow",
    "open_parquet",
    "open_partitions",
    "open_stream",
]

_START = 4096  # bytes in which a stream's schema begins
_END_OF_STREAM = b"\xff\x00"  # what the mark of it is made of
_READ_BYTES = 4 << 20  # of a column at a time: a row group may be larger than memory


class ArrowPart(Part):
    """A batch of an Arrow table.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def array(self, column: str | None, name: str, first: int, d: int | None) -> NDArray[Any]:
        """Return a column of lists, without a copy."""
        return arrow_rows(self.batch.column(column), name, first, d)

    def values(self, column: str) -> list[Any]:
        """Return a column."""
        return list(self.batch.column(column).to_pylist())

    def records(self, without: str | None) -> list[dict[str, Any]]:
        """Return the rows."""
        batch, place = self.batch, -1
        if without is not None:
            place = batch.schema.get_field_index(without)
        if place >= 0:
            batch = batch.set_column(place, without, pa.nulls(batch.num_rows))
        return list(batch.to_pylist())


class ArrowTable(Table):
    """A file or stream of Arrow batches.

    Attributes
    ----------
    schema : pyarrow.Schema
    codec : str
        Of Parquet: how its columns are compressed.
    """

    def __init__(
        self,
        where: str,
        format: str,  # noqa: A002 - as in the base class
        schema: pa.Schema,
        stack: contextlib.ExitStack,
        *,
        n_rows: int | None = None,
        codec: str = "snappy",
    ) -> None:
        self.where, self.format, self.schema, self.codec = where, format, schema, codec
        self.n_rows = n_rows
        self._stack = stack
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if twice is not None:
            raise EmbedFilterError(
                f"{where}: expected columns of names that differ, found {twice!r} twice"
            )
        self._source: Any = None
        self._stream: Any = None  # what a stream of batches is read from
        self._read_as: pa.Schema | None = None

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return list(self.schema.names)

    def embedding_column(self, wanted: str | None) -> str:
        """Return the column of lists of floats."""
        lists = [field.name for field in self.schema if holds_floats(field.type)]
        if not lists and wanted not in self.names:
            numbers = [pa.types.is_floating(field.type) for field in self.schema]
            name, columns = spread(self.names, numbers, has_header=True)
            others = {*self.names[: columns.start], *self.names[columns.stop :]}
            are_numbers = bool(columns) and all(numbers[i] for i in columns)
            if are_numbers and wanted in (None, name) and name not in others:
                self._gather(name, columns)
                return name
        known = ", ".join(f"{field.name} ({field.type})" for field in self.schema) or "no columns"
        if wanted is None:
            if len(lists) != 1:
                found = ", ".join(lists) or f"none among {known}"
                raise EmbedFilterError(
                    f"{self.where}: expected one column of lists of floats, or --column with its"
                    f" name, found {found}"
                )
            return str(lists[0])
        if self.schema.get_field_index(wanted) < 0:
            raise EmbedFilterError(f"{self.where}: expected a column {wanted!r}, found {known}")
        if wanted not in lists:
            raise EmbedFilterError(
                f"{self.where}: column {wanted!r}: expected lists of float16, float32 or float64,"
                f" found {self.schema.field(wanted).type}"
            )
        return wanted

    def _gather(self, name: str, columns: range) -> None:
        """Take columns of numbers for one of lists, from now on."""
        fields = list(self.schema)
        types = [fields[i].type.to_pandas_dtype() for i in columns]
        item = pa.from_numpy_dtype(np.result_type(*types))
        fields[columns.start : columns.stop] = [pa.field(name, pa.list_(item, len(columns)))]
        self._wide_columns, self.wide = columns, True
        self.schema = pa.schema(fields, self.schema.metadata)

    def read_as(self, schema: pa.Schema) -> None:
        """Take columns for those of a schema of several files, of `common_schema`."""
        if not self.schema.equals(schema):
            self.schema = self._read_as = schema

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Iterate over the batches, none of more rows than asked for."""
        first = 0
        with arrow_errors(self.where):
            for batch in self._batches(n_rows):
                for start in range(0, batch.num_rows, n_rows):
                    part = batch.slice(start, n_rows)
                    if self._read_as is not None:
                        part = part.cast(self._read_as)
                    yield ArrowPart(self._gathered(part, first) if self.wide else part)
                    first += part.num_rows

    def _gathered(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """Return a batch with one column of lists for columns of numbers."""
        columns = self._wide_columns
        field = self.schema.field(columns.start)
        try:
            numbers = [
                arrow_rows(
                    batch.column(i), f"{self.where}: column {batch.schema.names[i]!r}", first
                )
                for i in columns
            ]
        except ValueError as error:
            raise EmbedFilterError(str(error)) from None
        flat = np.stack(numbers, axis=1).reshape(-1)
        arrays = list(batch.columns)
        arrays[columns.start : columns.stop] = [
            pa.FixedSizeListArray.from_arrays(pa.array(flat, field.type.value_type), len(columns))
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _batches(self, n_rows: int) -> Iterator[pa.RecordBatch]:
        if self.format == "parquet":
            return self._source.iter_batches(n_rows)  # type: ignore[no-any-return]
        if hasattr(self._source, "get_batch"):
            return (self._source.get_batch(i) for i in range(self._source.num_record_batches))
        return self._stream_batches()

    def _stream_batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._source
        # Who closes a writer twice writes the mark of the end twice.
        if self._stream.read(_START).strip(_END_OF_STREAM):
            raise joined(self.where, "Arrow stream")

    def close(self) -> None:
        """Close the file."""
        self._stack.close()


@contextlib.contextmanager
def arrow_errors(where: str) -> Iterator[None]:
    """Name the file in what pyarrow says of it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # the system's, not pyarrow's own
            raise
        raise EmbedFilterError(f"{where}: {' '.join(str(error).splitlines())}") from None


def common_schema(schema: pa.Schema, other: pa.Schema, where: str, of_other: str) -> pa.Schema:
    """Return one schema for files of the same columns, which may be nulls alone in some.

    Raises
    ------
    EmbedFilterError
        If the types of a column differ otherwise.
    """
    if schema.equals(other):
        return schema
    fields = []
    for mine, its in zip(schema, other, strict=True):
        try:
            fields.append(pa.unify_schemas([pa.schema([mine]), pa.schema([its])]).field(0))
        except pa.ArrowException:
            raise EmbedFilterError(
                f"{of_other}: column {its.name!r}: expected {mine.type}, as in {where}, found"
                f" {its.type}"
            ) from None
    return pa.schema(fields, schema.metadata)


def open_parquet(path: Path, where: str) -> ArrowTable:
    """Open a Parquet file."""
    with contextlib.ExitStack() as stack, arrow_errors(where):
        file = stack.enter_context(pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False))
        codec = "snappy"
        if file.metadata.num_row_groups and file.metadata.num_columns:
            codec = file.metadata.row_group(0).column(0).compression.lower()
        table = ArrowTable(
            where, "parquet", file.schema_arrow, stack.pop_all(),
            n_rows=file.metadata.num_rows,
            codec="none" if codec == "uncompressed" else codec,
        )  # fmt: skip
    table._source = file
    return table


def open_partitions(folder: Path, files: list[Path]) -> ArrowTable:
    """Open Parquet files in folders named NAME=VALUE, which become columns, too.

    Raises
    ------
    EmbedFilterError
        If the files' columns differ: the data set would have those of the first file only.
    """
    import pyarrow.dataset as ds  # noqa: PLC0415 - takes a moment to load

    where = str(folder)
    with arrow_errors(where):
        dataset = ds.dataset(
            [str(path) for path in files],
            format="parquet",
            partitioning=ds.partitioning(flavor="hive"),
            partition_base_dir=where,
        )
        fragments = list(dataset.get_fragments())
        first = fragments[0].physical_schema
        schema = first
        for fragment in fragments:
            names = fragment.physical_schema.names
            if names != first.names:
                raise EmbedFilterError(
                    f"{fragment.path}: expected the columns of {fragments[0].path},"
                    f" {first.names}, found {names}"
                )
            schema = common_schema(
                schema, fragment.physical_schema, fragments[0].path, fragment.path
            )
        named = [field for field in dataset.schema if field.name not in first.names]
        dataset = dataset.replace_schema(pa.schema([*schema, *named], dataset.schema.metadata))
        n_rows = dataset.count_rows()
        table = ArrowTable(where, "parquet", dataset.schema, contextlib.ExitStack(), n_rows=n_rows)
    table._source = _Partitions(dataset)
    return table


class _Partitions:
    """A dataset, read as a Parquet file is."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def iter_batches(self, n_rows: int) -> Iterator[pa.RecordBatch]:
        """Iterate over the rows, file by file, with little read ahead of them."""
        return self._dataset.to_batches(  # type: ignore[no-any-return]
            batch_size=n_rows, batch_readahead=1, fragment_readahead=1
        )


def open_arrow(path: Path, where: str, *, is_stream: bool) -> ArrowTable:
    """Open an Arrow file, or a file that holds a stream."""
    with contextlib.ExitStack() as stack, arrow_errors(where):
        mapped = stack.enter_context(pa.memory_map(str(path)))
        reader = stack.enter_context(
            (pa.ipc.open_stream if is_stream else pa.ipc.open_file)(mapped)
        )
        table = ArrowTable(where, "arrow", reader.schema, stack.pop_all())
    table._source, table._stream = reader, mapped
    return table


def is_footer(whole: bytes, kind: str) -> bool:
    """Tell whether this would be a Parquet file, or an Arrow file, but for its rows."""
    try:
        if kind == "parquet":
            pq.read_metadata(io.BytesIO(whole))
        else:
            pa.ipc.open_file(whole)
    except (OSError, ValueError, pa.ArrowException):
        return False
    return True


def open_stream(stream: BinaryIO, where: str) -> ArrowTable:
    """Open a stream of Arrow batches."""
    with contextlib.ExitStack() as stack, arrow_errors(where):
        reader = stack.enter_context(pa.ipc.open_stream(stream))
        table = ArrowTable(where, "arrow", reader.schema, stack.pop_all())
    table._source, table._stream = reader, stream
    return table
