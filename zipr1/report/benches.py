"""Files of `zipr1 bench`, `bench train` and `bench serve` -> tables for the page."""

import base64
from dataclasses import dataclass
from pathlib import Path

from zipr1.common.documents import read_document
from zipr1.common.errors import InputError

# File -> (its kind, the title of its table).
FILES = {
    "bench.json": ("bench", "Time and memory"),
    "bench_train.json": ("bench_train", "Time of a training step"),
    "serve.json": ("bench serve", "Time of the server"),
}
FIRST = ("phase", "media", "tokens", "batch", "rule", "ratio", "scope")  # what was measured


@dataclass(frozen=True)
class Bench:
    """A table of measurements. same: what is the same in all rows, by name; origin: the whole
    document, which has command, commit, device and versions; picture: bench.png as a data URI, or
    ""."""

    title: str
    head: list[str]
    body: list[list[str]]
    same: dict[str, str]
    origin: dict
    picture: str = ""


def read_bench(path: Path) -> Bench:
    """Raises InputError, with the name of the file, for a file without rows."""
    kind, title = FILES[path.name]
    value = read_document(path, kind)
    rows = value.get("rows") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: no 'rows': not a file of `zipr1 bench`; run it again")
    found = {name for row in rows for name in row}
    first = [name for name in FIRST if name in found]
    names = dict.fromkeys([*first, *(name for row in rows for name in row)])
    columns = {name: [text(row.get(name)) for row in rows] for name in names}
    varying = [name for name, column in columns.items() if len({*column}) > 1]
    if len(rows) == 1:
        varying = [*columns]
    picture = path.with_name("bench.png")
    return Bench(
        title=title,
        head=[name.replace("_", " ") for name in varying],
        body=[[columns[name][number] for name in varying] for number in range(len(rows))],
        same={
            name.replace("_", " "): column[0]
            for name, column in columns.items()
            if name not in varying and column[0]
        },
        origin=value,
        picture=data_uri(picture) if path.name == "bench.json" and picture.is_file() else "",
    )


def text(value: object) -> str:
    """A cell: numbers with four digits; empty for None, lists and mappings."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, str | int) else ""


def data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
