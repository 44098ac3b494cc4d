"""The usable rows of a data set as a file, and one of their prompts as the model sees it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.common.files import named_failure
from zipr1.data.formats import ANSWERS
from zipr1.data.row import whole
from zipr1.data.rows import Rows
from zipr1.models.loading import tokenizer_of

FORMATS = (".jsonl", ".parquet")
RUN = re.compile(
    r"(<\|?[\w]+(?:_pad|_token)?\|?>)(?:\1)+"
)  # the same special token again and again


def check_target(path: str) -> None:
    """Raises InputError for a file that exists, or whose format rows cannot be written in."""
    if Path(path).suffix not in FORMATS:
        raise InputError(f"write={path}: expected a name that ends in {' or '.join(FORMATS)}")
    if Path(path).exists():
        raise InputError(f"write={path}: exists already; give another name, or delete it")


def write_rows(rows: Rows, numbers: Sequence[int], path: str) -> None:
    """The rows with these numbers, their columns renamed as `columns` says; the file is complete or
    absent. Raises InputError for .jsonl where rows hold the content of media files."""
    target = Path(path)
    partial = target.with_name(f"new-{target.name}")
    with named_failure(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with named_failure(target):
            if target.suffix == ".parquet":
                rows.table.with_format(None).select(numbers).to_parquet(str(partial))
            else:
                write_lines(rows, numbers, partial, path)
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_lines(rows: Rows, numbers: Sequence[int], partial: Path, path: str) -> None:
    with partial.open("w", encoding="utf-8") as file:
        for number in numbers:
            values = {
                name: whole(value) if name in ANSWERS else value
                for name, value in rows.values(number).items()
                if value is not None
            }
            try:
                file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:  # bytes; nan and infinity
                raise InputError(
                    f"write={path}: row number {number} (from 0) holds what JSON cannot ({error}); "
                    "give a name that ends in .parquet"
                ) from error


def shown_prompt(processor, inputs) -> str:
    """The text of a prompt with its special tokens; a run of the same token is written once, with
    its length, as <|image_pad|> x 64."""
    text = tokenizer_of(processor).decode(inputs["input_ids"][0])
    return RUN.sub(lambda run: f"{run[1]} x {len(run[0]) // len(run[1])}", text)
