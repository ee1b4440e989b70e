"""``embedfilter mteb``: the paper's table, of a model of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from embedfilter.commands.common import (
    CHECKPOINT,
    PATH,
    base_option,
    batch_size_option,
    device_option,
    dtype_option,
    json_option,
    print_text,
    revision_option,
    tell_of_opening,
    template_option,
)
from embedfilter.errors import EmbedFilterError

__all__ = ["mteb"]


class _Ratios(click.Command):
    """Takes several numbers after ``--ratio``, too: "1 2 4 8" as well as "1,2,4,8"."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        joined: list[str] = []
        is_of_ratio = False
        for word in args:
            if is_of_ratio and re.fullmatch(r"[\d.,]+", word) and joined[-1] != "--ratio":
                joined[-1] += f",{word}"
                continue
            is_of_ratio = word.startswith("--ratio") or (is_of_ratio and joined[-1] == "--ratio")
            joined.append(word)
        return super().parse_args(ctx, joined)


def _numbers(ctx: click.Context, option: click.Parameter, value: str) -> list[float]:
    try:
        return sorted({float(part) for part in value.split(",")})
    except ValueError:
        message = f"expected numbers, found {value!r}"
        raise click.BadParameter(message, ctx, option) from None


@click.command(cls=_Ratios)
@click.argument("model", type=CHECKPOINT)
@click.option(
    "--tasks",
    default="paper",
    show_default=True,
    metavar="NAME,NAME,...",
    help="Names of MTEB's tasks; paper: all 56 of the paper's.",
)
@template_option
@click.option(
    "--ratio",
    "ratios",
    default="1,2,4,8",
    show_default=True,
    metavar="R R ...",
    callback=_numbers,
    help="Keep 1/R of the dimensions; 1: no filter.",
)
@click.option(
    "--calibrate",
    type=click.Choice(["vocabulary"]),
    help="Score filters that are calibrated on words of the model's own vocabulary, too.",
)
@base_option
@click.option(
    "-o",
    "--output",
    type=PATH,
    default=Path("embedfilter-mteb"),
    show_default=True,
    help="The folder for the table, for results and embeddings.",
)
@batch_size_option
@device_option
@dtype_option
@revision_option
@json_option
def mteb(model: str, tasks: str, output: Path, as_json: bool, **options: Any) -> None:
    """Score a model on MTEB, without a filter and with several.

    MODEL, a causal language model, is a folder of transformers, a GGUF file or an id on the Hub,
    where the tasks' data are, too. Each text is embedded once, and kept: a run that was ended goes
    on where it was when the same command is given again.

    \b
    Examples:
      embedfilter mteb path/to/model --tasks paper --ratio 1 2 4 8
      embedfilter mteb path/to/model --tasks STS12,SciFact --calibrate vocabulary
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.files.atomic import atomic_output  # noqa: PLC0415 - light --help

    tell_of_opening(model)
    from embedfilter.integrations.mteb_table import find_tasks, mteb_table  # noqa: PLC0415

    found = mteb_table(
        model, find_tasks([name for name in tasks.split(",") if name]), output, **options
    )
    as_text = json.dumps(found.to_dict(), indent=2)
    for path, text in (("table.json", as_text), ("table.md", str(found))):
        with atomic_output(output / path) as file:
            file.write(f"{text}\n".encode())
    print_text(as_text if as_json else str(found))
    if found.failed:
        raise EmbedFilterError(
            f"--tasks: expected all to be scored, found {len(found.failed)} that failed, and count"
            f" in no mean: {', '.join(found.failed)}; the same command tries them again"
        )
