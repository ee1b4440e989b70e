"""An open torch model as a source: of transformers, of sentence-transformers, or any other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from embedfilter.checkpoints.config import ModelFacts, facts_of
from embedfilter.checkpoints.formats.torch_tensors import (
    TorchRows,
    tensor_bytes,
    torch_storage_type,
)
from embedfilter.checkpoints.head.choose import Choice, choose, choose_embedding, same_matrix
from embedfilter.checkpoints.head.names import MODEL_NAMES, names_head
from embedfilter.checkpoints.head.open_head import open_head
from embedfilter.checkpoints.sentence_transformers import warn_of_module
from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedfilter.checkpoints.unembedding import Unembedding

__all__ = ["is_model", "open_model"]


def is_model(source: Any) -> bool:
    """Tell whether a source is a torch module."""
    return hasattr(source, "named_parameters") and hasattr(source, "named_modules")


class ModelTensors:
    """The parameters of an open model, as `open_head` wants them.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: Any) -> None:
        self.where = _name(model)
        self._tensors = dict(model.named_parameters(remove_duplicate=False))
        # Quantised modules keep their codes and scales as buffers.
        self._tensors |= dict(model.named_buffers(remove_duplicate=False))

    @property
    def names(self) -> list[str]:
        """The parameters' names; those that share memory are all named."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a parameter."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        """Return the storage type of a parameter."""
        tensor = self._tensors[name]
        # Quantised and distributed tensors pass for floats, but have no such numbers.
        kind = type(tensor).__name__
        return torch_storage_type(tensor) if kind in ("Tensor", "Parameter") else kind

    def rows(self, name: str) -> TorchRows:
        """Return the rows of a matrix, which stay where they are."""
        return TorchRows(
            self._tensors[name], where=self.where, name=name, check=_nothing, close=_nothing
        )

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return all bytes of a parameter, shape (n_bytes,)."""
        return tensor_bytes(self._tensors[name].reshape(-1))

    def file_of(self, name: str) -> str:
        """Return the model's name."""
        return self.where

    def remark(self, name: str) -> str:
        """Return what to add to the reason for choosing a parameter: nothing."""
        return ""

    def doubts(self) -> tuple[str, ...]:
        """Return why a head may be missing among the names: nothing."""
        return ()

    def close(self, keep: str | None = None) -> None:
        """Let go of the parameters; rows that were handed out keep theirs."""
        self._tensors = {}

    def name_of(self, tensor: Any) -> str | None:
        """Return the name of a parameter."""
        return next((name for name, other in self._tensors.items() if other is tensor), None)


def open_model(model: Any, *, tensor: str | None = None) -> Unembedding:
    """Open the unembedding matrix of an open model.

    The model is asked (`get_output_embeddings`, else `get_input_embeddings`) where it is one
    of transformers or has one inside, such as a SentenceTransformer; the names of its
    parameters decide otherwise.

    Parameters
    ----------
    model
        A ``torch.nn.Module``; its weights are neither copied as a whole nor changed.
    tensor
        The name of the parameter to take.

    Returns
    -------
    Unembedding
        The open matrix.
    """
    tensors = ModelTensors(model)
    inner = None if tensor is not None else _language_model(model, tensors.where)
    facts = None if inner is None else _facts(inner)
    asked = None if inner is None else _ask(inner, tensors, facts)
    if asked is not None and (asked.tied or not names_head(asked.name)):
        asked = _by_name(tensors, facts, asked)
    _warn_of_modules(model)
    return open_head(
        tensors, MODEL_NAMES, source=tensors.where, tensor=tensor, facts=facts, known=asked
    )


def _facts(model: Any) -> ModelFacts | None:
    """Return what the config of a transformers model says, but for sizes, which the model has."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return None
    facts = facts_of(config.to_dict(), where="its config")
    return replace(facts, hidden_sizes=(), vocab_sizes=())


def _by_name(tensors: ModelTensors, facts: ModelFacts | None, asked: Choice) -> Choice:
    """Return a head of its own that the names tell, where a model names its input embedding.

    Some models do not tell their head, or say that it is the input embedding though it is not.
    """
    try:
        found = choose(tensors, MODEL_NAMES, facts=facts)
    except CheckpointError:
        return asked
    same = found.tied or same_matrix(tensors, found.name, asked.name)
    return asked if same else found


def _ask(inner: Any, tensors: ModelTensors, facts: ModelFacts | None) -> Choice | None:
    """Return what the transformers model says that its head is."""
    try:
        head, embedding = inner.get_output_embeddings(), inner.get_input_embeddings()
    except NotImplementedError:
        return None
    kind = type(inner).__name__
    weight = getattr(head, "weight", None)
    tied = weight is getattr(embedding, "weight", None)
    if weight is None:
        name = tensors.name_of(getattr(embedding, "weight", None))
        if name is None:
            return None
        return choose_embedding(name, len(tensors.names), MODEL_NAMES, facts)
    if tied:
        reason = f"{kind} shares its output embeddings with its input embeddings (tied)"
    else:
        reason = f"the output embeddings of {kind}"
    name = tensors.name_of(weight)
    return None if name is None else Choice(name, tied=tied, reason=reason)


def _language_model(model: Any, where: str) -> Any:
    """Return the one transformers model in a model, which may be the model itself."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if not inside and hasattr(module, "get_output_embeddings"):
            found[name] = module
    if len(found) > 1:
        raise CheckpointError(
            f"{where}: expected one language model, found {len(found)}: "
            f"{', '.join(shown(name) for name in found)}; pass one of them, or tensor= with the "
            "name of the right parameter"
        )
    return next(iter(found.values()), None)


def _warn_of_modules(model: Any) -> None:
    if not hasattr(model, "encode"):  # a SentenceTransformer is a chain of its modules
        return
    for name, module in model.named_children():
        config = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
        warn_of_module(type(model).__name__, name, type(module).__name__, config)


def _name(model: Any) -> str:
    """Return where a model comes from, as far as it knows."""
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    return name if isinstance(name, str) and name else type(model).__name__


def _nothing() -> None:
    """Do nothing: no file is behind the numbers."""
