"""Records -> the paper's table, with intervals, and the curves."""

import json
from collections import defaultdict
from pathlib import Path
from typing import IO

import numpy as np

from zipr1.evaluate import Record
from zipr1.tasks import ALL_TASKS

RESAMPLES = 2000


def by_task(records: list[Record]) -> dict[str, np.ndarray]:
    """Task -> right or wrong (n,), in order of scene and question, so that two methods can be paired."""
    tasks: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        tasks[record.task].append(record)

    def place(record: Record) -> list[tuple[int, str]]:
        return [(len(part), part) for part in record.id.split("/")]  # 2 before 10

    return {task: np.array([record.right for record in sorted(mine, key=place)], float) for task, mine in tasks.items()}


def interval(values: dict[str, np.ndarray], seed: int = 0) -> tuple[float, float, float]:
    """Mean over tasks of the task means, with its 95 % bootstrap interval (questions resampled within each task, or pairs of
    them where they are about one scene)."""
    rng = np.random.default_rng(seed)
    drawn = [pairs(row) if task in ALL_TASKS and ALL_TASKS[task].pairs else row for task, row in values.items()]
    draws = [row[rng.integers(len(row), size=(RESAMPLES, len(row)))].mean(1) for row in drawn]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    return float(np.mean([row.mean() for row in values.values()])), float(low), float(high)


def pairs(row: np.ndarray) -> np.ndarray:
    """(n,) -> (n // 2,), the mean of each pair; of an odd number the last one is left out, and one alone stays."""
    return row[: len(row) // 2 * 2].reshape(-1, 2).mean(1) if len(row) > 1 else row


def table_row(method: str, records: list[Record], full: list[Record] | None = None, preset: str | None = None) -> dict:
    """One row of the table; with `full`, also the paired difference of mean accuracy to it."""
    values = by_task(records)
    mean, low, high = interval(values)
    row = {
        "method": method,
        "preset": preset,
        "p": records[0].p,
        "token_ratio": float(np.mean([np.mean([r.token_ratio for r in records if r.task == task]) for task in values])),
        "accuracy": mean,
        "accuracy_low": low,
        "accuracy_high": high,
        "per_task": {task: float(row.mean()) for task, row in values.items()},
        "questions": len(records),
    }
    if full is not None:
        base = by_task(full)
        names = ("difference", "difference_low", "difference_high")
        row |= dict(zip(names, interval({task: values[task] - base[task] for task in values}), strict=True))
    return row


def heads(rows: list[dict]) -> list[str]:
    """What stands above `cells`."""
    return ["method", "p", "token ratio", *tasks_of(rows), "mean (95 %)", "to Full (95 %)"]


def tasks_of(rows: list[dict]) -> list[str]:
    """Of all rows; a method may not take them all."""
    return list(dict.fromkeys(task for row in rows for task in row["per_task"]))


def cells(row: dict, tasks: list[str]) -> list[str]:
    """A row in the shape of the paper's Tables 1 and 2: method, ratio, tasks, mean; then the difference to Full."""
    name = f"{row['method']} ({row['preset']})" if row["preset"] else row["method"]
    found = [name, "-" if row["p"] is None else f"{row['p']:g}", f"{100 * row['token_ratio']:.1f} %"]
    found += [f"{100 * row['per_task'][task]:.1f}" if task in row["per_task"] else "-" for task in tasks]
    found.append(f"**{100 * row['accuracy']:.1f}** ({100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f})")
    if "difference" in row:
        low, high = row["difference_low"], row["difference_high"]
        found.append(f"{100 * row['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
    else:
        found.append("-")
    return found


def markdown_table(head: list[str], body: list[list[str]]) -> str:
    first, *rest = (f"| {' | '.join(line)} |" for line in (head, *body))
    return "\n".join([first, "|" + "---|" * len(head), *rest]) + "\n"


def markdown(rows: list[dict]) -> str:
    return markdown_table(heads(rows), [cells(row, tasks_of(rows)) for row in rows])


def plot_curves(curves: dict[str, list[dict]], file: Path | IO, title: str = "") -> None:
    """Accuracy against measured token ratio, one line a model, one point a threshold; dashed, methods without a threshold.

    "Full" has one row, over the same questions as the others, and is a level.
    """
    figure, axes = new_plot()
    for number, (name, rows) in enumerate((name, rows) for name, rows in curves.items() if name != "Full"):
        rows = sorted(rows, key=lambda row: row["token_ratio"])
        x, y = [100 * r["token_ratio"] for r in rows], [100 * r["accuracy"] for r in rows]
        errors = np.array(
            [[100 * (r["accuracy"] - r["accuracy_low"]), 100 * (r["accuracy_high"] - r["accuracy"])] for r in rows]
        )
        ours = rows[0]["p"] is not None
        style = {"marker": "o"} if ours else {"marker": ".", "linestyle": "--", "linewidth": 1}
        axes.errorbar(x, y, yerr=errors.T.clip(min=0), capsize=2, elinewidth=0.8, color=f"C{number % 10}", label=name, **style)
        for row, a, b in zip(rows, x, y, strict=True):
            if ours:
                axes.annotate(f"{row['p']:g}", (a, b), textcoords="offset points", xytext=(4, -10), fontsize=7)
    if "Full" in curves:
        axes.axhline(100 * curves["Full"][0]["accuracy"], color="black", linestyle=":", label="Full")
    axes.set_xlabel("token ratio, % (numbers at the points: p)")
    axes.set_ylabel("mean accuracy, %" if not title else f"{title}: accuracy, %")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=150, bbox_inches="tight")


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
            if not key.startswith("probe") and len(points) > 20:  # noisy: a running mean of ten steps
                smooth = np.convolve([value for _, value in points], np.ones(10) / 10, mode="valid")
                points = list(zip([step for step, _ in points][9:], smooth, strict=True))
            axes.plot(*zip(*points, strict=True), label=name)
        axes.set_title(title, fontsize=9)
    grid.flat[0].legend(fontsize=8)
    for axes in grid[1]:
        axes.set_xlabel("step")
    figure.savefig(file, dpi=150, bbox_inches="tight")


def new_plot(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7, 4.5)):
    """A figure without a display; matplotlib is imported here because it is only in the extras."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns)
    for one in np.atleast_1d(axes).flat:
        one.grid(alpha=0.3)
    return figure, axes
