"""JSON files checked before `datasets` reads them: some of what is no list of objects ends the
process in Arrow, and null among rows becomes a row of nulls."""

import json
from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.data.source import short


def check_json(path: Path) -> None:
    """Raises InputError for a file whose rows are not all objects; names file and row.

    A .json file holds a list of objects, or one object a line, as .jsonl does.
    """
    with path.open("rb") as file:
        start = file.read(4096).lstrip()
    if path.suffix == ".jsonl" or start.startswith(b"{"):
        check_lines(path)
    else:
        check_list(path)


def check_lines(path: Path) -> None:
    """Each line that is not empty must hold an object; `datasets` names what is wrong inside."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            line = line.strip()
            if line and not line.startswith(b"{"):
                if number and path.suffix == ".json":  # one object over several lines
                    return check_list(path)
                found = short(line.decode(errors="replace"))
                raise InputError(f"{path}: line {number + 1} is {found}: expected an object")


def check_list(path: Path) -> None:
    """The file must hold a list of objects, or one object."""
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: split 'train' cannot be read (no JSON: {error})") from error
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if not isinstance(row, dict):
            place = f"row {number}" if isinstance(rows, list) else "the file"
            raise InputError(f"{path}: {place} is {short(json.dumps(row))}: expected an object")
