"""Mistakes made by hand in what drives the kernels; each text is in its file once."""

from __future__ import annotations

from pathlib import Path

from kernels import Mutant

__all__ = ["core_mutants"]

# file, text, what takes its place, what kind of mistake it is
MISTAKES = [
    ("dequantize.c", "dequantize_q8_0(", "dequantize_q4_0(", "another format's kernel"),
    ("eigen.c", "order[wanted[i]]", "order[i]", "another eigenvector"),
    ("eigen.c", '"L", "N", "F", "C"', '"L", "T", "F", "C"', "reflections in the wrong order"),
    (
        "eigen.c",
        "if (!ef_finite_f64(matrix",
        "if (d == 0 && !ef_finite_f64(matrix",
        "infinity reaches LAPACK",
    ),
    ("eigen.c", "index * VECTORS * d", "index * d", "vectors turned twice"),
    ("gram.c", "    add_peeled(gram, out, cross);", "", "what was peeled off is lost"),
    ("gram.c", "sum += 0.5 *", "sum += 1.0 *", "a part counted twice"),
    ("gram.c", "J > i ? J : i", "J > i ? J : i + 1", "the diagonal is left out"),
    ("gram.c", "if (!ef_row_finite(job->w, first + r))", "if (false)", "NaN is let through"),
    ("gram.c", "if (!ef_finite_f32(parts, p))", "if (false)", "NaN is let through"),
    ("gram.c", "detail->count++ == 0", "detail->count++ >= 0", "not the first bad row"),
    ("gram.c", "gram->n_rows += job.w.n_rows;", "gram->n_rows = job.w.n_rows;", "rows lost"),
    ("lens.c", "a.id > b.id", "a.id < b.id", "ties the wrong way"),
    ("lens.c", "b->n == k ? k / 2 : 0", "0", "no heap is made"),
    ("lens.c", "1.1f * sqrtf((float)d)", "0.0f * sqrtf((float)d)", "no margin for rounding"),
    ("lens.c", "logit >= atomic_load", "logit < atomic_load", "the worst ones"),
    ("lens.c", "(uint32_t)(lens->n_rows + row)", "(uint32_t)row", "ids begin again"),
    ("lens.c", "if (!isfinite(logit))", "if (false)", "NaN is let through"),
    (
        "system_posix.c",
        "    if (confined)\n",
        "    if (false)\n",
        "the caller stays on one processor",
    ),
    ("openblas.c", "atomic_load_explicit(&loaded", "!atomic_load_explicit(&loaded", "not loaded"),
    ("project.c", "f->mean + input", "f->mean", "the mean of the first run taken off all"),
    (
        "project.c",
        "y + r * padded + p * tile.columns, padded, input == 0",
        "y + r * padded + p * tile.columns, padded, 1",
        "runs forgotten",
    ),
    (
        "project.c",
        "finish_row(j, first + r, b.y + r * padded_k(j->filter))",
        "finish_row(j, first, b.y + r * padded_k(j->filter))",
        "rows in the wrong place",
    ),
    ("project.c", "        ef_note_row(&j->bad_row, row);", "        {}", "NaN is let through"),
    (
        "project.c",
        "begin = index * n_pairs",
        "begin = index / 2 * n_pairs",
        "panels not done",
    ),
    ("quantize.c", "65520.0f", "65536.0f", "infinity is let through"),
    ("quantize.c", "0x1.ffp127f", "0x1.fffffep127f", "infinity is let through"),
    ("quantize.c", "squares > 0.0", "squares >= 0.0", "a row of zeros becomes NaN"),
    ("quantize.c", "1.0 / sqrt(squares)", "1.0 / squares", "not of unit length"),
    ("quantize.c", "ef_ceil_div(k, 8)", "k / 8", "the last bits are left out"),
    ("quantize.c", "if (factor != 1.0)", "if (false)", "halves are not normalised"),
    (
        "rows.c",
        "(ptrdiff_t)row * x.stride_bytes",
        "(ptrdiff_t)row * ef_item_bytes(x.dtype) * x.n_cols",
        "strides forgotten",
    ),
    ("rows.c", "? EF_OVERFLOW : EF_NOT_FINITE", "? EF_NOT_FINITE : EF_OVERFLOW", "another error"),
    ("rows.c", "while (row < known", "while (row > known", "not the first bad row"),
    (
        "threads.c",
        "    pool.n_workers = pool.n_coming = pool.n_inside = 0;",
        "",
        "a child waits for threads it lacks",
    ),
    (
        "threads.c",
        "        while (l->n_inside > 0)\n            ef_wait(&l->finish, &pool.mutex);",
        "",
        "workers are left behind",
    ),
    ("tridiagonal.c", "values[second] -= cut", "values[second] += cut", "halves that do not fit"),
    ("tridiagonal.c", "            if (i != j)\n", "", "a distance from itself"),
    ("tridiagonal.c", "values[i] *= scale", "values[i] *= 1.0", "another matrix's eigenvalues"),
    ("tridiagonal.c", "weights[from] / column", "weights[i] / column", "weights of other poles"),
    ("tridiagonal.c", "vectors + s->coltyp[0]", "vectors", "the other half's part"),
    ("tridiagonal.c", "? -1 : 1;", "? 1 : -1;", "eigenvalues that descend"),
    ("threads.c", "    l->taken[slot] = true;", "", "two workers in one slot"),
    ("threads.c", "l.ranges[i].end = n_tasks - left", "l.ranges[i].end = left", "tasks left out"),
]


def core_mutants(root: Path) -> list[Mutant]:
    """Find each mistake's place; a text that is not there once is a mistake of this list."""
    mutants = []
    for name, old, new, what in MISTAKES:
        file = f"csrc/core/{name}"
        text = (root / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{file}: expected {old!r} once, found it {text.count(old)} times")
        start = text.index(old)
        line = text.count("\n", 0, start) + 1
        mutants.append(Mutant(file, start, start + len(old), new, f"line {line}: {what}"))
    return mutants
