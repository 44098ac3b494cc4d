"""Accuracy against token ratio: drawn, and curve.json written and read."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from zipr1.common.documents import read_document, write_document
from zipr1.common.errors import InputError
from zipr1.common.plots import COLOURS, colours_of, method_of, new_plot
from zipr1.evaluation.rows import TableRow
from zipr1.evaluation.tables import Table, rows_from

# Title ("mean": over all tasks, or a task) -> line -> its points; "Full" has one point.
Curves = dict[str, dict[str, list[TableRow]]]


def write_curves(curves: Curves, path: Path) -> None:
    """curve.json."""
    content = {
        title: {line: [row.to_json() for row in rows] for line, rows in lines.items()}
        for title, lines in curves.items()
    }
    write_document(path, "curves", {"curves": content})


def read_curves(path: Path, table: Table) -> Curves:
    """A file of `write_curves` or of an earlier version; `table` is the table of the same folder,
    of which those of `zipr1 eval` without a suite took the row of Full.

    Raises InputError, with the name of the file, for any other.
    """
    value = read_document(path, "curves")
    if isinstance(value, list):
        lines = {str(table.config.get("model", "")): value}
        full = [row.to_json() for row in table.rows if row.method == "full"]
        value = {"mean": lines | ({"Full": full} if full else {})}
    elif isinstance(value, dict) and "kind" in value:
        value = value.get("curves")
    elif isinstance(value, dict) and all(isinstance(rows, list) for rows in value.values()):
        value = {"mean": value}
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        raise InputError(f"{path}: holds no curves of `zipr1 eval`; run it again")
    return {
        title: {line: rows_from(rows, f"{path}: {title}, {line}") for line, rows in lines.items()}
        for title, lines in value.items()
    }


def plot_curves(lines: dict[str, Sequence[TableRow]], file: Path | IO, title: str = "mean") -> None:
    """One line a model, one point a threshold, with 95 % intervals; methods without a threshold are
    dashed. "Full" has one row, over the same questions as the others, and is a horizontal line."""
    figure, axes = new_plot()
    methods = [(name, rows) for name, rows in lines.items() if name != "Full"]
    # The curve of `zipr1 eval MODEL` has the name of its model: its method is that of its rows.
    known = {name: name if method_of(name) in COLOURS else rows[0].method for name, rows in methods}
    colours = colours_of(known)
    for name, rows in methods:
        plot_line(axes, name, sorted(rows, key=lambda row: row.token_ratio), colours[name])
    if "Full" in lines:
        level = 100 * lines["Full"][0].accuracy
        axes.axhline(level, color=COLOURS["full"], linestyle=":", label="Full")
    axes.set_xlabel("token ratio, % (numbers at the points: p)")
    axes.set_ylabel("mean accuracy, %" if title == "mean" else f"{title}: accuracy, %")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=150, bbox_inches="tight")


def plot_line(axes, name: str, rows: list[TableRow], color: str) -> None:
    x, y = [100 * row.token_ratio for row in rows], [100 * row.accuracy for row in rows]
    errors = np.array(
        [
            [100 * (row.accuracy - row.accuracy_low), 100 * (row.accuracy_high - row.accuracy)]
            for row in rows
        ]
    )
    has_threshold = rows[0].p is not None
    style = {"marker": "o"} if has_threshold else {"marker": ".", "linestyle": "--", "linewidth": 1}
    style |= {"capsize": 2, "elinewidth": 0.8, "color": color, "label": name}
    axes.errorbar(x, y, yerr=errors.T.clip(min=0), **style)
    if has_threshold:
        for row, at in zip(rows, zip(x, y, strict=True), strict=True):
            axes.annotate(f"{row.p:g}", at, textcoords="offset points", xytext=(4, -10), fontsize=7)
