"""One record per answer, in a file of JSON lines."""

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Record:
    """One answer: what was asked, under which method, what came, and from which share of the tokens."""

    task: str
    id: str
    method: str
    p: float | None
    answer: str
    expected: str
    right: bool
    token_ratio: float
    layer_ratios: tuple[float, ...]
    tokens: int  # of the prompt, as Full reads it
    # Of sparse methods; None under "full" and in files of earlier versions:
    grid: tuple[int, int, int] | None = (
        None  # frame pairs, rows, columns: the visual tokens in their order
    )
    kept: tuple[str, ...] | None = None  # per layer, a bit a visual token (`packed`)


def packed(mask: np.ndarray) -> str:
    """A mask (n,) as base64 of its bits, the first token in the highest bit of the first byte."""
    return base64.b64encode(np.packbits(mask)).decode()


def first(rows: list, count: int) -> list:
    """The first `count` records, or questions, of each task."""
    tasks: dict[str, list] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    return [row for mine in tasks.values() for row in mine[:count]]


def write_records(records: list[Record], path: Path) -> None:
    """One record a line; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + ".part")
    whole.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    whole.replace(path)


def read_records(path: Path) -> list[Record]:
    """What `write_records` wrote, by this version or an earlier one. Raises ValueError with the line that is no record."""
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: not a record of `zipr1 eval` ({error}); run it again"
            ) from error
    return records
