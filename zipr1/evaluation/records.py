"""One record per answer, stored as JSON lines: records*.jsonl, and answers/*.jsonl while an
evaluation runs."""

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from zipr1.common.documents import FINITE, parse_as
from zipr1.common.errors import InputError
from zipr1.common.files import append, replace

# Names in a file that differ from the fields of a record: those of the first version.
STORED_AS = {"correct": "right"}


@dataclass(frozen=True)
class Record:
    """One answer.

    p: threshold of a Top-p rule, else None. token_ratio: fraction of the prompt's tokens that were
    kept, mean over the sparse layers; layer_ratios: that of each of them, rounded to four digits.
    tokens: length of the prompt under dense attention. grid: (frame pairs, rows, columns) of the visual tokens,
    and kept: per layer a bit mask of them (`packed`); both None under dense attention, for prompts
    with several images or videos, and in files of early versions. reward: the grade or the value of
    the reward function, where `zipr1 eval --data` was asked for one and it applies. clipped: the
    answer had not ended at the largest length.
    """

    __pydantic_config__ = FINITE

    task: str
    id: str
    method: str
    p: float | None
    answer: str
    expected: str
    correct: Annotated[bool, Field(validation_alias=STORED_AS["correct"])]
    token_ratio: Annotated[float, Field(ge=0, le=1 + 1e-6)]  # a mean of ones, but for rounding
    layer_ratios: tuple[float, ...]
    tokens: int
    grid: tuple[int, int, int] | None = None
    kept: tuple[str, ...] | None = None
    reward: float | None = None
    clipped: bool = False


def packed(mask: np.ndarray) -> str:
    """A mask (n,) as base64 of its bits, the first token in the highest bit of the first byte."""
    return base64.b64encode(np.packbits(mask)).decode()


def first(rows: list, count: int) -> list:
    """The first `count` records, or questions, of each task."""
    tasks: dict[str, list] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    return [row for task_rows in tasks.values() for row in task_rows[:count]]


def write_records(records: list[Record], path: Path) -> None:
    """One record a line; the file is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, "".join(json.dumps(stored(record)) + "\n" for record in records))


def append_records(records: list[Record], path: Path) -> None:
    """Adds records to a file, which is created where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    append(path, [stored(record) for record in records])


def stored(record: Record) -> dict:
    """A record as it stands in a file."""
    return {STORED_AS.get(name, name): value for name, value in asdict(record).items()}


def read_records(path: Path) -> list[Record]:
    """Records of this version or an earlier one. Raises InputError with the first faulty line."""
    records, faults = readable_records(path)
    if faults:
        raise InputError(f"{faults[0]}; remove the file and run `zipr1 eval` again")
    return records


def readable_records(path: Path) -> tuple[list[Record], list[str]]:
    """The records of a file, and for each line that is none "file:line: why" (a run that was killed
    leaves half a line). Raises InputError for a file that cannot be read."""
    records, faults = [], []
    for number, line in numbered_lines(path):
        try:
            records.append(parse_as(Record, line))
        except ValueError as error:
            faults.append(f"{path}:{number}: not a record of `zipr1 eval` ({error})")
    return records, faults


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines by line feeds alone: an answer may hold other line separators, such as U+2028."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line)
