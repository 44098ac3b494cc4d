"""Accuracy against token ratio, drawn."""

from pathlib import Path
from typing import IO

import numpy as np

from zipr1.common.plots import new_plot


def plot_curves(curves: dict[str, list[dict]], file: Path | IO, title: str = "") -> None:
    """Accuracy against measured token ratio, one line a model, one point a threshold; dashed, methods without a threshold.

    "Full" has one row, over the same questions as the others, and is a level.
    """
    figure, axes = new_plot()
    for number, (name, rows) in enumerate(
        (name, rows) for name, rows in curves.items() if name != "Full"
    ):
        rows = sorted(rows, key=lambda row: row["token_ratio"])
        x, y = [100 * r["token_ratio"] for r in rows], [100 * r["accuracy"] for r in rows]
        errors = np.array(
            [
                [
                    100 * (r["accuracy"] - r["accuracy_low"]),
                    100 * (r["accuracy_high"] - r["accuracy"]),
                ]
                for r in rows
            ]
        )
        ours = rows[0]["p"] is not None
        style = {"marker": "o"} if ours else {"marker": ".", "linestyle": "--", "linewidth": 1}
        axes.errorbar(
            x,
            y,
            yerr=errors.T.clip(min=0),
            capsize=2,
            elinewidth=0.8,
            color=f"C{number % 10}",
            label=name,
            **style,
        )
        for row, a, b in zip(rows, x, y, strict=True):
            if ours:
                axes.annotate(
                    f"{row['p']:g}", (a, b), textcoords="offset points", xytext=(4, -10), fontsize=7
                )
    if "Full" in curves:
        axes.axhline(
            100 * curves["Full"][0]["accuracy"], color="black", linestyle=":", label="Full"
        )
    axes.set_xlabel("token ratio, % (numbers at the points: p)")
    axes.set_ylabel("mean accuracy, %" if not title else f"{title}: accuracy, %")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=150, bbox_inches="tight")
