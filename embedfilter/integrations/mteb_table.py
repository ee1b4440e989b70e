"""The paper's table: one model on MTEB's tasks, without a filter and with several.

A filter is a linear map of what the model makes of a text. So each text is embedded once
(`kept_embeddings.py`), and scored under each filter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from embedfilter.errors import EmbedFilterError, warn_user
from embedfilter.files.messages import source_name
from embedfilter.filter import EmbedFilter
from embedfilter.fitting.kinds import resolve_n_components
from embedfilter.integrations.encoder import encoder, template_for
from embedfilter.integrations.kept_embeddings import KeptEmbeddings
from embedfilter.integrations.vocabulary_words import N_WORDS, embedded_words
from embedfilter.version import __version__

try:
    import mteb
    from mteb.abstasks.aggregated_task import AbsTaskAggregate
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.results import TaskResult
except ImportError as error:
    raise ImportError('to evaluate with MTEB: pip install "embedfilter[mteb]"') from error

__all__ = ["ScoreTable", "find_tasks", "mteb_table"]

PAPER = "paper"
_BENCHMARK = "MTEB(eng, classic)"  # whose 56 tasks are the paper's
# In the order of the paper's code; other types of tasks follow.
_GROUPS = (
    "STS",
    "Classification",
    "Clustering",
    "PairClassification",
    "Reranking",
    "Retrieval",
    "Summarization",
)
_UNSCALED = "Classification"  # whose embeddings the paper's code does not scale to unit length


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """Scores of a model's embeddings under several filters.

    Attributes
    ----------
    model, template : str
    rows : list of dict
        For each method its name, ratio, dimensions, and scores from 0 to 100: "tasks", "groups",
        the mean over the tasks of each type, and "mean", that over all tasks.
    groups : dict of lists of str
        The names of the tasks of each type.
    failed : dict
        What went wrong, by the name of a task, which counts in no mean then.
    """

    model: str
    template: str
    rows: list[dict[str, Any]]
    groups: dict[str, list[str]]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON takes it."""
        versions = {"embedfilter": __version__, "mteb": mteb.__version__}
        return dataclasses.asdict(self) | {"versions": versions}

    def __str__(self) -> str:
        """Return the table as Markdown."""
        heads = [f"{group} ({len(names)})" for group, names in self.groups.items()]
        n = sum(map(len, self.groups.values()))
        lines = [["method", "size", *heads, f"mean ({n})"]]
        for row in self.rows:
            scores = [*row["groups"].values(), row["mean"]]
            name = f"{row['method']}, 1/{row['ratio']:g}" if row["ratio"] != 1 else row["method"]
            lines.append([name, str(row["dimensions"]), *(f"{score:.2f}" for score in scores)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        return "\n".join(
            f"| {first.ljust(widths[0])} | "
            + " | ".join(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True))
            + " |"
            for first, *rest in lines
        )


def find_tasks(names: Sequence[str]) -> list[Any]:
    """Return MTEB's tasks of these names; "paper" stands for all of the paper's.

    A task of the paper's is taken as it is there: in English, on the test split (MSMARCO: on the
    development split, as MTEB does).

    Raises
    ------
    EmbedFilterError
        If there is no task of a name.
    """
    of_paper = {task.metadata.name: task for task in mteb.get_benchmark(_BENCHMARK).tasks}
    found: dict[str, Any] = {}
    for name in names:
        try:
            tasks = of_paper if name == PAPER else {name: of_paper.get(name) or mteb.get_task(name)}
        except KeyError as error:
            raise EmbedFilterError(
                f"tasks: expected {PAPER!r} or names of MTEB's tasks, found {name!r}:"
                f" {error.args[0]}"
            ) from None
        found |= tasks
    return list(found.values())


def mteb_table(
    model: str | os.PathLike[str],
    tasks: Sequence[Any],
    folder: str | os.PathLike[str],
    *,
    template: str | None = None,
    ratios: Sequence[float] = (1, 2, 4, 8),
    calibrate: str | None = None,
    base: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
) -> ScoreTable:
    """Score a causal language model's embeddings on MTEB's tasks, under several filters.

    Embeddings and the results of each task and filter are kept in a folder: a run that was ended,
    in whatever way, goes on where it was, and one with other tasks or filters does what is new.

    Parameters
    ----------
    model, template, base, device, dtype, revision
        As for `encoder`.
    tasks : sequence of tasks of MTEB
        From `find_tasks`, or of one's own.
    folder : path
        Is made if it is not there.
    ratios : sequence of float
        Of the "edge" filters; 1: no filter.
    calibrate : {"vocabulary"}, optional
        For each ratio but 1, a filter that is calibrated on the model's own words, too.
    batch_size : int

    Returns
    -------
    ScoreTable

    Raises
    ------
    TypeError, ValueError
        For arguments that do not make filters.
    EmbedFilterError
        If the folder's files cannot be used, or no task could be scored.
    """
    if calibrate not in (None, "vocabulary"):
        raise ValueError(f"calibrate: expected 'vocabulary' or None, found {calibrate!r}")
    if not tasks or not ratios:
        raise ValueError("tasks, ratios: expected some of each, found none")
    for ratio in ratios:  # found out before the model is opened
        if not (isinstance(ratio, Real) and 1 <= ratio < np.inf):
            raise ValueError(f"ratio: expected a finite number of at least 1, found {ratio!r}")
    template = template_for(model, template)
    folder = Path(folder)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision}
    embed = encoder(model, template=template, ratio=1, normalize=False, **options)
    folder.mkdir(parents=True, exist_ok=True)
    kept = KeptEmbeddings(embed, folder, batch_size=batch_size)
    try:
        of_source = {"base": base, "revision": revision if base is None else None}
        words = None
        if calibrate is not None:
            words = embedded_words(
                kept,
                N_WORDS,
                of=source_name(os.fspath(model)),
                template=template,
                batch_size=batch_size,
                progress=False,
            )
        methods = _methods(model, kept, sorted({*ratios}), of_source, words)
        scores, failed = _all_scores(tasks, methods, folder / "results", batch_size)
    finally:
        kept.close()
    if not scores:
        told = "; ".join(f"{name}: {message}" for name, message in failed.items())
        raise EmbedFilterError(f"tasks: expected one that can be scored, found none: {told}")
    groups = _groups(tasks, scores)
    rows = [_row(method, i, groups, scores) for i, method in enumerate(methods)]
    return ScoreTable(source_name(os.fspath(model)), template, rows, groups, failed)


class _Method(AbsEncoder):  # type: ignore[misc]  # untyped
    """A model for MTEB: kept embeddings, under a filter."""

    def __init__(
        self, name: str, ratio: float, kept: KeptEmbeddings, f: EmbedFilter | None
    ) -> None:
        self.name, self.ratio = name, ratio
        self.dimensions = kept.width if f is None else f.n_components
        self._kept, self._filter = kept, f
        digest = hashlib.sha256(kept.digest.encode())
        if f is not None:
            digest.update(f.components.tobytes())
            digest.update(b"" if f.mean is None else f.mean.tobytes())
        self.digest = digest.hexdigest()[:16]
        self.folder = f"{name.replace(' ', '-')}-{self.dimensions}-{self.digest}"
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"embedfilter/{name.replace(' ', '-')}",
                "revision": self.digest,
                "embed_dim": self.dimensions,
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )

    def encode(self, inputs: Any, *, task_metadata: Any, **_: Any) -> NDArray[np.float32]:
        """Return embeddings (n, k) of MTEB's batches of texts."""
        X = self._kept.encode([text for batch in inputs for text in batch["text"]])
        normalize = task_metadata.type != _UNSCALED
        if self._filter is not None:
            return self._filter.transform(X, normalize=normalize)
        if normalize:
            lengths = np.linalg.norm(X, axis=1, keepdims=True)
            X /= np.where(lengths == 0, 1, lengths)
        return X


def _methods(
    model: str | os.PathLike[str],
    kept: KeptEmbeddings,
    ratios: Sequence[float],
    of_source: dict[str, Any],
    words: NDArray[np.float32] | None,
) -> list[_Method]:
    """Return no filter and the "edge" filters, then, with words, those calibrated on them."""
    fitted: dict[tuple[str, int], EmbedFilter] = {}

    def fit(kind: str, ratio: float) -> tuple[EmbedFilter, int]:
        k = resolve_n_components(kept.width, ratio=ratio, n_components=None, kind=kind)
        # One fit is enough for all ratios from 2 on: smaller filters are parts of it.
        key = kind, max(k, kept.width // 2)
        if key not in fitted:
            fitted[key] = EmbedFilter.from_checkpoint(
                model, n_components=key[1], kind=kind, **of_source
            )
        return fitted[key], k

    methods = []
    for ratio in ratios:
        if ratio == 1:
            methods.append(_Method("no filter", 1, kept, None))
        else:
            f, k = fit("edge", ratio)
            _check_width(model, kept, f)
            methods.append(_Method("edge", ratio, kept, f.truncate(k)))
    if words is not None:
        for ratio in [ratio for ratio in ratios if ratio != 1]:
            f, k = fit("late", ratio)
            f = f.calibrate(words, n_components=k)
            methods.append(_Method("calibrated", ratio, kept, f))
    return methods


def _check_width(model: str | os.PathLike[str], kept: KeptEmbeddings, f: EmbedFilter) -> None:
    if f.n_features_in != kept.width:
        raise EmbedFilterError(
            f"{os.fspath(model)}: expected hidden states of the {f.n_features_in} dimensions that"
            f" the filter takes, found {kept.width}"
        )


def _all_scores(
    tasks: Sequence[Any], methods: Sequence[_Method], folder: Path, batch_size: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return each task's scores, one a method, and the messages of tasks that have failed."""
    scores: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    with tqdm(total=len(tasks) * len(methods), unit=" results") as bar:
        for task in tasks:
            name = task.metadata.name
            bar.set_description(name)
            parts = list(task.metadata.tasks) if isinstance(task, AbsTaskAggregate) else [task]
            try:
                of_parts = [_scores_of(part, methods, folder, batch_size) for part in parts]
            except EmbedFilterError:  # of the folder, which all tasks need
                raise
            except Exception as error:  # whatever a task's data or code may raise
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                warn_user(f"{name}: {failed[name]}")
            else:
                scores[name] = np.mean(of_parts, axis=0).tolist()
            bar.update(len(methods))
    return scores, failed


def _scores_of(task: Any, methods: Sequence[_Method], folder: Path, batch_size: int) -> list[float]:
    """Return a task's scores, one a method, from 0 to 100."""
    scores = []
    try:
        for method in methods:
            path = folder / method.folder / f"{task.metadata.name}.json"
            result = _earlier_result(task, path)
            if result is None:
                if not task.data_loaded:  # once for all methods
                    task.load_data()
                result = _new_result(task, method, path, batch_size)
            scores.append(100 * _score(task, result))
    finally:
        if task.data_loaded:
            task.unload_data()
    return scores


def _earlier_result(task: Any, path: Path) -> Any:
    """Return what an earlier run has found, if of the same data, or None."""
    if not path.exists():
        return None
    result = TaskResult.from_disk(path)
    subsets = {score["hf_subset"] for of_split in result.scores.values() for score in of_split}
    same = (
        result.dataset_revision == task.metadata.revision
        and {*result.scores} == {*task.eval_splits}
        and subsets == {*task.hf_subsets}
    )
    return result if same else None


def _new_result(task: Any, method: _Method, path: Path, batch_size: int) -> Any:
    found = mteb.evaluate(
        method,
        task,
        co2_tracker=False,
        cache=None,
        encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
        show_progress_bar=False,
    )
    if found.exceptions:
        raise RuntimeError(found.exceptions[0].exception)
    (result,) = found.task_results
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    result.to_disk(part)
    part.replace(path)  # whole, or not there
    return TaskResult.from_disk(path)  # rounded as it will be when it is read again


def _score(task: Any, result: Any) -> float:
    """Return a result's score; of pairs the cosine's, as in the paper, not the best of several."""
    if task.metadata.type == "PairClassification":
        return float(result.get_score(getter=lambda scores: scores["cosine_ap"]))
    return float(result.get_score())


def _groups(tasks: Sequence[Any], scores: dict[str, list[float]]) -> dict[str, list[str]]:
    """Return the names of the tasks with scores, by their type."""
    type_of = {task.metadata.name: task.metadata.type for task in tasks}
    types = {type_of[name] for name in scores}
    ordered = [group for group in (*_GROUPS, *sorted(types - {*_GROUPS})) if group in types]
    return {group: [name for name in scores if type_of[name] == group] for group in ordered}


def _row(
    method: _Method, i: int, groups: dict[str, list[str]], scores: dict[str, list[float]]
) -> dict[str, Any]:
    of_task = {name: of_methods[i] for name, of_methods in scores.items()}
    return {
        "method": method.name,
        "ratio": method.ratio,
        "dimensions": method.dimensions,
        "mean": float(np.mean([*of_task.values()])),
        "groups": {
            group: float(np.mean([of_task[name] for name in names]))
            for group, names in groups.items()
        },
        "tasks": of_task,
    }
