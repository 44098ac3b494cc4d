"""Rows of the paper's Tables 1 and 2 as markdown and LaTeX."""

from collections.abc import Iterable

from zipr1.common.tables import markdown_table, tabular
from zipr1.evaluation.paper.rows import Cell, PaperRow

TITLES = {1: "7 image benchmarks", 2: "6 video benchmarks"}


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 200 else f"{value:.1f}"


def shown(cell: Cell | None) -> tuple[str, str]:
    """The score, and in small print its 95 % interval, the difference to Full with its own, and the
    number of unjudged answers."""
    if cell is None:
        return "failed", ""
    parts = []
    if cell.low is not None:
        spans = [f"{number(a)} to {number(b)}" for a, b in zip(cell.low, cell.high, strict=True)]
        parts.append(f"({'/'.join(spans)})")
    if cell.difference:
        differences = [f"{difference:+.1f}" for difference in cell.difference]
        if cell.difference_low is not None:
            ends = zip(differences, cell.difference_low, cell.difference_high, strict=True)
            differences = [f"{text}, {low:+.1f} to {high:+.1f}" for text, low, high in ends]
        parts.append(f"[{'/'.join(differences)}]")
    if cell.unjudged:
        parts.append(f"{cell.unjudged} unjudged")
    return "/".join(number(score) for score in cell.score), " ".join(parts)


def ratio_shown(rows: list[PaperRow]) -> tuple[str, str]:
    """The mean token ratio over the benchmarks of some rows and, where some have none, how many
    have."""
    done = [sum(cell is not None for cell in row.benchmarks.values()) for row in rows]
    if not any(done):
        return "-", ""
    ratios = [row.token_ratio * count for row, count in zip(rows, done, strict=True) if count]
    small = incomplete(cell for row in rows for cell in row.benchmarks.values())
    return f"{100 * sum(ratios) / sum(done):.1f}", small


def incomplete(cells: Iterable[Cell | None]) -> str:
    """How many of the benchmarks a mean is over; "" where it is over all."""
    has = [cell is not None for cell in cells]
    return "" if all(has) else f"({sum(has)} of {len(has)})"


def suite_tables(
    rows: list[PaperRow],
) -> list[tuple[str, list[str], list[list[tuple[str, str]]]]]:
    """(title, head, body) of both tables and of a third with the means; a cell of the body is a
    text and its small print."""
    if not rows:
        return []
    found = []
    for table, title in TITLES.items():
        chosen = [row for row in rows if row.table == table]
        if chosen:
            body = [
                [(row.method, ""), ratio_shown([row]), *map(shown, row.benchmarks.values())]
                for row in chosen
            ]
            head = ["Method", "Ratio", *chosen[0].benchmarks]
            found.append((f"Table {table}: {title}", head, body))
    columns = {"images": 1, "videos": 2}
    body = []
    for method in dict.fromkeys(row.method for row in rows):
        by_table = {row.table: row for row in rows if row.method == method}
        means = [mean_shown(by_table.get(table)) for table in columns.values()]
        body.append([(method, ""), ratio_shown(list(by_table.values())), *means])
    title = "Means over benchmarks, each in % of its highest score"
    return [*found, (title, ["Method", "Ratio", *columns], body)]


def mean_shown(row: PaperRow | None) -> tuple[str, str]:
    """The mean of a row; "-" without one, as in files of early versions."""
    if row is None or row.mean is None:
        return "-", ""
    text, small = shown(row.mean)
    return text, f"{small} {incomplete(row.benchmarks.values())}".strip()


def suite_markdown(rows: list[PaperRow]) -> str:
    """The tables; in brackets the 95 % interval and, in square ones, the difference to Full with
    its own."""
    parts = []
    for title, head, body in suite_tables(rows):
        lines = [[" ".join(filter(None, cell)) for cell in line] for line in body]
        parts.append(f"{title}\n\n{markdown_table(head, lines)}")
    return "\n".join(parts)


def suite_latex(rows: list[PaperRow]) -> str:
    """The tables as the paper prints them, with intervals and differences in small print."""

    def latex(text: str, small: str = "") -> str:
        text, small = (part.replace("_", r"\_").replace("%", r"\%") for part in (text, small))
        return f"{text} {{\\scriptsize {small}}}" if small else text

    parts = [
        tabular(title, [latex(name) for name in head], [[latex(*c) for c in line] for line in body])
        for title, head, body in suite_tables(rows)
    ]
    return "\n\n".join(parts) + "\n"
