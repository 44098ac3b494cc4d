"""The files of the suite tiny13: its table, with cost next to accuracy, and its curves."""

from pathlib import Path

from zipr1.common.tables import markdown_table, tabular
from zipr1.evaluation.curves import Curves, plot_curves, write_curves
from zipr1.evaluation.records import Record
from zipr1.evaluation.rows import CostRow
from zipr1.evaluation.statistics import LEARNED, by_task, table_row
from zipr1.evaluation.tables import Table, cells, heads, percent, write_table
from zipr1.tasks import ALL_TASKS

NOTES = """\
Text-only priors: {priors}.{unlearned}

Downsample and Fewer frames shorten the prompt to about that fraction of its visual tokens, with
dense attention; the question and the chat template stay, so that their token ratio is
higher.{videos}

The last three columns are of the decoder's prefill, in % of Full's. FLOPs and KV bytes are computed
from the token ratios; the time is measured alternately with Full's, in brackets that of the fastest
and of the slowest pairs. The vision tower is left out; the FLOPs leave out the selection of tokens
too, which the time includes.
"""


def write_suite_table(table: Table, folder: Path) -> str:
    """table.md, table.json and table.tex of `CostRow`s of which Full is the first; returns the
    markdown."""
    text = f"{results(table)}\n{notes(table)}{pair_table(table.rows)}"
    (folder / "table.md").write_text(text)
    (folder / "table.tex").write_text(latex(table))
    write_table(table, folder / "table.json")
    return text


def results(table: Table) -> str:
    """Accuracy, token ratio and cost, in markdown."""
    tasks = list(table.rows[0].per_task)
    head = heads(table.rows)
    head[1] = "p or ratio"
    head = [f"{name}*" if name in table.unlearned else name for name in head]
    head += ["mean without * (95 %)"] if table.unlearned else []
    head += ["FLOPs", "KV bytes", "time (range)"]
    body = []
    for row in table.rows:
        line = cells(row, tasks)
        line[1] = line[1] if row.ratio is None else f"ratio {row.ratio:g}"
        if table.unlearned:
            line.append(spanned(*row.learned.values()) if row.learned else "-")
        time = f"{whole(row.time)} ({whole(row.time_low)} to {whole(row.time_high)})"
        body.append([*line, whole(row.flops), whole(row.kv_bytes), time])
    return markdown_table(head, body)


def whole(value: float) -> str:
    """A fraction in %, without decimals."""
    return f"{100 * value:.0f}"


def spanned(value: float, low: float, high: float) -> str:
    """A fraction with its interval, in %."""
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


def notes(table: Table) -> str:
    videos = [task for task in table.rows[0].per_task if ALL_TASKS[task].video]
    unlearned = videos_only = ""
    if table.unlearned:
        unlearned = f" * not learned: Full is less than {100 * LEARNED:.0f} points above it."
    if videos:
        videos_only = f" Fewer frames needs videos: all its numbers are over {', '.join(videos)}."
    priors = ", ".join(f"{task} {percent(prior)}" for task, prior in table.priors.items())
    return NOTES.format(priors=priors, unlearned=unlearned, videos=videos_only)


def pair_table(rows: list[CostRow]) -> str:
    """The fraction of pairs with both answers correct, for the tasks that ask in pairs; "" without
    one."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.pairs))
    if not tasks:
        return ""
    body = [
        [row.method, *(spanned(*row.pairs[task]) if task in row.pairs else "-" for task in tasks)]
        for row in rows
    ]
    head = ["both of a pair correct", *(f"{task} (95 %)" for task in tasks)]
    return f"\n{markdown_table(head, body)}"


def latex(table: Table) -> str:
    """Numbers without intervals, all in %."""
    tasks = list(table.rows[0].per_task)
    names = [f"{task}*" if task in table.unlearned else task for task in tasks]
    head = ["Method", "Ratio", *names, "Mean", "FLOPs", "KV", "Time"]
    body = [
        [
            row.method,
            percent(row.token_ratio),
            *(percent(row.per_task.get(task), "--") for task in tasks),
            percent(row.accuracy),
            *(whole(value) for value in (row.flops, row.kv_bytes, row.time)),
        ]
        for row in table.rows
    ]
    lines = [[cell.replace("_", r"\_") for cell in line] for line in (head, *body)]
    return tabular("tiny13: accuracy and cost, in %", lines[0], lines[1:]) + "\n"


def write_suite_curves(points: dict[str, list[list[Record]]], folder: Path) -> None:
    """curve.json and curves/*.png: "mean", of the methods that answer all tasks, and each task.

    points: row -> records of each point, all of the same questions; Full has one.
    """
    (folder / "curves").mkdir(exist_ok=True)
    tasks = list(by_task(points["Full"][0]))
    curves: Curves = {}
    for title, wanted in {"mean": tasks, **{task: [task] for task in tasks}}.items():
        lines = {}
        for row, several in points.items():
            chosen = [[one for one in records if one.task in wanted] for records in several]
            if all(len(by_task(records)) == len(wanted) for records in chosen):
                found = [table_row(row, records) for records in chosen]
                lines[row] = sorted(found, key=lambda row: row.token_ratio)
        plot_curves(lines, folder / "curves" / f"{title}.png", title)
        curves[title] = lines
    write_curves(curves, folder / "curve.json")
