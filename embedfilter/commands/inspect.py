"""``embedfilter inspect``: what a filter or a checkpoint holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from embedfilter.commands.common import (
    CHECKPOINT,
    json_option,
    print_text,
    revision_option,
    tensor_option,
)
from embedfilter.commands.wording import in_options
from embedfilter.errors import EmbedFilterError
from embedfilter.fitting.cuts import Accuracy

if TYPE_CHECKING:
    from embedfilter.checkpoints.unembedding import Unembedding
    from embedfilter.filter import EmbedFilter

__all__ = ["filter_facts", "inspect"]


@click.command()
@click.argument("file", type=CHECKPOINT)
@tensor_option
@revision_option
@json_option
def inspect(file: str, as_json: bool, **options: Any) -> None:
    """Tell what a filter or a checkpoint holds.

    Of a filter: where it comes from, and its spectrum. Of a checkpoint: which tensor would be
    the unembedding matrix, and why; how many tokens its model knows, how many rows are padding
    beyond them (padding_rows), all zeros (zero_rows), or the same as an earlier row, as those of
    tokens that were never trained may be (copied_rows).

    \b
    Example:
      embedfilter inspect filter.safetensors
    """  # noqa: D301 - click takes the backspace for "do not wrap"
    from embedfilter.files.filter_file import is_filter_file  # noqa: PLC0415 - light --help
    from embedfilter.filter import EmbedFilter  # noqa: PLC0415

    if is_filter_file(Path(file)):
        for name, value in options.items():
            if value is not None:
                raise EmbedFilterError(
                    f"--{name}: expected a checkpoint with it, found filter {file}"
                )
        f = EmbedFilter.load(file)
        facts = filter_facts(Path(file), f)
        if not as_json:
            facts["singular_values"] = _spectrum_line(f)
            facts |= _accuracy_line(f)
    else:
        facts = _checkpoint_facts(file, **options)
    if as_json:
        print_text(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        for line in value if isinstance(value, list) else [value]:
            print_text(f"{name:<{width}}  {line}")


def filter_facts(path: Path, f: EmbedFilter) -> dict[str, Any]:
    """Return what there is to tell of a filter, by name, plain enough for JSON."""
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

    def said(text: str) -> str:
        return in_options(text, inspect, {}, (source,))

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
            "reason": said(W.reason),
            **({"applied": list(W.notes)} if W.notes else {}),
            **({"doubtful": [said(doubt) for doubt in W.doubts]} if W.doubts else {}),
            **({} if W.caution is None else {"caution": said(W.caution)}),
            **({} if W.bias is None else {"bias": "added by the lens"}),
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

    warn_of_copies(W)
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


def _accuracy_line(f: EmbedFilter) -> dict[str, str]:
    """Say what the figures of a spectrum's accuracy mean, where there are any."""
    accuracy = Accuracy.of_metadata(f.metadata)
    if accuracy == Accuracy():
        return {}
    error = np.sqrt(accuracy.error)
    return {
        "accuracy": f"singular values under {max(accuracy.noise, error):.2g} may be rounding alone"
    }


def _levels() -> str:
    """Return characters of growing height that standard output can show."""
    bars = "▁▂▃▄▅▆▇█"
    try:
        bars.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "_.-~=+*#"
    return bars
