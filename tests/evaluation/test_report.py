"""Tables: means over tasks, intervals, paired differences."""

import numpy as np
import pytest

from zipr1.evaluation.records import Record
from zipr1.evaluation.statistics import interval, table_row
from zipr1.evaluation.tables import markdown


def records(rights: dict[str, list[int]], ratio: float = 0.5) -> list[Record]:
    return [
        Record(
            task,
            f"{task}/{i}",
            "m",
            0.9,
            "",
            "",
            bool(right),
            ratio if task == "a" else ratio / 2,
            (ratio,),
            10,
        )
        for task, row in rights.items()
        for i, right in enumerate(row)
    ]


def test_mean_is_over_tasks_not_questions():
    row = table_row("m", records({"a": [1, 1, 1, 1], "b": [0, 1]}))
    assert row.accuracy == pytest.approx(0.75) and row.per_task == {"a": 1.0, "b": 0.5}
    assert row.token_ratio == pytest.approx(0.375)


def test_interval_covers_as_it_should():
    """95 % intervals hold the true mean in about 95 of 100 samples."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        _, low, high = interval(
            {
                "a": (rng.random(150) < 0.8).astype(float),
                "b": (rng.random(150) < 0.6).astype(float),
            },
            trial,
        )
        held += low <= 0.7 <= high
    assert 180 <= held <= 199


def test_differences_are_paired():
    """Equal answers leave no uncertainty about their difference, however uncertain the accuracy."""
    full = records({"a": [1, 0] * 20, "b": [0, 1] * 20})
    same = table_row("m", full, full)
    assert (same.difference, same.difference_low, same.difference_high) == (0, 0, 0)
    assert same.accuracy_high - same.accuracy_low > 0.1


def test_markdown_has_a_line_a_method():
    rows = [
        table_row("Full", records({"a": [1], "b": [0]})),
        table_row("ZipR1", records({"a": [1], "b": [1]}), preset="exact"),
    ]
    lines = markdown(rows).splitlines()
    assert len(lines) == 4 and lines[3].startswith(
        "| ZipR1 (exact) | 0.9 | 37.5 % | 100.0 | 100.0 | **100.0**"
    )
