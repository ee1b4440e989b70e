"""EmbedFilter: the projection of embeddings on directions of an unembedding matrix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedfilter import _core
from embedfilter.arrays.embeddings import (
    as_embeddings,
    bad_rows_message,
    check_output,
    core_view,
    output_dtype,
    quantization,
)
from embedfilter.arrays.frozen import frozen
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import origin_of_width, source_name
from embedfilter.fitting.calibration import warn_of_length
from embedfilter.fitting.cuts import SpectrumError
from embedfilter.fitting.kinds import KINDS, resolve_n_components
from embedfilter.threads import resolve_n_threads

if TYPE_CHECKING:
    import os

    from embedfilter.fitting.calibration import SampleStatistics

__all__ = ["EmbedFilter", "as_filter"]


class EmbedFilter:
    """A filter for text embeddings, taken from a language model's unembedding matrix.

    Embeddings are projected on the middle of the matrix's spectrum: its *bulk*. The *edge*,
    the directions of the largest and the smallest singular values, which write frequent and
    uninformative tokens whatever the text says, is left out. Source: arXiv 2606.07502.

    Made by `from_checkpoint`, `from_matrix` or `load`, and from another filter by `truncate`
    or `calibrate`. A filter does not change.

    Attributes
    ----------
    components : (k, d) float32
        Orthonormal rows, in nested order: any first j of them are a filter of the same kind
        with j components. A calibrated filter's are orthogonal, but of unequal length.
    component_indices : (k,) int64
        The rank of each component among the singular values in descending order. Of a
        calibrated filter, whose components are mixtures of all that it came from, the first k
        of theirs.
    singular_values : (d,) float64
        All of them, descending.
    kind : str
        Which directions are kept; see `embedfilter.fitting.kinds.kept_directions`.
    metadata : mapping of str to str
        Where the filter comes from: source, revision (the commit of a model on the Hub),
        fitted_for (the model, where the head is another's), tensor, dtype, rows, fingerprint
        (SHA-256 of the tensor's bytes), evidence (why it was taken), applied and doubt (if any),
        accuracy (`fitting.cuts.Accuracy`), version (of the library). Of a calibrated filter also
        calibration_rows, _components, _whitening, _shrinkage, _length (root mean square of the
        sample's filtered rows), _sample (which words) and _prior, if any.
    mean : (d,) float32 or None
        Subtracted from embeddings before they are projected; None if not calibrated.
    ranges : (2, k) float32 or None
        Least and greatest value of each dimension of normalised filtered embeddings, for int8
        and uint8; None if not calibrated.
    """

    components: NDArray[np.float32]
    component_indices: NDArray[np.int64]
    singular_values: NDArray[np.float64]
    kind: str
    metadata: Mapping[str, str]
    mean: NDArray[np.float32] | None
    ranges: NDArray[np.float32] | None

    def __init__(
        self,
        components: NDArray[np.float32],
        component_indices: NDArray[np.int64],
        singular_values: NDArray[np.float64],
        *,
        kind: str,
        metadata: Mapping[str, str],
        mean: NDArray[np.float32] | None = None,
        ranges: NDArray[np.float32] | None = None,
    ) -> None:
        self.components = frozen(components, np.float32)
        self.component_indices = frozen(component_indices, np.int64)
        self.singular_values = frozen(singular_values, np.float64)
        self.kind = kind
        self.metadata = MappingProxyType(dict(metadata))
        self.mean = None if mean is None else frozen(mean, np.float32)
        self.ranges = None if ranges is None else frozen(ranges, np.float32)
        self._origin = origin_of_width(self.metadata)
        self._packed: tuple[str, _core.PackedFilter] | None = None

    # ---- Making a filter ----------------------------------------------------

    @classmethod
    def from_checkpoint(
        cls,
        source: Any,
        *,
        base: Any = None,
        ratio: float | None = None,
        n_components: int | None = None,
        kind: str = "edge",
        tensor: str | None = None,
        revision: str | None = None,
        n_threads: int | None = None,
        progress: bool = False,
    ) -> EmbedFilter:
        """Fit a filter to the unembedding matrix of a checkpoint.

        Parameters
        ----------
        source : path, open model or array
            A model's folder, a file (.safetensors, .gguf, .bin, .pt, .npy, .npz or the index of
            a sharded checkpoint), the id of a model on the Hugging Face Hub, "owner/name", an
            open torch model or a matrix.
        base : path, open model or array, optional
            Take the head of this model, which `source` was made of: for embedding models that
            were saved without their head. Of `source` the config is read, to compare sizes.
        ratio : number, optional
            Keep ``floor(d / ratio)`` of the d directions. 2 if `n_components` is not given
            either.
        n_components : int, optional
            Keep so many.
        kind : {"edge", "late", "head", "tail", "mid", "random", "identity"}
            "edge" cuts both edges of the spectrum alike, as the paper does; "late" cuts more
            at the large singular values: with few components, or to `calibrate`, it is better;
            "head" cuts the large singular values, "tail" the small ones, "mid" the middle;
            "random" keeps a random choice and "identity" all, to compare with.
        tensor : str, optional
            The tensor to take, where it cannot be found by name.
        revision : str, optional
            For a model on the Hub: a branch, a tag or a commit.
        n_threads : int, optional
            By default, as many as the process may use.
        progress : bool
            Show a progress bar on standard error.

        Raises
        ------
        CheckpointError
            If the source cannot be read, has no or several candidates for the unembedding
            matrix, or that matrix has no usable spectrum.
        TypeError, ValueError
            For wrong arguments.
        ImportError
            If the source needs a library that is not installed.
        """
        from embedfilter.checkpoints.base_head import open_for  # noqa: PLC0415 - light import
        from embedfilter.fitting.fit import fit  # noqa: PLC0415 - light import

        threads = resolve_n_threads(n_threads)
        with open_for(source, base, tensor=tensor, revision=revision) as W:
            k = resolve_n_components(W.shape[1], ratio=ratio, n_components=n_components, kind=kind)
            try:
                return cls(**fit(W, k, kind, n_threads=threads, progress=progress))
            except SpectrumError as error:
                if W.source == "array":
                    raise ValueError(f"source: {error}") from None
                raise CheckpointError(f"{W.source}: tensor '{W.name}': {error}") from None

    @classmethod
    def from_matrix(
        cls,
        W: ArrayLike,
        *,
        ratio: float | None = None,
        n_components: int | None = None,
        kind: str = "edge",
        n_threads: int | None = None,
    ) -> EmbedFilter:
        """Fit a filter to an unembedding matrix in memory.

        Parameters
        ----------
        W : (V, d) float16, bfloat16, float32 or float64
            One row for each token of the vocabulary. Not copied as a whole.
        ratio, n_components, kind, n_threads
            As in `from_checkpoint`.

        Raises
        ------
        TypeError, ValueError
            For wrong arguments; for NaN, infinity, or a rank too low for what is to be kept.

        Warns
        -----
        UserWarning
            If the kept subspace may be off by an angle of a sine over 1e-4, since it is cut
            between singular values that are equal or nearly so.
        """
        from embedfilter.checkpoints.formats.array import open_array  # noqa: PLC0415 - light import
        from embedfilter.fitting.fit import fit  # noqa: PLC0415 - light import

        threads = resolve_n_threads(n_threads)
        with open_array(W, argument="W") as matrix:
            k = resolve_n_components(
                matrix.shape[1], ratio=ratio, n_components=n_components, kind=kind
            )
            try:
                return cls(**fit(matrix, k, kind, n_threads=threads))
            except SpectrumError as error:
                raise ValueError(f"W: {error}") from None

    # ---- Applying it --------------------------------------------------------

    @property
    def n_components(self) -> int:
        """Width of what `transform` returns: k."""
        return int(self.components.shape[0])

    @property
    def n_features_in(self) -> int:
        """Width of the embeddings that `transform` takes: d."""
        return int(self.components.shape[1])

    def transform(
        self,
        X: ArrayLike,
        *,
        normalize: bool = True,
        precision: str = "float32",
        ranges: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """Filter embeddings.

        Parameters
        ----------
        X : (..., d) or (0,) array-like of float16, bfloat16, float32 or float64
            Embeddings from the model that the filter comes from: hidden states after its
            final norm, pooled or not, normalised or not. Torch tensors, frames, and columns of
            lists of pandas, polars and Arrow are taken: docs/arrays.md. float64 is rounded to
            float32, where numbers under 1e-45 are zero, after a calibrated filter's mean is taken
            off. To such a filter they must come as its sample did: normalised or not.
        normalize : bool
            Scale each row to unit length. A row of zeros stays zero, unless a calibrated
            filter's mean is subtracted from it.
        precision : {"float32", "float16", "bfloat16", "int8", "uint8", "ubinary"}
            The type of the result, as in sentence-transformers: int8 and uint8 spread each
            dimension's range over 256 levels, ubinary packs the signs of eight dimensions
            into a byte.
        ranges : (2, k) array-like, optional
            For int8 and uint8: least and greatest value of each dimension of the filtered
            embeddings. Needed unless the filter is calibrated and rows are normalised.
        out : array, optional
            Where to put the result: of its shape and dtype, C-contiguous, apart from `X`.
        n_threads : int, optional
            By default, as many as the process may use.

        Returns
        -------
        (..., k) array of the precision's dtype
            For "ubinary" ceil(k / 8) uint8 instead of k. A row's result is the same to the
            bit for every batch, number of threads and instruction set.

        Raises
        ------
        TypeError, ValueError
            For an `X` of another type or width, with NaN or infinity, other wrong arguments,
            or a result that does not fit its type, which needs huge numbers or, for float16,
            values over 65504 that are not normalised.
        """
        given, array = as_embeddings(X, self.n_features_in, origin=self._origin)
        if self.mean is not None:
            warn_of_length(self, array)
        dtype = output_dtype(precision)
        if ranges is None and normalize and precision in ("int8", "uint8"):
            ranges = self.ranges
        starts, steps = quantization(ranges, self.n_components, precision)
        width = -(-self.n_components // 8) if precision == "ubinary" else self.n_components
        shape = (*given.shape[:-1], width)
        out = np.empty(shape, dtype) if out is None else check_output(out, shape, dtype, given)
        result = out.reshape(array.shape[0], width)
        # The core would use one thread, so that none need be counted.
        small = array.shape[0] * self.components.size < _core.THREAD_WORK
        threads = 1 if small and n_threads is None else resolve_n_threads(n_threads)
        try:
            self._core_filter().project(
                core_view(array), core_view(result), precision, normalize, starts, steps, threads
            )
        except OverflowError as error:
            raise ValueError(
                f"X: expected numbers whose projection fits {precision}, found larger ones in"
                f" row {error.args[1]}"
            ) from None
        except ValueError as error:
            if len(error.args) != 3:  # not about a row
                raise
            raise ValueError(bad_rows_message(given)) from None
        return out

    __call__ = transform

    def inverse_transform(self, Y: ArrayLike) -> NDArray[np.float32]:
        """Bring filtered embeddings back into d dimensions: ``Y @ components``.

        What the filter has cut stays zero; of normalised rows the length is lost. Of a
        calibrated filter the scales are undone, and the mean is added, whole.

        Parameters
        ----------
        Y : (..., k) or (0,) array-like of float16, bfloat16, float32 or float64

        Returns
        -------
        (..., d) float32

        Raises
        ------
        TypeError, ValueError
            As `transform`.
        """
        given, array = as_embeddings(Y, self.n_components, name="Y")
        with np.errstate(all="ignore"):  # told below
            rows = array.astype(np.float32)
            if self.mean is None:
                result: NDArray[np.float32] = rows @ self.components
            else:
                squares = np.einsum("kd,kd->k", self.components, self.components)
                result = rows / squares @ self.components + self.mean
            finite = np.isfinite(result).all(axis=1)
            if not finite.all() and not np.isfinite(array).all():
                raise ValueError(bad_rows_message(given, "Y"))
        if not finite.all():
            raise ValueError(
                "Y: expected numbers that fit float32, and so their products, found larger ones"
                f" in row {int(np.argmin(finite))}"
            )
        return result.reshape(*given.shape[:-1], self.n_features_in)

    def truncate(self, n_components: int) -> EmbedFilter:
        """Return the filter of the first `n_components` components.

        It is what fitting with so many gives, since the components are in nested order, and warns
        where a new cut is not as exact as fitting would make it (see `from_matrix`). An
        "identity" filter becomes an "edge" filter. Of a calibrated filter the mean stays and
        the ranges are cut, and widened as normalising fewer numbers makes each of them larger.

        Raises
        ------
        TypeError, ValueError
            If `n_components` is not an integer from 1 to `self.n_components`, or so few are
            not determined by the matrix (see `from_matrix`).
        """
        from embedfilter.fitting.truncate import truncate  # noqa: PLC0415 - light import

        return EmbedFilter(**truncate(self.__getstate__(), n_components))

    # ---- Calibrating it -----------------------------------------------------

    def calibrate(
        self,
        X_sample: ArrayLike | SampleStatistics,
        *,
        n_components: int | None = None,
        whitening: float = 0.5,
        prior: ArrayLike | SampleStatistics | None = None,
        n_threads: int | None = None,
    ) -> EmbedFilter:
        """Return this filter fitted to a sample of embeddings, without labels.

        The sample's mean is subtracted, and the components are rotated to its principal axes
        inside what this filter keeps, and scaled to make their variances more alike. A few
        hundred rows are enough; mean and covariance are shrunk, so that a few dozen do no harm.
        What it is worth is in docs/calibration.md. Applying it costs what this one does.

        Parameters
        ----------
        X_sample : (n, d) array-like or SampleStatistics
            At least two embeddings, as `transform` takes them and of the kind that will be
            filtered: normalised or not, alike. `statistics` is for samples that are not in
            memory, `embedfilter.vocabulary_sample` makes one without texts.
        n_components : int, optional
            At most, and by default, `self.n_components`. Best cut from a filter of ratio 2.
        whitening : number from 0 to 1
            0 leaves the variances as they are (PCA), 1 makes them as alike as the floor allows.
        prior : (m, d) array-like or SampleStatistics, optional
            Embeddings of the model's words, to shrink mean and covariance towards.
        n_threads : int, optional
            By default, as many as the process may use.

        Returns
        -------
        EmbedFilter
            Its components are in nested order: the first j are this filter calibrated to j.

        Raises
        ------
        TypeError, ValueError
            For a sample that `transform` refuses, of fewer than two rows or without variance,
            other wrong arguments, or if this filter is calibrated already.
        """
        from embedfilter.fitting.calibration import calibrate  # noqa: PLC0415 - light import

        return EmbedFilter(**calibrate(self, X_sample, n_components, whitening, n_threads, prior))

    def statistics(self) -> SampleStatistics:
        """Begin the statistics of a sample that comes in parts: what `calibrate` needs.

        Raises
        ------
        ValueError
            If this filter is calibrated already.
        """
        from embedfilter.fitting.calibration import SampleStatistics  # noqa: PLC0415 - light import

        return SampleStatistics(self)

    # ---- Handing it to other libraries --------------------------------------

    def to_sentence_transformers(
        self, model: Any, out: str | os.PathLike[str] | None = None
    ) -> Any:
        """Put the filter into a model of sentence-transformers, as its last two modules.

        They are that library's own Dense (the components; the mean of a calibrated filter is in
        its bias) and Normalize, so that the model loads anywhere, without this package. Its
        embeddings are those of `transform`, except that a bias costs digits where the mean is far
        from 0 (a warning says how many). docs/sentence-transformers.md says how to cut them.

        Parameters
        ----------
        model : path, str or SentenceTransformer
            A model's folder, its id on the Hugging Face Hub, or an open model.
        out : path, optional
            A folder, new or empty, for the filtered model. Needed where `model` is a folder,
            which itself is left as it is. None appends the modules to the open model.

        Returns
        -------
        Path or SentenceTransformer
            `out`, or the open model, changed.

        Raises
        ------
        ValueError
            If the filter does not suit the model: embeddings of another size, or singular values
            more than 5 % off. Without a head, sizes are compared: docs/embedding-models.md.
        CheckpointError
            If the model's unembedding matrix cannot be read.
        OSError
            If `out` is there and not empty, or cannot be written.
        ImportError
            For an open model or an id, if sentence-transformers is not installed.
        """
        from embedfilter.integrations.sentence_transformers import add_filter  # noqa: PLC0415

        return add_filter(self, model, out)

    def to_faiss(self, index: Any = None) -> Any:
        """Put the filter in front of a faiss index: the whole takes embeddings as they are.

        faiss saves and reads it with the index, and applies it to what is added and searched,
        without this package. It takes float32 alone, and does not look for NaN.

        Parameters
        ----------
        index : faiss.Index, optional
            Over the filtered embeddings: of k dimensions, trained or not. By default
            ``faiss.IndexFlatIP(k)``, whose scores are cosines.

        Returns
        -------
        faiss.IndexPreTransform
            Of d dimensions: the centring, of a calibrated filter, the projection, the scaling to
            unit length, and `index`. `embedfilter.integrations.faiss.transforms`
            gives them without `index`.

        Raises
        ------
        TypeError, ValueError
            If `index` is no faiss index, or not of k dimensions.
        ImportError
            If faiss is not installed.
        """
        from embedfilter.integrations.faiss import to_faiss  # noqa: PLC0415 - an extra

        return to_faiss(self, index)

    def to_torch(self, *, normalize: bool = True) -> Any:
        """Return a torch module that does what `transform` does, on any device, with gradients.

        It is an `embedfilter.integrations.torch.FilterModule`, of (..., d) to (..., k) float32;
        scaled to unit length if `normalize`. Needs torch: an ImportError says so.
        """
        from embedfilter.integrations.torch import FilterModule  # noqa: PLC0415 - an extra

        return FilterModule(self, normalize=normalize)

    def to_onnx(self, path: str | os.PathLike[str], *, normalize: bool = True) -> None:
        """Write an ONNX model of operator set 18 that does what `transform` does.

        It takes ``embeddings``, (n, d) float32 of any n, and gives ``filtered``, (n, k) float32,
        scaled to unit length if `normalize`. NaN is not looked for.

        Raises
        ------
        OSError
            If the file cannot be written.
        ImportError
            If onnx is not installed.
        """
        from embedfilter.integrations.onnx import to_onnx  # noqa: PLC0415 - an extra

        to_onnx(self, path, normalize=normalize)

    # ---- Keeping it ---------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the filter to a safetensors file, which appears whole or not at all.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        from embedfilter.files.filter_file import write_filter  # noqa: PLC0415 - light import

        state = self.__getstate__()
        kind, metadata = state.pop("kind"), state.pop("metadata")
        arrays = {name: array for name, array in state.items() if array is not None}
        write_filter(Path(path), arrays, kind, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EmbedFilter:
        """Read a filter that `save` has written.

        Raises
        ------
        FilterFileError
            If the file is missing, damaged, not a filter or of a later format.
        """
        from embedfilter.files.filter_file import read_filter  # noqa: PLC0415 - light import

        return cls(**read_filter(Path(path), KINDS))

    def __getstate__(self) -> dict[str, Any]:
        # Arrays and strings only: no packed matrix, which the receiver makes anew.
        return {
            "components": self.components,
            "component_indices": self.component_indices,
            "singular_values": self.singular_values,
            "kind": self.kind,
            "metadata": dict(self.metadata),
            "mean": self.mean,
            "ranges": self.ranges,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        calibrated = "" if self.mean is None else " calibrated,"
        return (
            f"EmbedFilter({self.n_features_in} -> {self.n_components}, kind={self.kind!r},"
            f"{calibrated} source={source_name(self.metadata.get('source', '?'))!r})"
        )

    def _repr_html_(self) -> str:
        """Return the facts of the filter and a picture of its spectrum, for notebooks."""
        from embedfilter.integrations.jupyter import filter_html  # noqa: PLC0415 - notebooks only

        return filter_html(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EmbedFilter):
            return NotImplemented
        return self.kind == other.kind and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("components", "component_indices", "singular_values", "mean", "ranges")
        )

    __hash__ = None  # type: ignore[assignment]

    def _core_filter(self) -> _core.PackedFilter:
        # Two threads may both pack at first use; one of the two is then dropped.
        isa = _core.get_isa()
        if self._packed is None or self._packed[0] != isa:
            self._packed = isa, _core.PackedFilter(self.components, self.mean)
        return self._packed[1]


def as_filter(f: EmbedFilter | str | os.PathLike[str]) -> EmbedFilter:
    """Return a filter, or that of a file."""
    return f if isinstance(f, EmbedFilter) else EmbedFilter.load(f)
