"""A row of the paper's tables: one method on the benchmarks of one table."""

from dataclasses import asdict, dataclass
from pathlib import Path

from zipr1.common.documents import FINITE, from_json, read_document, write_document
from zipr1.common.errors import InputError, RunError


class SuiteError(RunError):
    """Some tasks failed; the tables of the others are in `rows` (JSON) and `tables` (text)."""

    def __init__(self, message: str, rows: list[dict], tables: str):
        super().__init__(message)
        self.rows, self.tables = rows, tables


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A method's score on a benchmark, or a mean over benchmarks.

    All lists have one entry for each number that stands by itself (VideoMME: without and with
    subtitles). low, high: 95 % interval. difference: to Full, paired by question. token_ratio: mean
    over questions; questions: their number; unjudged: answers that count as incorrect because no
    rule could parse them. None: does not apply, or not in files of early versions.
    """

    __pydantic_config__ = FINITE

    score: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    difference: list[float] | None = None
    difference_low: list[float] | None = None
    difference_high: list[float] | None = None
    token_ratio: float | None = None
    questions: int | None = None
    unjudged: int | None = None


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One method in one table. token_ratio and mean: over the benchmarks that have a number;
    benchmarks: name -> cell, None where there is none."""

    __pydantic_config__ = FINITE

    table: int
    method: str
    token_ratio: float | None
    benchmarks: dict[str, Cell | None]
    mean: Cell | None = None

    def to_json(self) -> dict:
        """The row in a file or on stdout; a cell has no keys for what does not apply to it."""

        def cell(one: Cell | None) -> dict | None:
            if one is None:
                return None
            return {name: value for name, value in asdict(one).items() if value is not None}

        return {
            "table": self.table,
            "method": self.method,
            "token_ratio": self.token_ratio,
            "benchmarks": {name: cell(one) for name, one in self.benchmarks.items()},
            "mean": cell(self.mean),
        }


def write_paper_rows(
    rows: list[PaperRow], failed: dict[str, str], origin: dict, path: Path
) -> None:
    """tables.json. failed: what has no number -> why."""
    content = {"rows": [row.to_json() for row in rows], "failed": failed}
    write_document(path, "paper_tables", content | origin)


def read_paper_rows(path: Path) -> tuple[list[PaperRow], dict[str, str], dict]:
    """(rows, failed, origin) of a file of `write_paper_rows` or of an earlier version.

    Raises InputError, with the name of the file, for any other.
    """
    value = read_document(path, "paper_tables")
    if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
        raise InputError(f"{path}: no 'rows': not the tables of the suite paper; run it again")
    try:
        rows = [from_json(PaperRow, row) for row in value["rows"]]
    except ValueError as error:
        raise InputError(f"{path}: {error}; run the suite again") from error
    failed = value.get("failed", {})
    if not isinstance(failed, dict):
        raise InputError(f"{path}: 'failed' is no object; run the suite again")
    return rows, failed, {k: v for k, v in value.items() if k not in ("rows", "failed")}
