"""Pictures of the results: ``python benchmarks/plot.py`` draws each results/**/*.json as a PNG."""

from __future__ import annotations

import csv
import json
from importlib import resources
from pathlib import Path
from typing import Any

from backbones_tables import columns

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

RESULTS = Path(__file__).parent / "results"
OVERVIEW = Path(__file__).parents[1] / "docs" / "images" / "overview.png"
OURS, OTHERS = "#1b6ca8", "#b8b8b8"


def project(report: dict[str, Any]) -> plt.Figure:
    """Draw how many times faster than each peer float32 rows are filtered, by rows."""
    rows = [row for row in report["rows"] if row["case"] == "float32"]
    shapes = sorted({(row["d"], row["k"]) for row in rows})
    figure, axes = plt.subplots(1, len(shapes), figsize=(5 * len(shapes), 3.4), squeeze=False)
    for ax, (d, k) in zip(axes[0], shapes, strict=True):
        some = [row for row in rows if row["d"] == d]
        for peer in some[0]["seconds"]:
            if peer != "embedfilter":
                times = [row["seconds"][peer] / row["seconds"]["embedfilter"] for row in some]
                ax.plot([row["n"] for row in some], times, marker="o", label=peer)
        ax.axhline(1, color="black", label="embedfilter")
        ax.set(xscale="log", yscale="log", xlabel="rows", title=f"{d} to {k}")
        ax.set(ylabel="time, embedfilter = 1", yticks=(0.5, 1, 2, 4, 8, 16))
        ax.set_xticks(sizes := sorted({row["n"] for row in some}), [f"{n}" for n in sizes])
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.legend(frameon=False, fontsize=8)
    return figure


def fit(report: dict[str, Any]) -> plt.Figure:
    """Draw the seconds from file to filter of each method, by shape."""
    fits = report["fits"]
    figure, axes = plt.subplots(1, len(fits), figsize=(3.6 * len(fits), 2.6), squeeze=False)
    for ax, row in zip(axes[0], fits, strict=True):
        methods = row["methods"]
        seconds = [figures["seconds"] for figures in methods.values()]
        colours = [OURS if name == "embedfilter" else OTHERS for name in methods]
        bars = ax.barh(list(methods), seconds, color=colours)
        ax.bar_label(bars, [f"{s:.2f} s" for s in seconds], padding=3)
        ax.set(title=f"{row['V']} x {row['d']}", xlim=(0, 1.3 * max(seconds)))
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def sweep(report: dict[str, Any]) -> plt.Figure:
    """Draw each sweep's seconds, and a line of the growth that is expected."""
    sweeps = report["sweeps"]
    figure, axes = plt.subplots(1, len(sweeps), figsize=(3.6 * len(sweeps), 3))
    for ax, one in zip(axes, sweeps, strict=True):
        sizes, seconds = one["sizes"], one["seconds"]
        expected = [seconds[-1] * (size / sizes[-1]) ** one["expected_power"] for size in sizes]
        ax.plot(sizes, expected, color=OTHERS, label=f"power {one['expected_power']}")
        ax.plot(sizes, seconds, "o", color=OURS, label=f"measured, {one['power']:.2f}")
        ax.set(xscale="log", yscale="log", xlabel=one["size"], ylabel="seconds", title=one["name"])
        ax.legend(frameon=False, fontsize=8)
    return figure


def lens(report: dict[str, Any]) -> plt.Figure:
    """Draw the milliseconds of top tokens of many vectors and of one, by the head's type."""
    rows = report["rows"]
    sizes = sorted({row["n"] for row in rows}, reverse=True)
    figure, axes = plt.subplots(1, len(sizes), figsize=(5 * len(sizes), 3.4), squeeze=False)
    for ax, n in zip(axes[0], sizes, strict=True):
        some = [row for row in rows if row["n"] == n]
        names = list(dict.fromkeys(name for row in some for name in row["seconds"]))
        for i, name in enumerate(names):
            places = [place for place, row in enumerate(some) if name in row["seconds"]]
            times = [1e3 * some[place]["seconds"][name] for place in places]
            offsets = [place + (i - (len(names) - 1) / 2) * 0.2 for place in places]
            colour = OURS if name == "embedfilter" else str(0.55 + 0.12 * i)
            bars = ax.bar(offsets, times, 0.19, color=colour, label=name)
            ax.bar_label(bars, [f"{time:.3g}" for time in times], padding=2, fontsize=7)
        ax.set(title=f"{n} vector{'s' if n > 1 else ''}, k = {some[0]['k']}", ylabel="ms")
        ax.set_xticks(range(len(some)), [row["dtype"] for row in some])
        ax.set_ylim(0, 1.3e3 * max(max(row["seconds"].values()) for row in some))
        ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def retrieval(report: dict[str, Any]) -> plt.Figure:
    """Draw recall and task quality over the size of each kind of index, by filter."""
    rows = report["rows"]
    kinds = list(dict.fromkeys(row["index"] for row in rows))
    names = list(dict.fromkeys(row["filter"] for row in rows))
    styles = dict(zip(names, ("black", OURS, "#d1495b", OTHERS), strict=True))
    measures = {
        "recall_at_10": "recall@10 of unfiltered",
        "paraphrase_first": "own paraphrase first",
        "titles_same_topic": "nearest title of same topic",
    }
    measures = {key: label for key, label in measures.items() if key in rows[0]}
    figure, axes = plt.subplots(
        len(measures), len(kinds), figsize=(3 * len(kinds), 2.5 * len(measures)), sharey="row"
    )
    for line, (key, label) in zip(axes, measures.items(), strict=True):
        line[0].set_ylabel(label)
        for ax, kind in zip(line, kinds, strict=True):
            for name, colour in styles.items():
                some = [row for row in rows if (row["index"], row["filter"]) == (kind, name)]
                sizes = [row["bytes"] / row["n"] for row in some]
                ax.plot(sizes, [row[key] for row in some], "o-", color=colour, label=name)
            ax.set(xscale="log", title=f"{kind}, {some[0]['n']:,} rows")
            sizes = sorted({row["bytes"] / row["n"] for row in rows if row["index"] == kind})
            ax.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
            ax.minorticks_off()
            ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("bytes of the index per row")
    axes[0, -1].legend(frameon=False, fontsize=7, loc="lower right")
    return figure


def backbones(report: dict[str, Any]) -> plt.Figure:
    """Draw quality against size: a column a model, a row a template, the key where none is."""
    rows = report["models"]
    shown = {
        "the same, vocabulary as prior": ("late, on own texts and vocabulary", "#d1495b", "-"),
        "vocabulary": ("late, on the model's vocabulary", "#e09f3e", "-"),
        "late": ("late, the head alone", "#2a9d8f", "-"),
        "edge": ("edge, the head alone: the paper", OURS, "-"),
        "random directions": ("random directions", "#9a9a9a", "--"),
        "first coordinates": ("first coordinates", "#c4c4c4", "--"),
        "PCA": ("PCA on own texts, where they are enough", "#8d6a9f", "--"),
    }
    models, templates = (list(dict.fromkeys(row[key] for row in rows)) for key in ("d", "template"))
    titles = dict(zip(((row["d"], row["template"]) for row in rows), columns(report), strict=True))
    figure, axes = plt.subplots(
        len(templates),
        len(models),
        figsize=(3.7 * len(models), 3.1 * len(templates)),
        squeeze=False,
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for row in rows:
        d = row["d"]
        ax = axes[templates.index(row["template"]), models.index(d)]
        ax.set_axis_on()
        ax.set_title(titles[d, row["template"]], fontsize=10, fontweight="bold")
        plain = row["methods"]["no filter"]["1"]["mean"]
        ax.axhline(plain, color="black", linestyle=":", linewidth=1)
        ax.plot([d], [plain], "D", color="black", markersize=5, label="no filter", clip_on=False)
        for name, (label, colour, style) in shown.items():
            found = {int(ratio): one["mean"] for ratio, one in row["methods"][name].items()}
            sizes = [d // ratio for ratio, mean in found.items() if mean is not None]
            means = [mean for mean in found.values() if mean is not None]
            ours = style == "-"
            ax.plot(
                sizes, means, style, color=colour, label=label, zorder=3 if ours else 2,
                marker="o" if ours else ".", markersize=4.5, linewidth=2 if ours else 1.2,
            )  # fmt: skip
        ax.set(xscale="log", xlim=(d / 9, d * 1.12))
        best = max(max(line.get_ydata(), default=plain) for line in ax.lines)
        ax.set_ylim(plain - 6, best + 0.7)
        ax.set_xticks(
            [d, *(d // r for r in (2, 4, 8))], [f"{d}", *(f"{d // r}\n1/{r}" for r in (2, 4, 8))]
        )
        ax.minorticks_off()
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    for line in axes:
        next(ax for ax in line if ax.axison).set_ylabel("mean of STS and 1-NN")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    empty = next((ax for ax in axes.flat if not ax.axison), None)
    where = {"loc": "lower center", "ncols": 4} if empty is None else {"loc": "center"}
    (figure if empty is None else empty).legend(handles, labels, frameon=False, fontsize=9, **where)
    return figure


def overview(report: dict[str, Any]) -> plt.Figure:
    """Draw what the method does: some texts' tokens before and after, and the gain by model.

    The texts are the first of every other topic of the demo; all models and templates are shown.
    """
    from embedfilter import EmbedFilter, LogitLens, plots
    from embedfilter.demo import find_checkpoint

    demo = resources.files("embedfilter.demo")
    with (demo / "pairs.tsv").open(encoding="utf-8") as file:
        pairs = list(csv.DictReader(file, delimiter="\t"))
    topics = list(dict.fromkeys(row["topic"] for row in pairs))[::2]
    some = [next(i for i, row in enumerate(pairs) if row["topic"] == topic) for topic in topics]
    with (demo / "echo.npy").open("rb") as file:
        X = np.load(file)[some]
    texts = [pairs[i]["sentence"] for i in some]
    checkpoint = find_checkpoint()
    f = EmbedFilter.from_checkpoint(checkpoint, ratio=2)
    with LogitLens(checkpoint) as lens:
        before = lens.top_tokens(X, 6, labels=texts)
        after = lens.top_tokens(X, 6, labels=texts, filter=f)

    names = columns(report)
    figure = plt.figure(figsize=(11, 5.2))
    above, below = figure.subfigures(2, 1, height_ratios=(2.4, 2.8))
    above.suptitle("What embeddings write (SmolLM2, Echo)", fontsize=10, fontweight="bold")
    plots.top_tokens([before, after], titles=("before the filter", "after"), ax=above.subplots())
    above.subplots_adjust(left=0.01, right=0.99, bottom=0, top=0.86)
    below.suptitle("Quality gained over no filter, in points", fontsize=10, fontweight="bold")
    axes = below.subplots(1, len(names), sharey=True)
    shown = {
        "late": ("the head alone", "#2a9d8f"),
        "vocabulary": ("calibrated on the model's vocabulary", "#e09f3e"),
        "the same, vocabulary as prior": ("calibrated on the vocabulary and own texts", "#d1495b"),
    }
    for ax, row, name in zip(axes, report["models"], names, strict=True):
        plain = row["methods"]["no filter"]["1"]["mean"]
        for i, (method, (label, colour)) in enumerate(shown.items()):
            means = row["methods"][method]
            gains = [means[str(ratio)]["mean"] - plain for ratio in (2, 4, 8)]
            ax.bar(np.arange(3) + (i - 1) * 0.27, gains, 0.25, color=colour, label=label)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_title(name, fontsize=9)
        ax.set_axisbelow(True)
        ax.set_xticks(range(3), [f"{row['d'] // r}\n1/{r}" for r in (2, 4, 8)], fontsize=8)
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right", "bottom"]].set_visible(False)
    below.legend(*axes[0].get_legend_handles_labels(), ncols=3, frameon=False, fontsize=9,
                 loc="lower center")  # fmt: skip
    below.subplots_adjust(left=0.05, right=0.99, bottom=0.27, top=0.8)
    return figure


def main() -> None:
    """Draw a picture of each report that there is."""
    for name, draw in (
        ("project", project),
        ("fit", fit),
        ("lens", lens),
        ("retrieval", retrieval),
        ("sweep", sweep),
        ("backbones", backbones),
        ("backbones", overview),
    ):
        for path in RESULTS.glob(f"**/{name}.json"):
            report = json.loads(path.read_text(encoding="utf-8"))
            figure = draw(report)
            machine = report.get("machine")  # of what was timed
            if machine is not None:
                figure.suptitle(
                    f"{machine['cpu']}, {machine['threads']} threads, {machine['isa']}", fontsize=9
                )
            if draw is not overview:  # which is laid out
                figure.tight_layout()
            picture = OVERVIEW if draw is overview else path.with_suffix(".png")
            figure.savefig(picture, dpi=110)
            print(f"wrote {picture}")


if __name__ == "__main__":
    main()
