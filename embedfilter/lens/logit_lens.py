"""The logit lens: vectors seen through a language model's unembedding matrix.

The logits of a vector x are W x, with the unembedding matrix W (V tokens, d), and of a model whose
head has a bias W x + b: how strongly x would make the model write each token. The lens names the
tokens with the largest ones, before and after a filter, and the bands of W's spectrum that they
come from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedfilter import _core
from embedfilter.arrays.columns import as_array
from embedfilter.arrays.embeddings import as_embeddings, bad_rows_message, core_view
from embedfilter.checkpoints import open_unembedding
from embedfilter.checkpoints.encodings import decoded_itemsize
from embedfilter.checkpoints.formats.array import open_array
from embedfilter.errors import CheckpointError, warn_user
from embedfilter.files.messages import source_name
from embedfilter.fitting.spectrum import Spectrum
from embedfilter.lens.spectroscopy import AverageToken, Spectroscopy, band_edges, checked_counts
from embedfilter.lens.top_tokens import TopTokens
from embedfilter.lens.vocabulary import Vocabulary, find_vocabulary, open_vocabulary
from embedfilter.threads import resolve_n_threads

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from embedfilter.checkpoints.unembedding import Unembedding
    from embedfilter.filter import EmbedFilter

__all__ = ["LogitLens"]

# Matrices up to this size, decoded, are kept in memory.
_KEPT_BYTES = 512 << 20
# Vectors that go through the matrix together, and the tokens kept for them.
_PASS_ROWS, _PASS_TOKENS = 4096, 1 << 25
# Of a vocabulary, against the rows of a matrix.
_MORE_TOKENS, _MOST_PADDING = 256, 0.05
# Rows that get their bias at a time: the matrix is not copied as a whole.
_BIASED_ROWS = 4096


class LogitLens:
    """A language model's unembedding matrix as a lens, and the bias of its head where it has one.

    A matrix up to 512 MiB is read at once and kept in memory. Of a larger one the file stays
    open, and is read at each call: close it, or use the lens in a ``with`` statement.

    Parameters
    ----------
    source : path or array
        As for `open_unembedding`: a checkpoint, or a matrix of shape (V, d).
    tensor, revision : str, optional
        As for `open_unembedding`.
    tokenizer : optional
        Where the tokens' texts come from: a ``tokenizer.json``, a GGUF file or the folder of
        either, a ``tokenizers.Tokenizer``, a fast tokenizer of transformers, or the texts in
        order. By default what comes with the checkpoint: the vocabulary inside a GGUF file, or
        the ``tokenizer.json`` in the folder (which needs the extra "lens"); but none for a model
        on the Hub. Without any, tokens are shown by their ids, as are those that it lacks.
    n_threads : int, optional
        By default, as many as the process may use.

    Attributes
    ----------
    vocabulary : Vocabulary or None
    matrix : Unembedding
        The matrix: name, shape, dtype, and how it was chosen.

    Raises
    ------
    CheckpointError
        If the checkpoint or the tokenizer cannot be read.
    ImportError
        If the checkpoint has a ``tokenizer.json``, and tokenizers is not installed.
    TypeError, ValueError
        For wrong arguments.
    """

    def __init__(
        self,
        source: Any,
        *,
        tensor: str | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
        n_threads: int | None = None,
    ) -> None:
        self._n_threads = resolve_n_threads(n_threads)
        # First: of what is no checkpoint that is told, not a tokenizer beside it that is damaged.
        self.matrix: Unembedding = open_unembedding(source, tensor=tensor, revision=revision)
        try:
            self.vocabulary: Vocabulary | None = (
                find_vocabulary(source) if tokenizer is None else open_vocabulary(tokenizer)
            )
        except BaseException:
            self.matrix.close()
            raise
        for doubt in self.matrix.doubts:
            warn_user(f"{self.matrix.source}: {doubt}")
        V, d = self.matrix.shape
        self._check_beside(V)
        self._rows = self.matrix  # where the rows come from
        small = V * d * decoded_itemsize(self.matrix.dtype) <= _KEPT_BYTES
        if small and self.matrix.source != "array":
            with self.matrix:
                self._rows = open_array(self.matrix.rows(0, V))

    def _check_beside(self, V: int) -> None:
        """Leave out, or tell of, the tokens of a file that may be of another model."""
        if self.vocabulary is None or not self.vocabulary.is_beside:
            return
        n, file = len(self.vocabulary), self.vocabulary.source
        # Matrices are padded; a tokenizer may know a few tokens more.
        if n - _MORE_TOKENS <= V <= n * (1 + _MOST_PADDING) + _MORE_TOKENS:
            warn_user(
                f"{self.matrix.source}: found no tokenizer.json, took the tokens of {file}, which"
                " may be of another model; tokenizer= names one"
            )
            return
        warn_user(
            f"{self.matrix.source}: found no tokenizer.json, and {n} tokens in {file} for {V} rows,"
            " which is of another model: tokens are shown by their ids; tokenizer= names one"
        )
        self.vocabulary = None

    def __repr__(self) -> str:
        V, d = self.matrix.shape
        return f"LogitLens({source_name(self.matrix.source)!r}, {V} tokens, {d} dimensions)"

    def close(self) -> None:
        """Close the checkpoint; closing twice does nothing."""
        self._rows.close()

    def __enter__(self) -> LogitLens:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- top tokens ---------------------------------------------------------

    def top_tokens(
        self,
        X: ArrayLike,
        k: int = 10,
        *,
        filter: EmbedFilter | str | os.PathLike[str] | None = None,  # noqa: A002 - its name everywhere else
        labels: Sequence[str] | None = None,
    ) -> TopTokens:
        """Find the tokens with the largest logits, W x + b.

        The head's bias b, ``matrix.bias``, is added wherever the model has one, with a filter
        too: it comes after the filter, which changes x alone. The n x V logits are never held:
        rows of the matrix pass by, and the best k stay.

        Parameters
        ----------
        X : (n, d), (d,) or (0,) array-like of float16, bfloat16, float32 or float64
            Embeddings from the matrix's model: hidden states after its final norm.
        k : int
            How many tokens, from 1 to V.
        filter : EmbedFilter or path, optional
            Look at what the filter keeps: at ``filter.inverse_transform`` of the filtered
            vectors, without a calibrated filter's mean. `X` may be filtered already, of width
            ``filter.n_components``; where that is d too, it counts as not filtered.
        labels : sequence of str, optional
            What the vectors are, such as their texts, to be shown beside the tokens.

        Returns
        -------
        TopTokens
            With n rows, of (d,) with one. A vector's result is the same to the bit for every
            batch and number of threads; equal logits are in order of the tokens' ids.

        Raises
        ------
        TypeError, ValueError
            For wrong arguments, NaN or infinity in `X`, and logits that float32 does not hold.
        CheckpointError
            If the matrix cannot be read, or has NaN or infinity.
        """
        V, _ = self.matrix.shape
        if isinstance(k, bool) or not isinstance(k, Integral):
            raise TypeError(f"k: expected an integer, found {k!r}")
        if not 1 <= k <= V:
            raise ValueError(f"k: expected from 1 to the {V} tokens there are, found {k}")
        vectors = self._lifted(X, filter)
        n = len(vectors)
        if labels is not None and len(labels) != n:
            raise ValueError(f"labels: expected one for each of {n} vectors, found {len(labels)}")
        ids, logits = np.empty((n, int(k)), np.int64), np.empty((n, int(k)), np.float32)
        step = max(1, min(_PASS_ROWS, _PASS_TOKENS // int(k)))
        for start in range(0, n, step):
            some = slice(start, start + step)
            self._find(vectors, some, ids[some], logits[some])
        return TopTokens(ids, logits, labels, self.vocabulary)

    def _find(
        self,
        vectors: NDArray[Any],
        some: slice,
        ids: NDArray[np.int64],
        logits: NDArray[np.float32],
    ) -> None:
        """Find the tokens of some vectors in one pass over the matrix."""
        bias, given = self.matrix.bias, vectors[some]
        if bias is not None:  # the core multiplies only: (W b) times (x 1)
            given = np.column_stack([given, np.ones(len(given), given.dtype)])
        try:
            search = _core.Lens(core_view(given), ids.shape[1])
        except OverflowError as error:
            row = some.start + error.args[1]
            raise ValueError(
                f"X: expected numbers that float32 holds, found larger ones in row {row}"
            ) from None
        except ValueError as error:
            if len(error.args) != 3:  # not about a row
                raise
            raise ValueError(bad_rows_message(vectors)) from None
        for start, rows in self._blocks() if bias is None else self._biased(bias):
            try:
                search.add(core_view(rows), self._n_threads)
            except (OverflowError, ValueError) as error:
                if len(error.args) != 3:
                    raise
                raise self._bad_row(start + error.args[1], error) from None
        search.finish(ids, logits)

    def _bad_row(self, row: int, error: Exception) -> Exception:
        """Return the exception for a row of the matrix that the search stopped at."""
        if isinstance(error, OverflowError):
            return ValueError(
                f"X: expected logits that float32 holds, found a larger one of token {row}"
            )
        message = f"expected finite numbers, found NaN or infinity in row {row}"
        if self.matrix.source == "array":
            return ValueError(f"source: {message}")
        return CheckpointError(f"{self.matrix.source}: tensor '{self.matrix.name}': {message}")

    def _lifted(
        self, X: ArrayLike, given: EmbedFilter | str | os.PathLike[str] | None
    ) -> NDArray[Any]:
        """Return vectors (n, d): as they are or, with a filter, what it keeps of them."""
        d = self.matrix.shape[1]
        origin = f", the hidden size of {self.matrix.source}"
        if given is None:
            return as_embeddings(X, d, origin=origin)[1]
        from embedfilter.filter import as_filter  # noqa: PLC0415 - light import

        f = as_filter(given)
        if f.n_features_in != d:
            raise ValueError(
                f"filter: expected one for {d} dimensions{origin}, found one for {f.n_features_in}"
            )
        X = as_array(X, "X")
        if not X.ndim or X.shape[-1] != f.n_components or f.n_components == d:
            X = f.transform(as_embeddings(X, d, origin=origin)[1], normalize=False)
        lifted = f.inverse_transform(X).reshape(-1, d)
        # A calibrated filter takes the sample's mean out of embeddings; it says nothing of them.
        return lifted if f.mean is None else lifted - f.mean

    # ---- spectroscopy -------------------------------------------------------

    def spectroscopy(
        self,
        X: ArrayLike,
        *,
        bands: int | Sequence[int] = 8,
        filter: EmbedFilter | str | os.PathLike[str] | None = None,  # noqa: A002 - as in top_tokens
        counts: ArrayLike | None = None,
    ) -> Spectroscopy:
        """Measure which bands of the matrix's spectrum vectors and their logits use.

        Logits are W x here: a bias is the same for every vector and lies in no band of W.
        Formulas and sources: see `embedfilter.lens.spectroscopy`.

        Parameters
        ----------
        X, filter
            As in `top_tokens`.
        bands : int or sequence of int
            How many bands of equal size, or their edges: ranks from 0 to d.
        counts : (V,) array-like, optional
            How often each token occurs in a corpus, as from `count_tokens`, for the average
            token and what frequent tokens are. Fewer than V: the rest do not occur. Without
            them the average token is the vocabulary's mean.

        Raises
        ------
        TypeError, ValueError, CheckpointError
            As `top_tokens`; and if the matrix has no usable spectrum.
        """
        edges = band_edges(bands, self.matrix.shape[1])
        vectors = self._lifted(X, filter)
        if not np.isfinite(vectors).all():
            raise ValueError(bad_rows_message(vectors))
        return Spectroscopy.of(vectors, self.spectrum, edges, self.average_token(counts))

    def average_token(self, counts: ArrayLike | None = None) -> AverageToken:
        """Find the vector that writes frequent tokens; see `spectroscopy`.

        Raises
        ------
        TypeError, ValueError
            For wrong counts.
        """
        V, _ = self.matrix.shape
        checked = None if counts is None else checked_counts(counts, V)
        return AverageToken.of(self._blocks(), self.spectrum, V, checked)

    def count_tokens(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Count the tokens of a corpus, for `spectroscopy`.

        Parameters
        ----------
        texts : iterable of str

        Returns
        -------
        (V,) int64

        Raises
        ------
        ValueError
            If there is no tokenizer that cuts texts: a ``tokenizer.json``, or a GGUF file's of
            the kind "gpt2", whose words are cut as GPT-2 does.
        ImportError
            If tokenizers is not installed.
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected several texts, found a str")
        if self.vocabulary is None:
            raise ValueError("tokenizer: expected one to count tokens, found none")
        return self.vocabulary.count(texts, self.matrix.shape[0])

    @functools.cached_property
    def spectrum(self) -> Spectrum:
        """The singular values and directions of the matrix."""
        return Spectrum.of(self._rows, n_threads=self._n_threads)

    def _blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Iterate over the rows with the number of the first: all at once if in memory."""
        if self._rows.source == "array":
            yield 0, self._rows.rows(0, self._rows.shape[0])
        else:
            yield from self._rows.blocks()

    def _biased(self, bias: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Iterate over the rows with the bias as one more column, exact: float32 at least."""
        for first, rows in self._blocks():
            dtype = np.float64 if rows.dtype == np.float64 else np.float32
            for begin in range(0, len(rows), _BIASED_ROWS):
                some = rows[begin : begin + _BIASED_ROWS]
                wide = np.empty((len(some), rows.shape[1] + 1), dtype)
                wide[:, :-1] = some
                wide[:, -1] = bias[first + begin : first + begin + len(some)]
                yield first + begin, wide
