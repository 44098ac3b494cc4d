"""Records -> the paper's table, with intervals, and the curves."""

from zipr1.common.tables import markdown_table


def heads(rows: list[dict]) -> list[str]:
    """What stands above `cells`."""
    return ["method", "p", "token ratio", *tasks_of(rows), "mean (95 %)", "to Full (95 %)"]


def tasks_of(rows: list[dict]) -> list[str]:
    """Of all rows; a method may not take them all."""
    return list(dict.fromkeys(task for row in rows for task in row["per_task"]))


def cells(row: dict, tasks: list[str]) -> list[str]:
    """A row in the shape of the paper's Tables 1 and 2: method, ratio, tasks, mean; then the difference to Full."""
    name = f"{row['method']} ({row['preset']})" if row["preset"] else row["method"]
    found = [
        name,
        "-" if row["p"] is None else f"{row['p']:g}",
        f"{100 * row['token_ratio']:.1f} %",
    ]
    found += [
        f"{100 * row['per_task'][task]:.1f}" if task in row["per_task"] else "-" for task in tasks
    ]
    found.append(
        f"**{100 * row['accuracy']:.1f}** ({100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f})"
    )
    if "difference" in row:
        low, high = row["difference_low"], row["difference_high"]
        found.append(f"{100 * row['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
    else:
        found.append("-")
    return found


def markdown(rows: list[dict]) -> str:
    return markdown_table(heads(rows), [cells(row, tasks_of(rows)) for row in rows])
