"""Mistakes made in every line of the kernels that one of a few rules fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant", "kernel_mutants"]


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `file`, the text from `start` to `end` becomes `new`."""

    file: str
    start: int
    end: int
    new: str
    what: str


# What is searched for in a line, what takes its place, and what kind of mistake it is.
RULES = [
    (r"\bn - i\b", "n - i - (n > i)", "wrong tail: its last element is left out"),
    (r"(?<=for \(; )i < n(?=; i\+\+)", "i + 1 < n", "wrong tail: its last element is left out"),
    (r"fmadd_(?=p[sd]|ss)", "fnmadd_", "wrong sign of a product"),
    (r"fnmadd_(?=p[sd]|ss)", "fmadd_", "wrong sign of a product"),
    (r"vfmaq_", "vfmsq_", "wrong sign of a product"),
    (r"vfmsq_", "vfmaq_", "wrong sign of a product"),
    (r"(?<=_)add_(?=p[sd]|epi32|ss)", "sub_", "wrong sign of a sum"),
    (r"(?<=_)sub_(?=p[sd]|epi8|epi32)", "add_", "wrong sign of a sum"),
    (r"vadd(?=q?_)", "vsub", "wrong sign of a sum"),
    (r"vsub(?=q?_)", "vadd", "wrong sign of a sum"),
    (r"(?<= )\+=(?= \(double\))", "-=", "wrong sign of a sum"),
    (
        r"^ +(flush_\w+|store\w*|vst\w+|_mm\w*_(store|stream)\w*)\(.*\);$",
        "",
        "dropped flush or store",
    ),
    (r"(?<=^ {8})(s|sums\.r)\d = .*;$", "", "dropped products of a row"),
    (r"\(!first\)", "(first)", "the sum so far forgotten, or kept where it is the first"),
    (r"(?<=\()first \? sum", "!first ? sum", "the sum so far forgotten"),
    (r"_mm256_max_ps|vmaxq_f32", lambda m: m.group().replace("max", "min"), "wrong bound"),
    (r"_mm256_min_ps|vminq_f32", lambda m: m.group().replace("min", "max"), "wrong bound"),
    (r"_CMP_GE_OQ", "_CMP_GT_OQ", "equality is left out"),
    (r"_CMP_GT_OQ", "_CMP_GE_OQ", "equality is let in"),
    (r"vcgeq_", "vcgtq_", "equality is left out"),
    (r"vcgtzq_", "vcgezq_", "equality is let in"),
    (r"_MM_FROUND_TO_NEAREST_INT", "_MM_FROUND_TO_ZERO", "wrong rounding"),
    (r"0x7fff\)", "0x8000)", "wrong rounding"),
    (r"vcvtnq_", "vcvtq_", "wrong rounding"),
    (r"cvttps", "cvtps", "wrong rounding"),
]


def kernel_mutants(root: Path) -> Iterator[Mutant]:
    """Make every mutant of the kernels of each instruction set, the scalar ones among them."""
    for path in sorted((root / "csrc" / "kernels").glob("*_*.[ch]")):
        text = path.read_text(encoding="utf-8")
        file = path.relative_to(root).as_posix()
        at = 0
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            code = line.split("/*")[0].rstrip("\n")
            for pattern, new, what in RULES:
                for match in re.finditer(pattern, code):
                    changed = new(match) if callable(new) else new
                    yield Mutant(
                        file,
                        at + match.start(),
                        at + match.end(),
                        changed,
                        f"line {number}: {what}",
                    )
            at += len(line)
