"""Means over tasks with bootstrap intervals."""

from collections import defaultdict

import numpy as np

from zipr1.evaluation.records import Record
from zipr1.tasks import ALL_TASKS

RESAMPLES = 2000


def by_task(records: list[Record]) -> dict[str, np.ndarray]:
    """Task -> right or wrong (n,), in order of scene and question, so that two methods can be paired."""
    tasks: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        tasks[record.task].append(record)

    def place(record: Record) -> list[tuple[int, str]]:
        return [(len(part), part) for part in record.id.split("/")]  # 2 before 10

    return {
        task: np.array([record.right for record in sorted(mine, key=place)], float)
        for task, mine in tasks.items()
    }


def interval(values: dict[str, np.ndarray], seed: int = 0) -> tuple[float, float, float]:
    """Mean over tasks of the task means, with its 95 % bootstrap interval (questions resampled within each task, or pairs of
    them where they are about one scene)."""
    rng = np.random.default_rng(seed)
    drawn = [
        pairs(row) if task in ALL_TASKS and ALL_TASKS[task].pairs else row
        for task, row in values.items()
    ]
    draws = [row[rng.integers(len(row), size=(RESAMPLES, len(row)))].mean(1) for row in drawn]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    return float(np.mean([row.mean() for row in values.values()])), float(low), float(high)


def pairs(row: np.ndarray) -> np.ndarray:
    """(n,) -> (n // 2,), the mean of each pair; of an odd number the last one is left out, and one alone stays."""
    return row[: len(row) // 2 * 2].reshape(-1, 2).mean(1) if len(row) > 1 else row


def table_row(
    method: str, records: list[Record], full: list[Record] | None = None, preset: str | None = None
) -> dict:
    """One row of the table; with `full`, also the paired difference of mean accuracy to it."""
    values = by_task(records)
    mean, low, high = interval(values)
    row = {
        "method": method,
        "preset": preset,
        "p": records[0].p,
        "token_ratio": float(
            np.mean(
                [np.mean([r.token_ratio for r in records if r.task == task]) for task in values]
            )
        ),
        "accuracy": mean,
        "accuracy_low": low,
        "accuracy_high": high,
        "per_task": {task: float(row.mean()) for task, row in values.items()},
        "questions": len(records),
    }
    if full is not None:
        base = by_task(full)
        names = ("difference", "difference_low", "difference_high")
        row |= dict(
            zip(names, interval({task: values[task] - base[task] for task in values}), strict=True)
        )
    return row


LEARNED = 0.15  # that Full must be above the text-only prior
