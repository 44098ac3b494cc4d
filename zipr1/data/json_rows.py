"""JSON files checked before `datasets` reads them: some of what is no list of objects ends the
process in Arrow, null among rows becomes a row of nulls, and of a .json file it drops half
characters and the first of two values with the same key."""

import json
import re
from codecs import BOM_UTF8
from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.data.source import short

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of half a character


class Repeated(dict):
    """An object that had a key twice."""

    key = ""


def check_json(path: Path) -> None:
    """Raises InputError for a file whose rows are not all objects; names file and row.

    A .json file holds a list of objects, or one object a line, as .jsonl does.
    """
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(BOM_UTF8).lstrip()
    if path.suffix == ".jsonl" or start.startswith(b"{"):
        check_lines(path)
    else:
        check_list(path)


def check_lines(path: Path) -> None:
    """Each line that is not empty must hold an object; `datasets` names what is wrong inside."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            line = (line if number else line.removeprefix(BOM_UTF8)).strip()
            if line and not line.startswith(b"{"):
                if number and path.suffix == ".json":  # one object over several lines
                    return check_list(path)
                found = short(line.decode(errors="replace"))
                raise InputError(f"{path}: line {number + 1} is {found}: expected an object")
            if SURROGATE.search(line):
                check_characters(line, f"{path}: line {number + 1}")


def check_list(path: Path) -> None:
    """The file must hold a list of objects, or one object."""
    content = path.read_bytes()
    repeated: list[str] = []

    def noted(pairs: list[tuple]) -> dict:
        fields = dict(pairs)
        if len(fields) == len(pairs):
            return fields
        names = [name for name, _ in pairs]
        fields = Repeated(fields)
        fields.key = next(name for name in names if names.count(name) > 1)
        repeated.append(fields.key)
        return fields

    try:
        rows = json.loads(content, object_pairs_hook=noted)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: split 'train' cannot be read (no JSON: {error})") from error
    halves = SURROGATE.search(content) is not None
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        place = f"{path}: row {number}" if isinstance(rows, list) else f"{path}: the file"
        if not isinstance(row, dict):
            raise InputError(f"{place} is {short(json.dumps(row))}: expected an object")
        if repeated and (key := repeated_key(row)) is not None:
            raise InputError(f"{place} has the key {short(key)!r} twice: remove one")
        if halves:
            check_whole_characters(row, place)


def repeated_key(value) -> str | None:
    """The first key that an object in `value` had twice."""
    if isinstance(value, Repeated):
        return value.key
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((key for one in inner if (key := repeated_key(one)) is not None), None)


def check_characters(line: bytes, place: str) -> None:
    """`check_whole_characters` of a line of JSON; `datasets` says what else is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return
    check_whole_characters(row, place)


def check_whole_characters(row: dict, place: str) -> None:
    """Raises InputError for a lone surrogate, as \\ud83d, in the texts of a row."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(error.object[error.start]):04x}"
        raise InputError(
            f"{place} has half a character, {found}: write both halves, or neither"
        ) from error
