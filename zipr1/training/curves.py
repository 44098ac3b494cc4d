"""The metrics of training runs, drawn."""

import math
from pathlib import Path
from typing import IO

import numpy as np

from zipr1.common.plots import colours_of, new_plot

PANELS = {
    "reward: accuracy": "rewards/accuracy",
    "reward: 1 - token ratio": "rewards/efficiency",
    "probe: token ratio at fixed p": "probe/token_ratio",
    "probe: accuracy at fixed p": "probe/accuracy",
    "probe: accuracy, dense": "probe/full_accuracy",
    "KL to the dense reference": "kl",
}
SMOOTH = 10  # steps of the running mean over metrics of single steps, which are noisy


def plot_training(runs: dict[str, list[dict]], file: Path | IO) -> None:
    """Reward parts, token ratio at the fixed p, and KL over the steps of each run (the rows of its
    metrics.jsonl). A number that was not finite leaves a gap."""
    figure, grid = new_plot(2, 3, (11, 6))
    colours = colours_of({name: name for name in runs})
    for axes, (title, key) in zip(grid.flat, PANELS.items(), strict=True):
        for name, rows in runs.items():
            steps = [row["step"] for row in rows if key in row]
            values = [math.nan if row[key] is None else row[key] for row in rows if key in row]
            if not key.startswith("probe") and len(values) > 2 * SMOOTH:
                values = np.convolve(values, np.ones(SMOOTH) / SMOOTH, mode="valid")
                steps = steps[SMOOTH - 1 :]
            axes.plot(steps, values, label=name, color=colours[name])
        axes.set_title(title, fontsize=9)
    grid.flat[0].legend(fontsize=8)
    for axes in grid[1]:
        axes.set_xlabel("step")
    figure.savefig(file, dpi=150, bbox_inches="tight")
