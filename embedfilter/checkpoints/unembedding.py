"""The unembedding matrix of an open checkpoint."""

from __future__ import annotations

import hashlib
import operator
import threading
from typing import TYPE_CHECKING, Any

from embedfilter.arrays.limits import MAX_HIDDEN_SIZE
from embedfilter.checkpoints.encodings import decoded_itemsize
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from embedfilter.checkpoints.checkpoint import StoredRows
    from embedfilter.checkpoints.config import ModelFacts

__all__ = ["Unembedding", "head_shape"]

# Decoded bytes of a block: large beside the cost of a call, small beside the matrix.
_BLOCK_BYTES = 16 << 20
_RUN = 128


def head_shape(where: str, name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of an unembedding matrix after checking that it can be one.

    Parameters
    ----------
    where
        The file, for messages.
    name
        The tensor's name.
    shape
        Its shape.

    Returns
    -------
    tuple of int
        (V, d).
    """
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(
            f"{where}: tensor {shown(name)}: expected a matrix (vocabulary, hidden size), "
            f"found shape {shown(shape)}"
        )
    n_rows, n_columns = shape
    if n_rows < n_columns:
        raise CheckpointError(
            f"{where}: tensor {shown(name)}: expected (vocabulary, hidden size) with at least as "
            f"many rows as columns, found {n_rows} rows and {n_columns} columns; it may be "
            "transposed, or hold embeddings of texts"
        )
    if n_columns > MAX_HIDDEN_SIZE:
        raise CheckpointError(
            f"{where}: tensor {shown(name)}: expected a hidden size of at most {MAX_HIDDEN_SIZE}, "
            f"found {n_columns}"
        )
    return n_rows, n_columns


def _encodable(text: str) -> str:
    """Return text that encodes to UTF-8: lone surrogates become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class Unembedding:
    """The unembedding matrix W of a model, read in row blocks.

    Made by :func:`~embedfilter.checkpoints.open_unembedding`; close it, or use
    it in a ``with`` statement.

    Parameters
    ----------
    stored
        Where the rows are; closed with this object.
    source, name, shape, dtype, tied, reason, doubts, notes, bias
        The attributes of these names.
    facts
        What else is known of the model.

    Attributes
    ----------
    source : str
        The path as it was given, or "array". Bytes of it that are not UTF-8 are written as
        escapes, so that it can be stored anywhere; so are those of `name`.
    name : str
        The tensor's name, or "array".
    shape : tuple of int
        (V, d): rows of the vocabulary, hidden size.
    dtype : str
        The storage type as the format spells it, such as "BF16" or "Q6_K".
    tied : bool
        True when the input embedding serves because no separate head exists.
    reason : str
        One line that says how the tensor was chosen.
    doubts : tuple of str
        Why it may not be the model's unembedding matrix, and what to pass; warned of where a filter
        is fitted. Empty where it is known to be.
    notes : tuple of str
        What was applied to the rows, and what the model does to the logits that leaves singular
        directions as they are.
    bias : (V,) float32 or None
        What the model adds to the logits.
    revision : str or None
        The commit of a model on the Hub.
    fitted_for : str or None
        The model that the matrix is taken for, where that is another than its own.
    caution : str or None
        Why a filter may be of no use though the matrix is the right one; warned of as doubts are.
    """

    revision: str | None = None
    fitted_for: str | None = None
    caution: str | None = None

    def __init__(
        self,
        stored: StoredRows,
        *,
        source: str,
        name: str,
        shape: tuple[int, int],
        dtype: str,
        tied: bool,
        reason: str,
        facts: ModelFacts | None = None,
        doubts: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        bias: NDArray[np.float32] | None = None,
    ) -> None:
        self._stored = stored
        self._facts = facts
        self._fingerprint: str | None = None
        self._closed = False
        self._reading = threading.Lock()
        self.source = _encodable(source)
        self.name = _encodable(name)
        self.shape = shape
        self.dtype = dtype
        self.tied = tied
        self.reason = reason
        self.doubts = doubts
        self.notes = notes
        self.bias = bias

    def __repr__(self) -> str:
        return (
            f"Unembedding(source={self.source!r}, name={self.name!r}, "
            f"shape={self.shape}, dtype={self.dtype!r}, tied={self.tied})"
        )

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows `start` to `stop`, without `stop`.

        Parameters
        ----------
        start, stop
            Row numbers, 0 <= start <= stop <= V.

        Returns
        -------
        ndarray, shape (stop - start, d)
            C-contiguous and in native byte order; float32, float64, float16 or
            ``ml_dtypes.bfloat16`` as stored, float32 when the tensor is
            quantised. Rows of an array may be a read-only view of it.
        """
        return self._stored.decode(self.stored_rows(start, stop), start)

    def stored_rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the bytes of rows `start` to `stop` as they are stored, little-endian.

        Parameters
        ----------
        start, stop
            As in `rows`.

        Returns
        -------
        ndarray, shape (stop - start, row_bytes)
            The bytes, which `fingerprint` is taken of.
        """
        start, stop = operator.index(start), operator.index(stop)
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(
                f"rows: expected 0 <= start <= stop <= {self.shape[0]}, found {start} and {stop}"
            )
        self._check_open()
        return self._stored.read(start, stop)

    @property
    def n_tokens(self) -> int | None:
        """How many tokens the model's tokenizer has, or else its config states; None: unknown.

        The other rows are padding. Looked up in ``tokenizer.json`` when it is asked for.
        """
        return None if self._facts is None else self._facts.n_tokens()

    def blocks(self, n_rows: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Iterate over all rows in order.

        While one block is in use the next is read in the background; no more
        are held, so the memory needed does not grow with the matrix.

        Parameters
        ----------
        n_rows
            Rows of a block; by default about 16 MiB of decoded numbers.

        Returns
        -------
        iterator of (int, ndarray)
            The number of the block's first row, and its rows as from `rows`.
        """
        if n_rows is None:
            n_rows = self._default_block()
        n_rows = operator.index(n_rows)
        if n_rows < 1:
            raise ValueError(f"n_rows: expected at least 1, found {n_rows}")
        self._check_open()
        return self._iterate(n_rows)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the tensor's stored bytes, in hexadecimal.

        The bytes are read for it unless `blocks` has run to its end before. An
        array has the fingerprint of a safetensors tensor with the same numbers.
        """
        if self._fingerprint is None:
            self._check_open()
            digest = hashlib.sha256()
            n_rows = self._default_block()
            for start in range(0, self.shape[0], n_rows):
                raw = self._stored.read(start, min(start + n_rows, self.shape[0]))
                digest.update(raw.reshape(-1).data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def close(self) -> None:
        """Close the checkpoint; closing twice does nothing."""
        self._closed = True
        with self._reading:
            self._stored.close()

    def __enter__(self) -> Unembedding:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _iterate(self, n_rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (light import)

        digest = hashlib.sha256()

        def load(start: int) -> NDArray[Any]:
            with self._reading:
                self._check_open()
                raw = self._stored.read(start, min(start + n_rows, self.shape[0]))
                digest.update(raw.reshape(-1).data)
                return self._stored.decode(raw, start)

        # While the caller works on a block, the next is read, hashed and decoded.
        reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedfilter")
        at_end = False
        try:
            ahead = reader.submit(load, 0)
            for start in range(0, self.shape[0], n_rows):
                rows = ahead.result()
                if start + n_rows < self.shape[0]:
                    ahead = reader.submit(load, start + n_rows)
                yield start, rows
            at_end = True
        finally:
            # An iterator left before its end is not waited for here: the garbage collector may be
            # the one that ends it, in any thread, which may hold locks that the reader needs.
            # `close` waits for a block that is being read.
            reader.shutdown(wait=at_end, cancel_futures=True)
        self._fingerprint = digest.hexdigest()

    def _default_block(self) -> int:
        row_bytes = self.shape[1] * decoded_itemsize(self.dtype)
        n_rows = max(1, _BLOCK_BYTES // row_bytes)
        # Whole runs of rows, where there are any: kernels and decoding work in powers of two.
        return n_rows if n_rows < _RUN else n_rows - n_rows % _RUN

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.source}: the checkpoint is closed")
