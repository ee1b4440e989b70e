"""A filter inside a model of sentence-transformers: a stock Dense layer, then Normalize.

Both are modules of sentence-transformers itself, so that the model loads with no flag and where
this package is not installed. A folder is changed without that library, or torch: the filter's
matrix becomes one more safetensors file, and ``modules.json`` two entries longer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfilter.checkpoints import open_unembedding
from embedfilter.checkpoints.base_head import check_vocabularies
from embedfilter.checkpoints.opening import read_facts
from embedfilter.checkpoints.sentence_transformers import FILTER, MODULES, read_modules
from embedfilter.errors import HeadError, warn_user
from embedfilter.files.folder import Folder
from embedfilter.files.json_file import read_json
from embedfilter.fitting.calibration import are_alike, calibrated_length, is_unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedfilter.checkpoints.unembedding import Unembedding
    from embedfilter.filter import EmbedFilter

__all__ = ["add_filter", "append_filter", "check_matrix"]

_MAX_CONFIG = 1 << 20
# Every version knows these paths; those since 5.4 redirect them, and write the others themselves,
# which servers look for in vain: vLLM would leave out the pooling and the filter, without a word.
_DENSE, _NORMALIZE = "sentence_transformers.models.Dense", "sentence_transformers.models.Normalize"
_POOLING = "sentence_transformers.models.Pooling"
_KNOWN = {
    "sentence_transformers.base.modules.transformer.Transformer": (
        "sentence_transformers.models.Transformer"
    ),
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling": _POOLING,
    "sentence_transformers.base.modules.dense.Dense": _DENSE,
    "sentence_transformers.base.modules.normalize.Normalize": _NORMALIZE,
    "sentence_transformers.sentence_transformer.modules.normalize.Normalize": _NORMALIZE,
}
# How a Pooling says what it does: a flag for each mode before 5.4, and since then its name, which
# servers of before do not read: Text Embeddings Inference stops, vLLM takes its own pooling.
_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_IDENTITY = "torch.nn.modules.linear.Identity"
# How far a model's matrix may be from the one the filter was fitted to: fine-tuning moves it by
# less, and another model's of the same width is elsewhere altogether.
_NEAR = 0.05
_N_COMPARED = 16
# Of a float32 product, relative to the part of the mean in it (measured: 2.5e-7 to 3e-7); and
# what is warned of.
_ROUNDING_OF_DENSE, _LARGEST_ERROR = 3e-7, 1e-3


def add_filter(f: EmbedFilter, model: Any, out: str | os.PathLike[str] | None) -> Any:
    """Add a filter to a model; see `EmbedFilter.to_sentence_transformers`."""
    if isinstance(model, (str, os.PathLike)) and Path(model).is_dir():
        if out is None:
            raise ValueError(f"out: expected a folder for the changed copy of {model}, found None")
        with _new_folder(Path(out)) as folder:
            _check_folder(f, Path(model))
            shutil.copytree(model, folder, dirs_exist_ok=True)
            _extend_folder(f, folder)
        return Path(out)
    opened = _opened(model)
    _check_model(f, opened, str(model) if isinstance(model, (str, os.PathLike)) else "model")
    if out is None:
        append_filter(f, opened)
        return opened
    with _new_folder(Path(out)) as folder:
        opened.save_pretrained(str(folder))
        _extend_folder(f, folder)
    return Path(out)


# ---- Does the filter suit the model? ---------------------------------------------------------


def _check_folder(f: EmbedFilter, folder: Path) -> None:
    if not (folder / MODULES).is_file():
        raise ValueError(
            f"{folder}: expected a model of sentence-transformers, with {MODULES}, found none;"
            ' for a language model use embedfilter.encoder(model, template="mean")'
        )
    width = None
    for kind, path, name, _ in read_modules(Folder(folder)):
        if name == FILTER:
            raise _has_a_filter(str(folder))
        inner = Folder(folder / path)
        if kind == "Dense" and inner.has("config.json"):
            config = read_json(inner.open("config.json"), "the module's config", limit=_MAX_CONFIG)
            width = config.get("out_features")
    check_matrix(f, folder, str(folder), width)


def _check_model(f: EmbedFilter, model: Any, name: str) -> None:
    if any(known == FILTER for known, _ in model.named_children()):
        raise _has_a_filter(name)
    ask = getattr(model, "get_embedding_dimension", None)  # since 5.4
    width = ask() if ask is not None else model.get_sentence_embedding_dimension()
    check_matrix(f, model, name, width)


def _has_a_filter(name: str) -> ValueError:
    return ValueError(
        f"{name}: expected a model without a filter, found one that has its filter: take the model"
        " that it was made of"
    )


def check_matrix(
    f: EmbedFilter,
    source: Any,
    name: str,
    width: int | None = None,
    *,
    revision: str | None = None,
) -> None:
    """Raise unless the filter was fitted, about, to the model's unembedding matrix.

    `width` is that of the model's embeddings, where it may be another than the matrix's.
    A model whose own matrix is not known to be its head, as it was saved for embedding texts, or
    has none that can be read, is compared by its sizes alone: the filter should come from the head
    of the model that it was made of.
    """
    try:
        W = open_unembedding(source, revision=revision)
    except HeadError:
        _check_sizes(f, source, name, width, revision)
    else:
        with W:
            d = W.shape[1] if width is None else width
            if d != f.n_features_in or W.shape[1] != f.n_features_in:
                raise _other_width(f, name, d)
            if W.doubts:
                _check_vocabulary(f, (W.shape[0],), name)
            else:
                _check_values(f, W, name)
    if f.metadata.get("doubt"):
        warn_user(
            f"{name}: the filter was fitted to a matrix that is in doubt: {f.metadata['doubt']}"
        )


def _other_width(f: EmbedFilter, name: str, d: int) -> ValueError:
    return ValueError(
        f"{name}: expected embeddings of the {f.n_features_in} dimensions that the filter"
        f" takes, found {d}"
    )


def _check_sizes(
    f: EmbedFilter, source: Any, name: str, width: int | None, revision: str | None
) -> None:
    """Compare what is known without the matrix: the widths, and the vocabularies."""
    is_path = isinstance(source, (str, os.PathLike))
    facts = read_facts(source, revision=revision) if is_path else None
    sizes = () if facts is None else facts.hidden_sizes
    wanted = sizes if width is None else (width,)
    if wanted and f.n_features_in not in wanted:
        raise _other_width(f, name, wanted[0])
    if facts is not None and facts.vocab_sizes:
        _check_vocabulary(f, facts.vocab_sizes, name)


def _check_vocabulary(f: EmbedFilter, sizes: tuple[int, ...], name: str) -> None:
    rows = f.metadata.get("rows", "")
    if rows.isdecimal():
        origin = f"the filter's matrix ({f.metadata.get('source', 'unknown')})"
        check_vocabularies(int(rows), origin, sizes, name)


def _check_values(f: EmbedFilter, W: Unembedding, name: str) -> None:
    """Compare the matrix itself.

    It tells by its sum of squares, which is that of its singular values, and by the length of
    ``W v`` for components v, which is their singular value.
    """
    some = slice(None, None, -(-f.n_components // _N_COMPARED))
    components = f.components[some].T.astype(np.float64)
    squares, energy = np.zeros(components.shape[1]), 0.0
    for _, rows in W.blocks():
        wide = rows.astype(np.float32)
        squares += np.square(wide @ components).sum(axis=0)
        energy += float(np.sum(np.square(wide), dtype=np.float64))
    expected = float(np.square(f.singular_values).sum())
    far = abs(energy / expected - 1)
    if f.mean is None:  # a calibrated filter's components are mixtures
        sigma = f.singular_values[f.component_indices[some]]
        far = max(far, float(np.abs(np.sqrt(squares) / sigma - 1).max()))
    if not far <= _NEAR:
        origin = f.metadata.get("source", "another matrix")
        raise ValueError(
            f"{name}: expected the model that the filter was fitted to ({origin}), found one with"
            f" another unembedding matrix, its singular values off by {far:.0%}"
        )


# ---- The two modules -------------------------------------------------------------------------


def _warn_of_unit_rows(f: EmbedFilter, name: str) -> None:
    """Warn of a filter that was calibrated on other rows than a model's, of unit length."""
    length = calibrated_length(f)
    if length is not None and not are_alike(length, 1.0):
        warn_user(
            f"{name}: its embeddings have unit length before the filter, which was calibrated on"
            f" rows of a length of about {length:.2g}: calibrate it on rows of unit length"
        )


def _extend_folder(f: EmbedFilter, folder: Path) -> None:
    """Write the modules' folders, and name them in modules.json."""
    from safetensors.numpy import save_file  # noqa: PLC0415 - only where a file is written

    listed = folder / MODULES
    modules = json.loads(listed.read_text(encoding="utf-8"))
    if modules and modules[-1]["type"].endswith(".Normalize"):
        _warn_of_unit_rows(f, "model")
    for module in modules:
        module["type"] = _KNOWN.get(module["type"], module["type"])
        if module["type"] == _POOLING:
            _spell_out(folder / module["path"] / "config.json")
    number = len(modules)
    dense, normalize = f"{number}_Dense", f"{number + 1}_Normalize"
    bias = _bias(f)
    config = {
        "in_features": f.n_features_in,
        "out_features": f.n_components,
        "bias": bias is not None,
        "activation_function": _IDENTITY,
    }
    (folder / dense).mkdir()
    (folder / normalize).mkdir()
    (folder / dense / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    tensors = {"linear.weight": f.components} | ({} if bias is None else {"linear.bias": bias})
    save_file(tensors, folder / dense / "model.safetensors")
    added = (FILTER, dense, _DENSE), (str(number + 1), normalize, _NORMALIZE)
    for i, (name, path, kind) in enumerate(added, number):
        modules.append({"idx": i, "name": name, "path": path, "type": kind})
    listed.write_text(json.dumps(modules, indent=2), encoding="utf-8")


def _spell_out(config: Path) -> None:
    """Write a Pooling's config with a flag for each mode, which every version reads."""
    found = json.loads(config.read_text(encoding="utf-8"))
    if "pooling_mode" not in found:
        return
    mode = found["pooling_mode"]
    modes = [mode] if isinstance(mode, str) else mode
    if list(modes) != [name for name in _POOLING_FLAGS if name in modes]:
        return  # flags have an order of their own
    del found["pooling_mode"]
    spelt = {"word_embedding_dimension": found.pop("embedding_dimension")}
    spelt |= {flag: name in modes for name, flag in _POOLING_FLAGS.items()}
    config.write_text(json.dumps(spelt | found, indent=2), encoding="utf-8")


def _bias(f: EmbedFilter, eps: float = 2.0**-23) -> NDArray[np.float32] | None:
    """Return what Dense adds to ``X @ components.T``, (k,); None of a filter without a mean.

    Dense cannot subtract first, as `EmbedFilter.transform` does. Folded into a bias, in float64,
    the mean is taken off after the product, whose float32 rounding then counts beside what is
    left: a relative error of 3e-7 times the mean over the deviation of the embeddings (measured by
    benchmarks/accuracy.py; of float16 and bfloat16 models, whose `eps` is larger, 8000 and 65000
    times as much).

    Warns
    -----
    UserWarning
        If that is more than 1e-3.
    """
    if f.mean is None:
        return None
    mean, components = f.mean.astype(np.float64), f.components.astype(np.float64)
    length = float(f.metadata.get("calibration_length", "inf"))  # of what is left, filtered
    of_mean = np.linalg.norm(mean) * np.linalg.norm(components) / np.sqrt(len(mean))
    error = _ROUNDING_OF_DENSE * eps * 2.0**23 * float(of_mean) / length
    if error > _LARGEST_ERROR:
        warn_user(
            f"the mean of the embeddings is {of_mean / length:.2g} times what they differ by: Dense"
            f" subtracts it after its product, with a relative error of about {error:.1g};"
            " `transform`, and faiss, have none"
        )
    return np.asarray(-components @ mean, np.float32)


def append_filter(f: EmbedFilter, model: Any, *, normalize: bool = True) -> None:
    """Append a Dense module and, where asked for, Normalize to an open model, unchecked."""
    import torch  # noqa: PLC0415 - an extra

    try:
        from sentence_transformers.base.modules import Dense, Normalize  # noqa: PLC0415
    except ImportError:  # before 6.0
        from sentence_transformers.models import Dense, Normalize  # noqa: PLC0415
    parameter = next(model.parameters())
    bias = _bias(f, torch.finfo(parameter.dtype).eps)
    dense = Dense(
        f.n_features_in,
        f.n_components,
        bias=bias is not None,
        activation_function=torch.nn.Identity(),
        init_weight=torch.from_numpy(f.components.copy()),
        init_bias=None if bias is None else torch.from_numpy(bias),
    )
    length = calibrated_length(f)
    if _ends_in_unit_rows(model):
        _warn_of_unit_rows(f, "model")
    elif length is not None and is_unit(length):
        model.append(Normalize())  # the mean is that of unit rows
    model.add_module(FILTER, dense.to(device=parameter.device, dtype=parameter.dtype))
    if normalize:
        model.append(Normalize())


def _ends_in_unit_rows(model: Any) -> bool:
    return type(model[-1]).__name__ == "Normalize"


def _opened(model: Any) -> Any:
    """Return an open model as it is, or open the one of this path or id."""
    try:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(
            'to change an open model, or one on the Hub: pip install "embedfilter[st]"'
        ) from error
    if isinstance(model, SentenceTransformer):
        return model
    if isinstance(model, (str, os.PathLike)):
        return SentenceTransformer(os.fspath(model))
    raise TypeError(
        f"model: expected a folder, a Hub id or a SentenceTransformer, found {type(model).__name__}"
    )


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Make a temporary folder, which becomes `out` when the block ends well."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = "one with files in it" if out.is_dir() else "a file"
        raise FileExistsError(
            errno.EEXIST,
            f"expected a folder that is new or empty, found {found}: take another name, or remove"
            " it first",
            str(out),
        )
    if not out.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(out.parent))
    folder = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
