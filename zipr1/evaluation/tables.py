"""Results tables: rows as markdown, and table.json written and read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zipr1.common.documents import from_json, read_document, write_document
from zipr1.common.errors import InputError
from zipr1.common.tables import markdown_table
from zipr1.evaluation.rows import CostRow, TableRow


@dataclass(frozen=True)
class Table:
    """What table.json holds.

    config: settings of the command; priors: text-only prior of each task, and unlearned: the tasks
    that Full does not answer well above it (both of the suite tiny13); left_out: number of rows of
    the user's data that could not be used; origin: commit, command, device, versions (empty in the
    demo's tables of early versions).
    """

    rows: list[TableRow]
    config: dict = field(default_factory=dict)
    priors: dict[str, float] = field(default_factory=dict)
    unlearned: list[str] = field(default_factory=list)
    origin: dict = field(default_factory=dict)
    left_out: int = 0


ORIGIN = ("versions", "commit", "device", "threads", "command")


def write_table(table: Table, path: Path) -> None:
    """table.json; what a kind of evaluation does not have is left out."""
    rows = {"rows": [row.to_json() for row in table.rows]}
    priors = {"priors": table.priors, "unlearned": table.unlearned} if table.priors else {}
    config = {"config": table.config} if table.config else {}
    if table.left_out:
        config["left_out"] = table.left_out
    write_document(path, "table", rows | priors | config | table.origin)


def read_table(path: Path) -> Table:
    """A file of `write_table` or of an earlier version.

    Raises InputError, with the name of the file, for any other.
    """
    value = read_document(path, "table")
    if isinstance(value, list):  # the demo's, before files had a kind
        value = {"rows": value}
    if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
        raise InputError(f"{path}: no 'rows': not a table of `zipr1 eval`; run it again")
    rows = rows_from(value["rows"], str(path))
    try:
        table = from_json(Table, value | {"rows": []})
    except ValueError as error:
        raise InputError(f"{path}: {error}; run `zipr1 eval` again") from error
    table.rows.extend(rows)
    table.origin.update({name: value[name] for name in ORIGIN if name in value})
    return table


def rows_from(values: object, where: str) -> list[TableRow]:
    """Rows of `TableRow.to_json`. Raises InputError, which begins with `where`."""
    if not isinstance(values, list):
        raise InputError(f"{where}: expected a list of rows; run `zipr1 eval` again")
    rows = []
    for number, value in enumerate(values, 1):
        has_cost = isinstance(value, dict) and "flops" in value
        try:
            rows.append(from_json(CostRow if has_cost else TableRow, value))
        except ValueError as error:
            raise InputError(f"{where}: row {number}: {error}; run `zipr1 eval` again") from error
    return rows


def heads(rows: Sequence[TableRow]) -> list[str]:
    """The column heads of `cells`."""
    names = ["method", "p", "token ratio", *tasks_of(rows), "mean (95 %)", "to Full (95 %)"]
    return names + (["reward (95 %)", "to Full (95 %)"] if has_reward(rows) else [])


def has_reward(rows: Sequence[TableRow]) -> bool:
    return any(row.reward is not None for row in rows)


def tasks_of(rows: Sequence[TableRow]) -> list[str]:
    """The tasks of all rows; a method may lack some."""
    return list(dict.fromkeys(task for row in rows for task in row.per_task))


def cells(row: TableRow, tasks: list[str]) -> list[str]:
    """A row in the shape of the paper's Tables 1 and 2 (method, ratio, tasks, mean), then the
    difference to Full, and the same of a reward where there is one."""
    threshold = "-" if row.p is None else f"{row.p:g}"
    span = f"({percent(row.accuracy_low)} to {percent(row.accuracy_high)})"
    difference = row.difference, row.difference_low, row.difference_high
    reward = []
    if row.reward is not None:
        change = row.reward_difference, row.reward_difference_low, row.reward_difference_high
        mean = f"**{row.reward:.3f}** ({row.reward_low:.3f} to {row.reward_high:.3f})"
        reward = [mean, spread(change, "+.3f")]
    return [
        row.name,
        threshold,
        f"{100 * row.token_ratio:.1f} %",
        *(percent(row.per_task.get(task)) for task in tasks),
        f"**{percent(row.accuracy)}** {span}",
        spread([None if one is None else 100 * one for one in difference], "+.1f"),
        *reward,
    ]


def spread(values: Sequence[float | None], form: str) -> str:
    """A difference with its interval."""
    if values[0] is None:
        return "-"
    middle, low, high = (format(value, form) for value in values)
    return f"{middle} ({low} to {high})"


def percent(value: float | None, absent: str = "-") -> str:
    """A fraction in %, with one decimal."""
    return absent if value is None else f"{100 * value:.1f}"


def markdown(rows: Sequence[TableRow]) -> str:
    return markdown_table(heads(rows), [cells(row, tasks_of(rows)) for row in rows])
