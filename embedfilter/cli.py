"""The command line: ``embedfilter fit | apply | inspect | demo``."""

from __future__ import annotations

import functools
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import embedfilter
from embedfilter.errors import EmbedFilterError
from embedfilter.filter import EmbedFilter
from embedfilter.spectrum import KINDS

if TYPE_CHECKING:
    from embedfilter.demo import DemoReport, Figures

__all__ = ["main"]

_BLOCK_BYTES = 16 << 20
_PATH = click.Path(path_type=Path)
_Command = Callable[..., Any]


class _Group(click.Group):
    """Turns what a command raises for bad input into one line and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone: click ends quietly
            raise
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _fail(ctx, f"{place}{error.strerror or error}")
        except (EmbedFilterError, ValueError, TypeError, OverflowError, MemoryError) as error:
            _fail(ctx, str(error))


def _fail(ctx: click.Context, message: str) -> None:
    click.echo(f"embedfilter: error: {message}", err=True)
    ctx.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"embedfilter: warning: {message}", err=True)


def _threads_option(command: _Command) -> _Command:
    return click.option(
        "--threads", "n_threads", type=int, help="Threads to use.  [default: all processors]"
    )(command)


def _json_option(command: _Command) -> _Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(embedfilter.__version__, prog_name="embedfilter")
def main() -> None:
    """Better, smaller text embeddings from a language model's own unembedding matrix."""


@main.command()
@click.argument("checkpoint", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, help="The filter file to write.")
@click.option("--ratio", type=float, help="Keep 1/RATIO of the dimensions.  [default: 2]")
@click.option("--components", "n_components", type=int, help="Keep so many dimensions.")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="edge",
    show_default=True,
    help="Which part of the spectrum is cut, or what to compare with.",
)
@click.option("--tensor", help="The unembedding matrix's name, where it is not found by itself.")
@click.option("--revision", help="The revision of a hub repository.")
@_threads_option
@_json_option
def fit(checkpoint: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Fit a filter to CHECKPOINT: a folder, .safetensors, its index, or .gguf."""
    if not output.parent.is_dir():  # found out before the work, not after
        raise FileNotFoundError(2, "no such folder", str(output.parent))
    start = time.perf_counter()
    f = EmbedFilter.from_checkpoint(checkpoint, progress=sys.stderr.isatty(), **options)
    f.save(output)
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(json.dumps({**_filter_facts(output, f), "seconds": seconds}))
        return
    facts = f.metadata
    click.echo(
        f"{output}: {f.n_features_in} -> {f.n_components} dimensions, {f.kind}, from"
        f" {facts['tensor']} ({facts['rows']} x {f.n_features_in}, {facts['dtype']})"
        f" in {seconds:.2f} s"
    )


@main.command()
@click.argument("filter_file", metavar="FILTER", type=_PATH)
@click.argument("embeddings", metavar="IN", type=_PATH)
@click.argument("output", metavar="OUT", type=_PATH)
@click.option(
    "--normalize/--no-normalize",
    default=True,
    show_default=True,
    help="Scale each row to unit length.",
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="float32, float16, bfloat16, int8, uint8 or ubinary.",
)
@click.option(
    "--ranges",
    "ranges_file",
    type=_PATH,
    help="A .npy file (2, k) of least and greatest values, for int8 and uint8.",
)
@_threads_option
@_json_option
def apply(filter_file: Path, embeddings: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Filter the embeddings in IN, a .npy file of any length, and write them to OUT."""
    start = time.perf_counter()
    f = EmbedFilter.load(filter_file)
    n_rows, width = _apply_npy(f, embeddings, output, **options)
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(json.dumps({"rows": n_rows, "width": width, "seconds": seconds}))
    else:
        click.echo(f"{output}: {n_rows} rows of {width} in {seconds:.2f} s")


def _apply_npy(
    f: EmbedFilter,
    source: Path,
    output: Path,
    *,
    precision: str,
    normalize: bool,
    ranges_file: Path | None,
    n_threads: int | None,
) -> tuple[int, int]:
    """Filter one .npy file into another and return the shape written."""
    from tqdm import tqdm  # noqa: PLC0415 - commands import what they alone need

    from embedfilter.atomic import atomic_output  # noqa: PLC0415
    from embedfilter.npy_file import NpyReader, write_npy_header  # noqa: PLC0415

    ranges = None
    if ranges_file is not None:
        with NpyReader(ranges_file) as reader:
            ranges = np.concatenate([np.array(block) for block in reader.blocks(2)])
    transform = functools.partial(
        f.transform, precision=precision, normalize=normalize, ranges=ranges, n_threads=n_threads
    )
    with NpyReader(source) as reader:
        n_rows, d = reader.shape
        if d != f.n_features_in:
            raise EmbedFilterError(
                f"{source}: expected rows of {f.n_features_in}, as {f.metadata.get('source')} has,"
                f" found rows of {d}"
            )
        # The width and type of the output, and complaints about the options.
        empty = transform(np.empty((0, d), np.float32))
        block_rows = max(1, _BLOCK_BYTES // (d * reader.dtype.itemsize))
        done = 0
        with (
            atomic_output(output) as file,
            tqdm(total=n_rows, desc="apply", unit=" rows", unit_scale=True, disable=None) as bar,
        ):
            write_npy_header(file, (n_rows, empty.shape[1]), empty.dtype)
            for block in reader.blocks(block_rows):
                try:
                    result = transform(block)
                except (ValueError, OverflowError) as error:
                    raise EmbedFilterError(
                        f"{source}: rows {done} to {done + len(block) - 1}: {error}"
                    ) from None
                file.write(result.reshape(-1).view(np.uint8).data)
                done += len(block)
                bar.update(len(block))
    return n_rows, empty.shape[1]


@main.command()
@click.argument("file", type=_PATH)
@click.option("--tensor", help="The tensor to take for the unembedding matrix.")
@_json_option
def inspect(file: Path, tensor: str | None, as_json: bool) -> None:
    """Tell what FILE is: a filter with its origin and spectrum, or a checkpoint and its head."""
    from embedfilter.filter_file import is_filter_file  # noqa: PLC0415

    if file.suffix == ".safetensors" and file.is_file() and is_filter_file(file):
        f = EmbedFilter.load(file)
        facts = _filter_facts(file, f)
        closing = None if as_json else _spectrum_line(f)
    else:
        facts = _checkpoint_facts(file, tensor)
        closing = None
    if as_json:
        click.echo(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {value}")
    if closing is not None:
        click.echo(closing)


def _filter_facts(path: Path, f: EmbedFilter) -> dict[str, Any]:
    return {
        "filter": str(path),
        "kind": f.kind,
        "n_features_in": f.n_features_in,
        "n_components": f.n_components,
        **f.metadata,
    }


def _checkpoint_facts(path: Path, tensor: str | None) -> dict[str, Any]:
    from embedfilter.checkpoints import open_unembedding  # noqa: PLC0415

    with open_unembedding(path, tensor=tensor) as W:
        return {
            "checkpoint": str(path),
            "tensor": W.name,
            "vocabulary": W.shape[0],
            "hidden_size": W.shape[1],
            "dtype": W.dtype,
            "tied": W.tied,
            "reason": W.reason,
        }


def _spectrum_line(f: EmbedFilter) -> str:
    """One line: the spectrum on a logarithmic scale, the kept part between bars."""
    sigma = np.maximum(f.singular_values, f.singular_values[0] * 1e-12)
    heights = np.log(sigma / sigma[-1]) / max(np.log(sigma[0] / sigma[-1]), 1e-12)
    kept = np.zeros(len(sigma), bool)
    kept[f.component_indices] = True
    line, inside = "", False
    for cell in np.array_split(np.arange(len(sigma)), min(48, len(sigma))):
        if kept[cell].mean() > 0.5:
            line += "" if inside else "|"
            inside = True
        else:
            line += "|" if inside else ""
            inside = False
        line += "▁▂▃▄▅▆▇█"[min(7, int(8 * heights[cell].mean()))]
    line += "|" if inside else ""
    low, high = f.component_indices.min(), f.component_indices.max()
    return (
        f"spectrum {sigma[0]:.4g} {line} {sigma[-1]:.4g}"
        f"  (kept: singular values {sigma[high]:.4g} to {sigma[low]:.4g}, between the bars)"
    )


@main.command()
@click.option("--checkpoint", type=_PATH, help="SmolLM2-135M, where it is not found by itself.")
@_json_option
def demo(checkpoint: Path | None, as_json: bool) -> None:
    """Fit a filter from a real language model and show what it does to real embeddings."""
    from embedfilter.demo import run_demo  # noqa: PLC0415

    report = run_demo(checkpoint)
    click.echo(json.dumps(report.as_dict()) if as_json else _demo_text(report))


def _demo_text(report: DemoReport) -> str:
    rows, columns = report.shape
    lines = [
        f"Model    {report.checkpoint}",
        f"Head     {report.tensor}, {rows} x {columns}, {report.dtype} ({report.reason})",
        f"Fitted   in {report.fit_seconds:.2f} s, with no training data",
        f"Texts    {report.n_pairs} sentences with a paraphrase each, {report.n_topics} topics",
    ]
    for template in dict.fromkeys(figures.template for figures in report.figures):
        lines += [
            "",
            f"{template:<11}  dims  bytes/vector  cosine of   own paraphrase found   neighbour of"
            "   applied",
            f"{'':<11}  {'':>4}  {'':>12}  unrelated   first        MRR         same topic     in",
        ]
        lines += [_demo_row(figures) for figures in report.figures if figures.template == template]
    lines += [
        "",
        "A filter serves matching texts best; what it costs neighbours of the same topic, and at",
        "which ratio quality is lost, differs from data to data: measure it on yours.",
        "",
        "Next, with your own model and embeddings taken from it:",
        "  embedfilter inspect CHECKPOINT                # which tensor is its head",
        "  embedfilter fit CHECKPOINT -o filter.safetensors --ratio 2",
        "  embedfilter apply filter.safetensors embeddings.npy filtered.npy",
    ]
    return "\n".join(lines)


def _demo_row(figures: Figures) -> str:
    name = "no filter" if figures.ratio == 1 else f"ratio {figures.ratio}"
    applied = f"{figures.apply_seconds * 1e3:6.2f} ms" if figures.ratio > 1 else "        -"
    return (
        f"{name:<11}  {figures.dimensions:>4}  {figures.bytes_per_vector:>12}"
        f"  {figures.unrelated_cosine:>9.2f}   {figures.paraphrase_top1:>5.1%}"
        f"       {figures.paraphrase_mrr:>5.3f}       {figures.topic_neighbour:>10.1%}"
        f"   {applied}"
    )
