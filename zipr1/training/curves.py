"""The metrics of training runs, drawn."""

import json
from pathlib import Path
from typing import IO

import numpy as np

from zipr1.common.plots import new_plot


def plot_training(runs: dict[str, Path], file: Path | IO) -> None:
    """Reward parts, token ratio at the fixed p, and KL over the steps of each run (its metrics.jsonl)."""
    panels = {
        "reward: accuracy": "rewards/accuracy", "reward: 1 - token ratio": "rewards/efficiency",
        "probe: token ratio at fixed p": "probe/token_ratio", "probe: accuracy at fixed p": "probe/accuracy",
        "probe: accuracy, dense": "probe/full_accuracy", "KL to the dense reference": "kl",
    }  # fmt: skip
    figure, grid = new_plot(2, 3, (11, 6))
    for axes, (title, key) in zip(grid.flat, panels.items(), strict=True):
        for name, metrics in runs.items():
            rows = [json.loads(line) for line in metrics.read_text().splitlines()]
            points = [(row["step"], row[key]) for row in rows if key in row]
            if (
                not key.startswith("probe") and len(points) > 20
            ):  # noisy: a running mean of ten steps
                smooth = np.convolve([value for _, value in points], np.ones(10) / 10, mode="valid")
                points = list(zip([step for step, _ in points][9:], smooth, strict=True))
            axes.plot(*zip(*points, strict=True), label=name)
        axes.set_title(title, fontsize=9)
    grid.flat[0].legend(fontsize=8)
    for axes in grid[1]:
        axes.set_xlabel("step")
    figure.savefig(file, dpi=150, bbox_inches="tight")
