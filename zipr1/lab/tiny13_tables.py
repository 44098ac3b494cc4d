"""Rows and points of the suite tiny13 -> its table with cost next to accuracy, and its figures."""

import json
from pathlib import Path

from zipr1.common.tables import markdown_table, tabular
from zipr1.evaluation.curves import plot_curves
from zipr1.evaluation.records import Record
from zipr1.evaluation.statistics import LEARNED, by_task, interval, pairs, table_row
from zipr1.evaluation.tables import cells, heads
from zipr1.tasks import ALL_TASKS

NOTES = """\
Text-only priors: {priors}.{unlearned}

Downsample and Fewer frames show about that share of the visual tokens, read densely; the question and the chat template stay,
so that their token ratio is higher.{clips}

The last three columns are of the decoder's pass over the prompt, in % of Full's. FLOPs and KV bytes are counted from what was
kept; the time is measured in turns with Full's, in brackets that of the fastest and of the slowest pairs. The vision tower is
left out; the FLOPs leave out the choice of tokens too, which the time has.
"""


def unlearned(rows: list[dict], priors: dict[str, float]) -> list[str]:
    """The tasks that Full does not answer well above what their questions give away."""
    return [
        task for task, accuracy in rows[0]["per_task"].items() if accuracy - priors[task] < LEARNED
    ]


def mean_of(records: list[Record], tasks: set[str]) -> dict | None:
    """The mean over some of the tasks, with its interval; None without any."""
    values = {task: row for task, row in by_task(records).items() if task in tasks}
    return dict(zip(("accuracy", "low", "high"), interval(values), strict=True)) if values else None


def pairs_of(records: list[Record]) -> dict[str, tuple[float, float, float]]:
    """Task of pairs -> share of its pairs with both answers right, and the 95 % interval."""
    rows = {
        task: row
        for task, row in by_task(records).items()
        if ALL_TASKS[task].pairs and len(row) > 1
    }
    return {task: interval({"both": (pairs(row) == 1).astype(float)}) for task, row in rows.items()}


def pair_table(rows: list[dict]) -> str:
    """Both questions of a pair right, for the tasks that ask in pairs; empty without one."""
    tasks = list(dict.fromkeys(task for row in rows for task in row["pairs"]))
    if not tasks:
        return ""
    body = []
    for row in rows:
        found = [
            [f"{100 * value:.1f}" for value in row["pairs"][task]] if task in row["pairs"] else None
            for task in tasks
        ]
        body.append(
            [row["method"], *("{} ({} to {})".format(*line) if line else "-" for line in found)]
        )
    table = markdown_table(["both of a pair right", *(f"{task} (95 %)" for task in tasks)], body)
    return f"\n{table}"


def percent(row: dict, name: str) -> str:
    return f"{100 * row[name]:.0f}"


def write_table(rows: list[dict], priors: dict[str, float], origin: dict, folder: Path) -> str:
    """table.md, table.json and table.tex of rows of which Full is the first; returns the markdown.

    A row is `report.table_row` with "ratio" (asked for, or None), "learned" (`mean_of` or None), "pairs" (`pairs_of`) and what
    `cost` found.
    """
    poor = unlearned(rows, priors)
    tasks = list(rows[0]["per_task"])
    head = heads(rows)
    head[1] = "p or ratio"
    head = [f"{name}*" if name in poor else name for name in head]
    head += ["mean without * (95 %)"] * bool(poor) + ["FLOPs", "KV bytes", "time (range)"]
    body = []
    for row in rows:
        line = cells(row, tasks)
        line[1] = line[1] if row["ratio"] is None else f"ratio {row['ratio']:g}"
        if poor:
            found = row["learned"]
            line.append(
                f"{100 * found['accuracy']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
                if found
                else "-"
            )
        span = f"{percent(row, 'time')} ({percent(row, 'time_low')} to {percent(row, 'time_high')})"
        body.append([*line, percent(row, "flops"), percent(row, "kv_bytes"), span])
    clips = [task for task in tasks if ALL_TASKS[task].video]
    notes = NOTES.format(
        priors=", ".join(f"{task} {100 * prior:.1f}" for task, prior in priors.items()),
        unlearned=f" * not learned: Full is less than {100 * LEARNED:.0f} points above it."
        if poor
        else "",
        clips=f" Fewer frames has clips alone: all its numbers are over {', '.join(clips)}."
        if clips
        else "",
    )
    text = f"{markdown_table(head, body)}\n{notes}{pair_table(rows)}"
    (folder / "table.md").write_text(text)
    (folder / "table.tex").write_text(latex(rows, poor))
    (folder / "table.json").write_text(
        json.dumps({"rows": rows, "priors": priors, "unlearned": poor} | origin, indent=1)
    )
    return text


def latex(rows: list[dict], poor: list[str]) -> str:
    """Numbers without intervals, all in %."""
    tasks = list(rows[0]["per_task"])
    head = [
        "Method",
        "Ratio",
        *(f"{task}*" if task in poor else task for task in tasks),
        "Mean",
        "FLOPs",
        "KV",
        "Time",
    ]
    body = []
    for row in rows:
        accuracies = [
            f"{100 * row['per_task'][task]:.1f}" if task in row["per_task"] else "--"
            for task in tasks
        ]
        shares = [percent(row, name) for name in ("flops", "kv_bytes", "time")]
        body.append(
            [
                row["method"],
                f"{100 * row['token_ratio']:.1f}",
                *accuracies,
                f"{100 * row['accuracy']:.1f}",
                *shares,
            ]
        )
    lines = [[cell.replace("_", r"\_") for cell in line] for line in (head, *body)]
    return tabular("tiny13: accuracy and cost, in %", lines[0], lines[1:]) + "\n"


def write_curves(points: dict[str, list[list[Record]]], folder: Path) -> None:
    """curve.json and curves/*.png: "mean", of the methods that take all tasks, and each task -> row -> its points.

    points: row -> records of each point, all of the same questions; Full has one.
    """
    (folder / "curves").mkdir(exist_ok=True)
    tasks = list(by_task(points["Full"][0]))
    found = {}
    for name, wanted in {"mean": tasks, **{task: [task] for task in tasks}}.items():
        curves = {}
        for row, several in points.items():
            chosen = [
                [record for record in records if record.task in wanted] for records in several
            ]
            if all(len(by_task(records)) == len(wanted) for records in chosen):
                curves[row] = sorted(
                    (table_row(row, records) for records in chosen),
                    key=lambda row: row["token_ratio"],
                )
        plot_curves(curves, folder / "curves" / f"{name}.png", "" if name == "mean" else name)
        found[name] = curves
    (folder / "curve.json").write_text(json.dumps(found, indent=1))
