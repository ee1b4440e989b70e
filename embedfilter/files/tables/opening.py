"""What a file, a folder, several files or standard input are, by their content, and opened."""

from __future__ import annotations

import io
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from embedfilter.errors import EmbedFilterError
from embedfilter.files.atomic import temporary_file
from embedfilter.files.endings import (
    ARROW,
    CSV,
    JSON_LINES,
    NPY,
    NPZ,
    PARQUET,
    SAFETENSORS,
    TORCH,
    TSV,
    inner_ending,
)
from embedfilter.files.messages import described
from embedfilter.files.tables.base import Part, Table, joined, refuse_key
from embedfilter.files.tables.delimited import DelimitedTable
from embedfilter.files.tables.matrices import open_input, open_numpy, open_safetensors, open_torch
from embedfilter.files.tables.records import JsonLines, Lines, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["STANDARD_INPUT", "is_pipe", "is_table", "open_lines", "open_table"]

STANDARD_INPUT = "standard input"
_READ_BY_ENDING = {
    "npy": NPY, "npz": NPZ, "parquet": PARQUET, "arrow": ARROW, "jsonl": JSON_LINES, "csv": CSV,
    "tsv": TSV, "pt": TORCH, "safetensors": SAFETENSORS,
}  # fmt: skip
_STARTS = {
    b"\x93NUMPY": "npy", b"PK\x03\x04": "npz", b"PK\x05\x06": "npz", b"PAR1": "parquet",
    b"ARROW1": "arrow", b"\xff\xff\xff\xff": "stream", b"FEA1": "feather1",
    b"PGCOPY\n\xff": "pgcopy",
}  # fmt: skip
# The end of a file, and the beginning of another.
_LARGEST_FOOTER = 1 << 28  # bytes
_JOINTS = {"parquet": (b"PAR1", b"PAR1"), "arrow": (b"ARROW1", b"ARROW1\0\0")}
_REFUSED = {
    "feather1": "a Feather file of version 1",
    "pgcopy": "PostgreSQL's binary COPY: COPY ... WITH (FORMAT csv, HEADER) makes text",
    "json": "one JSON value over the whole file: jq -c '.[]' makes lines of the items of a list",
}
_QUOTED = re.compile(rb'(?:^|(?<=[,;]))"(?:[^"]|"")*"(?=[,;\r]|$)')  # a cell of a .csv file
_PARTITION = re.compile(r"[^=._][^=]*=.")  # a folder's name, as Hive and Spark write it
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_START = 4096  # bytes that tell what a file is
_TEXT = ("jsonl", "csv", "tsv")
_STREAMED = ("stream", *_TEXT)
_ALL = (
    ".npy, .npz, .parquet, .arrow, .feather, .jsonl, .csv, .tsv, .pt or .safetensors"
    " (text perhaps .gz or .zst)"
)


def open_table(paths: Sequence[str | Path], key: str | None = None) -> Table:
    """Open a file, a folder of files, several files, or standard input for "-", as one table.

    Parameters
    ----------
    paths : sequence of str or Path
    key : str, optional
        The array or tensor, of files that hold several.

    Raises
    ------
    EmbedFilterError
        If a file is none that is read, or files differ in kind or columns.
    ImportError
        If a file needs a library that is not installed.
    OSError
        If there is no such file, or it cannot be read.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        is_folder = str(path) != "-" and path.is_dir()
        if is_folder and len(paths) == 1 and _is_partitioned(path):
            from embedfilter.files.tables import arrow  # noqa: PLC0415 - needs pyarrow

            refuse_key(str(path), key)
            return arrow.open_partitions(path, _partition_files(path))
        files += _files_of(path) if is_folder else [path]
    if len(files) == 1:
        return _open(files[0], key)
    for path in files:
        if str(path) == "-" or is_pipe(path):
            raise EmbedFilterError(
                f"{path}: expected {STANDARD_INPUT if str(path) == '-' else 'a pipe'} alone, found"
                f" {len(files) - 1} files beside it"
            )
    return _Several(files, key)


def open_lines(path: Path) -> Table:
    """Open a file with a text in each line, or standard input for "-"."""
    if str(path) == "-":
        return Lines(STANDARD_INPUT, _standard_input())
    if not is_pipe(path):
        open_input(path, str(path)).close()
    return Lines(str(path), path.open("rb"))


def is_table(path: Path) -> bool:
    """Tell whether a file of texts is a table, by its ending or its content; else it is lines."""
    if str(path) == "-":
        return False
    if path.is_dir() or _by_ending(path) is not None:
        return True
    if is_pipe(path):
        return False
    file = open_input(path, str(path))
    start = file.read(0, min(file.size, _START)).tobytes()
    file.close()
    return any(start.startswith(magic) for magic in _STARTS)


def is_pipe(path: Path) -> bool:
    """Tell whether a path is that of a pipe or a terminal, which is read once, as /dev/stdin is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _by_ending(path: Path) -> str | None:
    found = inner_ending(path)
    return next((kind for kind, endings in _READ_BY_ENDING.items() if found in endings), None)


def _files_of(folder: Path) -> list[Path]:
    """Return the files of embeddings in a folder, in the order of their numbers and names."""
    found = [path for path in folder.iterdir() if _is_embeddings(path)]
    if not found:
        raise EmbedFilterError(
            f"{folder}: not a regular file: expected one, found a folder"
            f" without files of embeddings: {_ALL}"
        )
    kinds = {_by_ending(path): path for path in found}
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise EmbedFilterError(
            f"{folder}: expected files of one kind, found {one.name} and {other.name}"
        )
    return sorted(found, key=lambda path: _natural(path.name))


def _is_embeddings(path: Path) -> bool:
    return path.is_file() and path.name[0] not in "._" and _by_ending(path) is not None


def _is_partitioned(folder: Path) -> bool:
    """Tell whether a folder's files are in folders named NAME=VALUE, and none beside them."""
    inside = sorted(folder.iterdir())
    parts = [path for path in inside if _PARTITION.match(path.name) and path.is_dir()]
    beside = [path for path in inside if _is_embeddings(path)]
    if parts and any(_by_ending(path) == "parquet" for path in beside):
        raise EmbedFilterError(
            f"{folder}: expected Parquet files in folders named NAME=VALUE, or files alone, found"
            f" {beside[0].name} beside {parts[0].name}"
        )
    return bool(parts) and not beside


def _partition_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder whose folders are named NAME=VALUE, in order."""
    found = [
        path
        for path in folder.rglob("*")
        if _is_embeddings(path)
        and _by_ending(path) == "parquet"
        and not any(part[0] in "._" for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise EmbedFilterError(
            f"{folder}: expected Parquet files in folders named NAME=VALUE, found none"
        )
    return sorted(found, key=lambda path: [_natural(part) for part in path.parts])


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.split(r"(\d+)", name)
    ]


def _open(path: Path, key: str | None) -> Table:
    if str(path) == "-":
        return _open_stream(_standard_input(), STANDARD_INPUT, None, key)
    where = str(path)
    if is_pipe(path):
        return _open_stream(path.open("rb"), where, _by_ending(path), key)
    file = open_input(path, where)
    start = file.read(0, min(file.size, _START)).tobytes()
    file.close()
    if start.startswith((_GZIP, _ZSTD)):
        stream = _decompressed(path, start, where)
        return _open_stream(stream, where, _by_ending(path), key, is_decompressed=True)
    kind = _kind(start, _by_ending(path))
    if kind in _TEXT:
        return _open_text(path.open("rb"), where, kind, key)
    return _open_file(path, where, kind, start, key)


def _kind(start: bytes, by_ending: str | None) -> str | None:
    """Return what a file is: by its content and, where that does not tell, by its ending."""
    for magic, kind in _STARTS.items():
        if start.startswith(magic):
            is_torch = by_ending == "pt" or re.match(rb"PK.{28}[^/]+/data\.pkl", start, re.DOTALL)
            return "pt" if kind == "npz" and is_torch else kind
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "safetensors"
    return by_ending or _text_kind(start.removeprefix(b"\xef\xbb\xbf").lstrip())


def _text_kind(text: bytes) -> str | None:
    """Return what a text is by its first line."""
    if re.match(rb"\[\s*[\[{]|\{\s*\n", text):
        return "json"
    if text.startswith(b"{"):
        return "jsonl"
    first = text.partition(b"\n")[0]
    if re.match(rb"[^\x00-\x08\x0e-\x1f]+$", first) and (b"," in first or b"\t" in first):
        is_list = re.match(rb"\[[-+.\deE, ]+\]?\r?$", first)  # one column, without quotes
        return "tsv" if is_list or b"\t" in _QUOTED.sub(b"", first) else "csv"
    return None


def _open_file(path: Path, where: str, kind: str | None, start: bytes, key: str | None) -> Table:
    if kind in ("npy", "npz"):
        return open_numpy(path, where, key)
    if kind == "safetensors":
        return open_safetensors(path, where, key)
    if kind == "pt":
        return open_torch(path, where, key)
    refuse_key(where, key)
    if kind in ("parquet", "arrow", "stream"):
        from embedfilter.files.tables import arrow  # noqa: PLC0415 - needs pyarrow

        if kind == "parquet":
            return arrow.open_parquet(path, where)
        return arrow.open_arrow(path, where, is_stream=kind == "stream")
    raise _unknown(where, kind, start)


def _unknown(where: str, kind: str | None, start: bytes) -> EmbedFilterError:
    found = _REFUSED.get(str(kind), described(start) if start else "no bytes")
    hint = ": 'embedfilter encode' makes embeddings of texts" if found.endswith("of text") else ""
    return EmbedFilterError(f"{where}: expected a file of embeddings, {_ALL}, found {found}{hint}")


def _open_text(stream: BinaryIO, where: str, kind: str, key: str | None) -> Table:
    refuse_key(where, key)
    return (
        JsonLines(where, stream)
        if kind == "jsonl"
        else DelimitedTable(where, stream, tabs=kind == "tsv")
    )


def _open_stream(
    stream: BinaryIO,
    where: str,
    by_ending: str | None,
    key: str | None,
    *,
    is_decompressed: bool = False,
) -> Table:
    """Open what can be read once, from its beginning to its end."""
    buffered = (
        stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, 1 << 20)  # type: ignore[type-var]
    )
    with reading(where):
        start = buffered.peek(_START)[:_START]
    if start.startswith((_GZIP, _ZSTD)):
        if is_decompressed:
            raise EmbedFilterError(f"{where}: expected data compressed once, found it twice")
        inner = _decompressed(buffered, start, where)
        return _open_stream(inner, where, by_ending, key, is_decompressed=True)
    kind = _kind(start, by_ending)
    if kind in _TEXT:
        return _open_text(buffered, where, str(kind), key)
    if kind == "stream":
        from embedfilter.files.tables import arrow  # noqa: PLC0415 - needs pyarrow

        refuse_key(where, key)
        return arrow.open_stream(buffered, where)
    if kind not in _READ_BY_ENDING:
        raise _unknown(where, kind, start)
    # What is not read from its beginning to its end goes through a file, gone once it is open.
    with temporary_file(is_named=True) as file:
        _copy(buffered, file, where, str(kind))
        file.flush()
        return _open_file(Path(file.name), where, kind, start, key)


def _copy(stream: BinaryIO, file: BinaryIO, where: str, kind: str) -> None:
    """Copy a stream to a file; raise for several files one after another: one would be read."""
    joint, last, n = b"".join(_JOINTS.get(kind, ())), b"", 0
    while True:
        with reading(where):
            block = stream.read(1 << 20)
        if not block:
            return
        file.write(block)
        if joint:
            seen = last + block
            for found in re.finditer(b"(?=%s)" % re.escape(joint), seen):
                if _ends_a_file(file, n - len(last) + found.start(), kind):
                    raise joined(where, f"{kind.capitalize()} file")
            last = seen[-len(joint) + 1 :]
            file.seek(0, io.SEEK_END)
        n += len(block)


def _ends_a_file(file: BinaryIO, place: int, kind: str) -> bool:
    """Tell whether the letters at a place end a file, not a text: a footer is before them."""
    from embedfilter.files.tables.arrow import is_footer  # noqa: PLC0415 - needs pyarrow

    file.seek(max(0, place - 4))
    length = int.from_bytes(file.read(4), "little")
    if not 0 < length <= min(place - 4, _LARGEST_FOOTER):
        return False
    file.seek(place - 4 - length)
    end, start = _JOINTS[kind]
    return is_footer(start + file.read(length + 4) + end, kind)


class _StandardInput(io.BufferedReader):
    """Standard input. It stays open: a thread may wait for it, and closing would wait for that."""

    def close(self) -> None:
        """Do nothing."""


def _standard_input() -> io.BufferedReader:
    try:
        raw: io.RawIOBase = io.FileIO(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError):  # none that the system knows
        raw = io.BytesIO(sys.stdin.buffer.read())  # type: ignore[assignment]
    return _StandardInput(raw, 1 << 20)


def _decompressed(source: Path | BinaryIO, start: bytes, where: str) -> BinaryIO:
    if start.startswith(_GZIP):
        import gzip  # noqa: PLC0415

        return gzip.open(source, "rb")  # type: ignore[return-value]
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(
            f'{where}: zstd needs pyarrow: pip install "embedfilter[arrow]"'
        ) from error
    return pa.CompressedInputStream(str(source) if isinstance(source, Path) else source, "zstd")  # type: ignore[no-any-return]


class _Several(Table):
    """Files of one kind and the same columns, one after another."""

    def __init__(self, files: list[Path], key: str | None) -> None:
        self._files, self._key = files, key
        self._wanted: str | None = None
        self.where = f"{files[0]} ... {files[-1].name}"
        counts: list[int | None] = []
        for file in files:  # what is wrong with one of them is found before the work
            with _open(file, key) as table:
                if file == files[0]:
                    self.format, self.width = table.format, table.width
                    self._names, self.schema = table.names, getattr(table, "schema", None)
                    self.codec = getattr(table, "codec", None)
                    self.has_header = getattr(table, "has_header", True)
                elif table.format != self.format:
                    raise EmbedFilterError(
                        f"{file}: expected a file like {files[0]}, {self.format}, found"
                        f" {table.format}"
                    )
                elif table.names != self._names or table.width != self.width:
                    raise EmbedFilterError(
                        f"{file}: expected the columns of {files[0]},"
                        f" {self.width or self._names}, found {table.width or table.names}"
                    )
                elif self.schema is not None:
                    from embedfilter.files.tables.arrow import common_schema  # noqa: PLC0415

                    mine: Any = table
                    self.schema = common_schema(self.schema, mine.schema, str(files[0]), str(file))
                if len(table.lead or ()) > 1:
                    raise EmbedFilterError(
                        f"{file}: expected a matrix (n, d), as there are several files, found shape"
                        f" {(*(table.lead or ()), table.width)}"
                    )
                counts.append(table.n_rows)
        self._common = self.schema
        known = [count for count in counts if count is not None]
        self.n_rows = sum(known) if len(known) == len(counts) else None

    @property
    def names(self) -> list[str]:
        """Those of each file."""
        return self._names

    def embedding_column(self, wanted: str | None) -> str | None:
        """Return the column of the first file, which all have."""
        with self._opened(self._files[0]) as table:
            self._wanted = table.embedding_column(wanted)
            self.wide, self.schema = table.wide, getattr(table, "schema", None)
        return self._wanted

    def _opened(self, file: Path) -> Table:
        table = _open(file, self._key)
        if self._common is not None:
            table.read_as(self._common)  # type: ignore[attr-defined]
        return table

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Iterate over the rows of all files."""
        for file in self._files:
            with self._opened(file) as table:
                if self._wanted is not None:
                    table.embedding_column(self._wanted)
                yield from table.parts(n_rows)

    def close(self) -> None:
        """Do nothing: files are open while they are read."""
