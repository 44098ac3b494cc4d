"""Means over tasks with bootstrap intervals."""

from collections import Counter, defaultdict
from collections.abc import Callable
from operator import attrgetter

import numpy as np

from zipr1.evaluation.records import Record
from zipr1.evaluation.rows import TableRow
from zipr1.tasks import ALL_TASKS

RESAMPLES = 2000
LEARNED = 0.15  # a task counts as learned from this accuracy above its text-only prior


def by_task(
    records: list[Record], value: Callable[[Record], float] = attrgetter("correct")
) -> dict[str, np.ndarray]:
    """Task -> the values of its records (n,), 1 for a correct answer, else 0, in order of scene and
    question, so that two methods can be paired."""
    tasks: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        tasks[record.task].append(record)

    def position(record: Record) -> list[tuple[int, str]]:
        return [(len(part), part) for part in record.id.split("/")]  # 2 before 10

    return {
        task: np.array([value(record) for record in sorted(rows, key=position)], float)
        for task, rows in tasks.items()
    }


def pooled(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All values as those of one task."""
    return {"": np.concatenate(list(values.values()))}


def interval(values: dict[str, np.ndarray], seed: int = 0) -> tuple[float, float, float]:
    """(mean over tasks of the task means, low, high): its 95 % percentile bootstrap interval.

    Questions are resampled within each task; of tasks that ask in pairs, the pairs.
    """
    # scipy.stats.bootstrap draws the same samples, but its last digits differ, it refuses tasks
    # with one question, and importing it takes longer than the whole table.
    rng = np.random.default_rng(seed)
    units = [
        pair_means(row) if task in ALL_TASKS and ALL_TASKS[task].pairs else row
        for task, row in values.items()
    ]
    draws = [row[rng.integers(len(row), size=(RESAMPLES, len(row)))].mean(1) for row in units]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    return float(np.mean([row.mean() for row in values.values()])), float(low), float(high)


def pair_means(row: np.ndarray) -> np.ndarray:
    """(n,) -> (n // 2,), the mean of each pair; the last of an odd number is left out, and a single
    value stays."""
    return row[: len(row) // 2 * 2].reshape(-1, 2).mean(1) if len(row) > 1 else row


def table_row(
    method: str,
    records: list[Record],
    full: list[Record] | None = None,
    preset: str | None = None,
    pool: bool = False,
) -> TableRow:
    """One row of the table; with the records of Full, also the paired difference to them, on the
    questions of `records`. pool: means over questions instead of tasks."""
    values, together = by_task(records), pooled if pool else dict
    mean, low, high = interval(together(values))
    ratios = by_task(records, attrgetter("token_ratio"))
    ids = {record.id for record in records}
    full = None if full is None else [record for record in full if record.id in ids]
    further = paired("difference", values, full, attrgetter("correct"), together)
    if any(record.reward is not None for record in records):
        rewards, names = by_task(records, rewarded), ("reward", "reward_low", "reward_high")
        further |= dict(zip(names, interval(together(rewards)), strict=True))
        further |= paired("reward_difference", rewards, full, rewarded, together)
    return TableRow(
        method=method,
        preset=preset,
        p=records[0].p,
        token_ratio=float(np.mean([row.mean() for row in together(ratios).values()])),
        accuracy=mean,
        accuracy_low=low,
        accuracy_high=high,
        per_task={task: float(row.mean()) for task, row in values.items()},
        questions=len(records),
        **further,
    )


def notes(records: dict[str, list[Record]], tasks: dict[str, str], pool: bool) -> list[str]:
    """For each method that cannot be applied to all questions: which it lacks, and the mean of Full
    over the others, as its own mean cannot be compared with those over all.

    tasks: id of each question -> its task.
    """
    lines = []
    for method, found in records.items():
        ids = {record.id for record in found}
        if lacking := Counter(task for name, task in tasks.items() if name not in ids):
            without = ", ".join(f"{count} of {task}" for task, count in lacking.items())
            line = f"{method}: over {len(ids)} of {len(tasks)} questions, without {without}"
            if full := [record for record in records.get("full", []) if record.id in ids]:
                mean = 100 * table_row("full", full, pool=pool).accuracy
                line += f"; the mean of full over the same questions is {mean:.1f}"
            lines.append(f"{line}.")
    return lines


def rewarded(record: Record) -> float:
    """The reward; 0 where no function applies, as in training."""
    return record.reward or 0.0


def paired(
    name: str,
    values: dict[str, np.ndarray],
    full: list[Record] | None,
    value: Callable[[Record], float],
    together: Callable,
) -> dict[str, float]:
    """The difference of `values` to those of Full, with its interval; {} without Full."""
    if full is None:
        return {}
    base = by_task(full, value)
    found = interval(together({task: row - base[task] for task, row in values.items()}))
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def unlearned(full: TableRow, priors: dict[str, float]) -> list[str]:
    """The tasks that Full does not answer well above their text-only prior."""
    return [task for task, accuracy in full.per_task.items() if accuracy - priors[task] < LEARNED]


def mean_of(records: list[Record], tasks: set[str]) -> dict[str, float] | None:
    """{"accuracy", "low", "high"}: mean over some of the tasks with its interval; or None."""
    values = {task: row for task, row in by_task(records).items() if task in tasks}
    return dict(zip(("accuracy", "low", "high"), interval(values), strict=True)) if values else None


def pairs_of(records: list[Record]) -> dict[str, tuple[float, float, float]]:
    """Task that asks in pairs -> (fraction of pairs with both answers correct, low, high)."""
    return {
        task: interval({"both": (pair_means(row) == 1).astype(float)})
        for task, row in by_task(records).items()
        if ALL_TASKS[task].pairs and len(row) > 1
    }
