"""The tables of docs/results.md, of what `backbones.py` has found: results/backbones.json."""

from __future__ import annotations

from typing import Any

NAMES = {"qwen2.5-0.5b": "Qwen", "gemma3-270m": "Gemma", "smollm2-135m": "SmolLM2"}
TEMPLATES = {"prompteol": "PromptEOL", "echo": "Echo"}
HEAD, WORDS, OWN = "late", "vocabulary", "the same, vocabulary as prior"
# What was aimed at: method, ratio, what it is compared with (at ratio 1, or the same), by how much.
GOALS = (
    ("head alone at 1/2, over no filter", HEAD, "2", "no filter", 0.5),
    ("vocabulary at 1/2, over the head alone", WORDS, "2", HEAD, 0.3),
    ("vocabulary at 1/8, over no filter", WORDS, "8", "no filter", 0.5),
    ("own texts at 1/2, over no filter", OWN, "2", "no filter", 2.5),
    ("own texts at 1/8, over no filter", OWN, "8", "no filter", 1.5),
    *(
        (f"20 texts{prior} at 1/{ratio}, over the head alone", f"20 texts{prior}", ratio, HEAD, 0.0)
        for prior in ("", ", vocabulary as prior")
        for ratio in ("2", "4", "8")
    ),
)


def columns(report: dict[str, Any]) -> list[str]:
    """Return what the models and templates are called."""
    return [
        f"{NAMES.get(row['name'], row['name'])}, {TEMPLATES.get(row['template'], row['template'])}"
        for row in report["models"]
    ]


def figure(row: dict[str, Any], method: str, ratio: str, key: str = "mean") -> float | None:
    """Return the figure of a method at a ratio; where it keeps all dimensions, the only one."""
    found = row["methods"][method]
    value = found.get(ratio, found.get("1"))[key]
    return None if value is None else float(value)


def gain(row: dict[str, Any], method: str, ratio: str, over: str) -> float:
    """Return by how much one method is better than another, of figures as the tables have them."""
    one, other = (figure(row, name, ratio) for name in (method, over))
    if one is None or other is None:
        raise ValueError(f"{method}, {over}: one of them has no figure at 1/{ratio}")
    return round(one, 1) - round(other, 1)


def tables(report: dict[str, Any]) -> str:
    """Return the tables in Markdown: the mean, either kind of sets, and what was aimed at."""
    kinds = list(report["sets"].values())
    titles = {
        "mean": "Mean of the two kinds",
        "pairs": f"Scored pairs (Spearman x 100, mean of {kinds.count('pairs')} sets)",
        "labels": f"Nearest neighbours (accuracy x 100, mean of {kinds.count('labels')} sets)",
    }
    rows = report["models"]
    lines = []
    for key, title in titles.items():
        lines += [f"**{title}**", "", f"| at 1/2, 1/4, 1/8 | {' | '.join(columns(report))} |"]
        lines += ["|---" * (len(rows) + 1) + "|"]
        for method in rows[0]["methods"]:
            cells = (
                ", ".join("-" if (x := one[key]) is None else f"{x:.1f}" for one in found.values())
                for found in (row["methods"][method] for row in rows)
            )
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["**Goals**", "", f"| gain | goal | {' | '.join(columns(report))} |"]
    lines += ["|---" * (len(rows) + 2) + "|"]
    for title, method, ratio, over, least in GOALS:
        cells = (f"{value:+.1f}" if value >= least - 1e-9 else f"*{value:+.1f}*"
                 for value in (gain(row, method, ratio, over) for row in rows))  # fmt: skip
        lines.append(f"| {title} | {least:+.1f} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
